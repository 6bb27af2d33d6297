"""Sound to frame-level features.

Whisper is run on the sound alone, never padded to its 30 s: padded and unpadded features differ, so one had to be
chosen, and this one costs a tenth on a usual utterance. One recording is encoded at a time, so none is ever padded.
"""

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mmolre.data.cache import Features
from mmolre.encoders.base import LOCAL, Encoder, to_float16
from mmolre.encoders.ctranslate import load_whisper_encoder
from mmolre.encoders.warp import warped
from mmolre.errors import UserError

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16000
"""Samples a second of every wave here, mono."""

_SHORTEST = 400  # samples: 25 ms, the first window of Whisper and of wav2vec2's kin alike
_SILENT = 3e-4  # of full scale, -70 dB: digital silence, with the noise that hides its steps
_WHISPER_HOP = 320  # samples a frame: mel frames every 10 ms, halved by the second convolution


class AudioError(UserError):
    """A wave that cannot be encoded."""


class AudioEncoder(Encoder):
    """Whisper's encoder (from CTranslate2 or transformers files), or an encoder of raw waves such as Data2Vec-audio.

    Sound longer than Whisper's 30 s is cut into equal windows, whose frames are joined; no window is ever a short rest.

    Args:
        source, layers, device: as for :class:`~mmolre.encoders.base.Encoder`.
        stride: average so many frames into one: 50 frames a second become 12.5 with 4. What is left at the end is
            averaged over what is there.
        warp: Whisper only: as from another speaker, see :func:`~mmolre.encoders.warp.warped`; 1 leaves voices alone.
    """

    modality = "audio"

    def __init__(
        self, source: str, layers: Sequence[int] = (-1,), stride: int = 1, device: str = "cpu", warp: float = 1.0
    ):
        super().__init__(source, layers, device)
        if stride < 1:
            raise UserError(f"audio stride is {stride}: it counts frames, so it is at least 1")
        self.stride = int(stride)
        self.warp = float(warp)
        if self.warp != 1 and not self._is_whisper:
            raise UserError(f"encoder {source!r} reads samples, not a mel spectrogram: its voices cannot be warped")

    @property
    def _options(self) -> dict[str, Any]:
        return {"stride": self.stride} | ({} if self.warp == 1 else {"warp": self.warp})

    @property
    def frame_rate(self) -> float:
        """Features a second, after ``stride``."""
        if self._is_whisper:
            return SAMPLE_RATE / _WHISPER_HOP / self.stride
        return SAMPLE_RATE / math.prod(self._config.conv_stride) / self.stride

    @cached_property
    def _is_ctranslate2(self) -> bool:
        return (self.folder / "model.bin").is_file() and not any(self.folder.glob("*.safetensors"))

    @cached_property
    def _is_whisper(self) -> bool:
        return self._is_ctranslate2 or self._config.model_type == "whisper"

    @cached_property
    def _config(self) -> Any:
        if self._is_ctranslate2:
            return self.module.config
        from transformers import AutoConfig

        with self._loading():
            config = AutoConfig.from_pretrained(self.folder, **LOCAL)
        if config.model_type != "whisper" and not hasattr(config, "conv_stride"):
            raise UserError(f"encoder {self.source!r} is a {config.model_type}, which does not take raw 16 kHz sound")
        return config

    def _load_model(self) -> Any:
        if self._is_ctranslate2:
            return load_whisper_encoder(self.folder / "model.bin")
        whisper = self._is_whisper  # asked first: refuses what takes no sound before its weights are read
        model = super()._load_model()
        return model.encoder if whisper else model

    @cached_property
    def extractor(self) -> Any:
        """What transformers puts before the model: log-mel for Whisper, normalisation for the others."""
        from transformers import AutoFeatureExtractor, WhisperFeatureExtractor

        if self._is_ctranslate2:
            return WhisperFeatureExtractor(feature_size=self._config.num_mel_bins)
        with self._loading():
            return AutoFeatureExtractor.from_pretrained(self.folder, **LOCAL)

    def check(self, item: np.ndarray) -> str | None:
        if item.ndim != 1:
            return f"sound must be mono, one number a sample, not of shape {item.shape}"
        if len(item) < _SHORTEST:
            return f"the sound lasts {1000 * len(item) / SAMPLE_RATE:.1f} ms; at least 25 ms are needed"
        if not np.isfinite(item).all():
            return "the sound holds infinite or undefined samples"
        if np.abs(item).max() < _SILENT:
            return "the sound is silent: leave it out"
        return None

    def encode(self, items: Sequence[np.ndarray]) -> list[Features]:
        """Frame-level features of each wave (float32, mono, 16 kHz, about -1 to 1), in order; never truncated.

        Raises:
            AudioError: a wave that :meth:`check` refuses; says which.
            UserError: the weights are not installed, or cannot be loaded.
        """
        import torch

        _ = self.module  # loaded before inference mode, in which weights are made that no gradient passes
        done = []
        for number, wave in enumerate(items, 1):
            if reason := self.check(wave):
                raise AudioError(f"recording {number} of {len(items)}: {reason}")
            with torch.inference_mode():
                states = self._whisper_states(wave) if self._is_whisper else self._wave_states(wave)
                values = to_float16(_reduce(self._choose(states)[0], self.stride))
            done.append(Features(values, False))
        return done

    def _wave_states(self, wave: np.ndarray) -> "Sequence[torch.Tensor]":
        inputs = self.extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return self.module(inputs["input_values"].to(self.device), output_hidden_states=True).hidden_states

    def _whisper_states(self, wave: np.ndarray) -> "Sequence[torch.Tensor]":
        import torch

        windows = []
        for piece in _windows(wave, self._config.max_source_positions):
            options = {"padding": "do_not_pad", "truncation": False, "return_tensors": "pt"}
            mel = self.extractor(piece, sampling_rate=SAMPLE_RATE, **options)["input_features"]
            mel = mel.to(self.device)
            windows.append(whisper_states(self.module, mel if self.warp == 1 else warped(mel, self.warp)))
        return [torch.cat(layer, dim=1) for layer in zip(*windows, strict=True)]


