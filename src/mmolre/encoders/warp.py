"""The same words from a longer or shorter throat: a mel spectrogram with its frequencies scaled."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_TOP = 8000.0  # Hz: Whisper's filters end there
_SCALED = 4800.0  # Hz: formants that matter lie below


def warped(mel: "torch.Tensor", warp: float) -> "torch.Tensor":
    """What stood at frequency ``warp`` · f, at f: vocal tract length perturbation (Jaitly & Hinton, 2013).

    Scaled up to where 4.8 kHz lie on either side, linear from there to 8 kHz, which stays. Whisper's filters stand
    evenly on Slaney's mel scale; between two of them values are linear, beyond the outer ones constant.

    Args:
        mel: (B, mels, M), log-mel as Whisper reads it.
        warp: above 1 as from a longer vocal tract (a deeper voice), below 1 from a shorter one.

    Returns:
        (B, mels, M).
    """
    import torch

    below, share = _places(mel.shape[1], warp)
    weight = torch.from_numpy(share).to(mel)[None, :, None]
    return mel[:, below] * (1 - weight) + mel[:, below + 1] * weight


@lru_cache(maxsize=64)
def _places(mels: int, warp: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Per filter, the filter below the frequency that it takes its value from, and how far that lies above it."""
    from transformers.audio_utils import hertz_to_mel, mel_to_hertz

    step = hertz_to_mel(_TOP, mel_scale="slaney") / (mels + 1)
    hertz = mel_to_hertz(step * np.arange(1, mels + 1), mel_scale="slaney")
    scaled = _SCALED * min(warp, 1.0)
    slope = (_TOP - scaled) / (_TOP - scaled / warp)
    taken = np.where(hertz <= scaled / warp, hertz * warp, _TOP - slope * (_TOP - hertz))
    place = np.clip(hertz_to_mel(taken, mel_scale="slaney") / step - 1, 0, mels - 1)
    below = np.minimum(place.astype(np.int64), mels - 2)
    return below, place - below
