"""Voices as from other vocal tracts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_encoders
from mmolre.encoders import from_spec
from mmolre.encoders.audio import AudioEncoder
from mmolre.encoders.warp import warped
from mmolre.errors import UserError

RATE = 16000
warps = st.floats(0.5, 2)


def slaney(hertz: float) -> float:
    """Slaney's mels, written out: linear below 1 kHz, 27 to a factor of 6.4 above."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def hertz_of(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def slow(mel: np.ndarray, warp: float) -> np.ndarray:
    """(mels, M), filter by filter, by the formula of Jaitly and Hinton."""
    n = len(mel)
    step = slaney(8000) / (n + 1)
    out = np.empty_like(mel)
    for k in range(n):
        f = hertz_of(step * (k + 1))
        edge = 4800 * min(warp, 1) / warp
        g = f * warp if f <= edge else 8000 - (8000 - 4800 * min(warp, 1)) / (8000 - edge) * (8000 - f)
        for m in range(mel.shape[1]):
            out[k, m] = np.interp(slaney(g) / step - 1, np.arange(n), mel[:, m])
    return out


@given(warp=warps, seed=st.integers(0, 99), mels=st.sampled_from([2, 16, 80, 128]), frames=st.integers(1, 3))
def test_as_the_formula_says(warp, seed, mels, frames):
    mel = np.random.default_rng(seed).normal(size=(mels, frames))
    np.testing.assert_allclose(warped(torch.from_numpy(mel)[None], warp)[0].numpy(), slow(mel, warp), atol=1e-9)


def test_one_changes_nothing_and_company_neither():
    mel = torch.randn(3, 80, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(warped(mel, 1.0), mel, atol=1e-5, rtol=0)
    assert torch.equal(warped(mel, 1.1)[1:2], warped(mel[1:2], 1.1))
    assert warped(mel, 0.9).dtype == mel.dtype


@given(warp=st.floats(0.8, 1.25))
def test_the_warp_back_restores_what_is_smooth(warp):
    smooth = torch.sin(torch.linspace(0, 6, 80, dtype=torch.float64))[None, :, None]
    back = warped(warped(smooth, warp), 1 / warp)
    torch.testing.assert_close(back[:, 2:-2], smooth[:, 2:-2], atol=0.05, rtol=0)


@pytest.mark.parametrize(("warp", "hertz"), [(1.25, 800), (0.8, 1250)])
def test_a_tone_goes_down_with_a_longer_tract_and_up_with_a_shorter(tmp_path, warp, hertz):
    encoder = AudioEncoder(str(tiny_encoders.write_whisper(tmp_path / "whisper")))

    def mel(f: float) -> torch.Tensor:
        wave = 0.1 * np.sin(2 * np.pi * f * np.arange(RATE) / RATE).astype(np.float32)
        return encoder.extractor(wave, sampling_rate=RATE, padding="do_not_pad", return_tensors="pt")["input_features"]

    before, after, expected = mel(1000), warped(mel(1000), warp), mel(hertz)
    peaks = [int(x.mean(2).argmax()) for x in (before, after, expected)]
    assert abs(peaks[1] - peaks[2]) <= 1 < abs(peaks[1] - peaks[0])


def test_of_an_encoder(tmp_path):
    folder = str(tiny_encoders.write_whisper(tmp_path / "whisper"))
    wave = (0.1 * np.random.default_rng(0).normal(size=RATE)).astype(np.float32)
    plain, longer = AudioEncoder(folder, stride=2), AudioEncoder(folder, stride=2, warp=1.1)
    assert AudioEncoder(folder, stride=2, warp=1).fingerprint == plain.fingerprint != longer.fingerprint
    assert plain.spec == {"modality": "audio", "source": folder, "layers": [-1], "stride": 2}
    (before,), (after,) = plain.encode([wave]), longer.encode([wave])
    assert before.values.shape == after.values.shape
    assert not np.array_equal(before.values, after.values)
    (again,) = from_spec(longer.spec).encode([wave])
    np.testing.assert_array_equal(after.values, again.values)


def test_samples_cannot_be_warped(tmp_path):
    folder = str(tiny_encoders.write_data2vec_audio(tmp_path / "data2vec"))
    with pytest.raises(UserError, match="reads samples, not a mel spectrogram: its voices cannot be warped"):
        AudioEncoder(folder, warp=1.1)