def whisper_states(encoder: Any, mel: "torch.Tensor") -> "list[torch.Tensor]":
    """Hidden states of transformers' ``WhisperEncoder`` on mel input of any length up to its window.

    Its own ``forward`` takes 30 s and nothing else; this is the same with the positions cut to the input's length.
    Gradients flow; dropout is left out, as it is in Whisper itself.

    Args:
        encoder: a ``WhisperEncoder``.
        mel: (B, mels, M) log-mel frames, M <= 2 · ``max_source_positions``.

    Returns:
        One (B, ceil(M / 2), d) per layer and one more: what enters the first layer, what leaves each; the last one
        after the final layer norm, as transformers counts them.
    """
    import torch.nn.functional as F

    frames = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).permute(0, 2, 1)
    states = [frames + encoder.embed_positions.weight[: frames.shape[1]]]
    for layer in encoder.layers:
        states.append(layer(states[-1], None))
    if len(encoder.layers) == encoder.config.encoder_layers:  # not cut
        states[-1] = encoder.layer_norm(states[-1])
    return states


def _windows(wave: np.ndarray, most_frames: int) -> list[np.ndarray]:
    """Equal windows of whole frames, as few as fit; the last one has what is left over of a frame as well."""
    frames = math.ceil(len(wave) / _WHISPER_HOP)
    count = math.ceil(frames / most_frames)
    bounds = [_WHISPER_HOP * (frames * i // count) for i in range(count)] + [len(wave)]
    return [wave[begin:end] for begin, end in itertools.pairwise(bounds)]


def _reduce(values: "torch.Tensor", stride: int) -> "torch.Tensor":
    """(T, L, d) to (ceil(T / stride), L, d) by the mean over ``stride`` steps, or over the rest at the end."""
    if stride == 1:
        return values
    import torch

    whole = values.shape[0] // stride * stride
    means = values[:whole].unflatten(0, (-1, stride)).mean(1)
    rest = values[whole:]
    return torch.cat([means, rest.mean(0, keepdim=True)]) if len(rest) else means
