"""Frame-level audio features, on tiny encoders of both kinds and on the default one where it is installed."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tiny_encoders
from mmolre.encoders import from_spec
from mmolre.encoders.audio import AudioEncoder, AudioError, _reduce, _windows, whisper_states
from mmolre.encoders.text import TextEncoder
from mmolre.encoders.weights import SOURCES, find
from mmolre.errors import UserError

RATE = 16000


def wave(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=samples)).astype(np.float32)


@pytest.fixture(scope="module")
def data2vec(tmp_path_factory):
    return str(tiny_encoders.write_data2vec_audio(tmp_path_factory.mktemp("data2vec")))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return str(tiny_encoders.write_whisper(tmp_path_factory.mktemp("whisper")))


@pytest.fixture(params=["data2vec", "whisper"])
def folder(request):
    return request.getfixturevalue(request.param)


def test_shapes(folder):
    encoder = AudioEncoder(folder, layers=(0, -1))
    features = encoder.encode([wave(RATE), wave(400), wave(3 * RATE + 77)])
    lengths = [f.values.shape[0] for f in features]
    assert all(abs(n - expected) <= 1 for n, expected in zip(lengths, (50, 1, 150), strict=True))
    assert all(f.values.shape[1:] == (2, 16) and f.values.dtype == np.float16 and not f.truncated for f in features)
    assert (encoder.modality, encoder.n_layers, encoder.width, encoder.frame_rate) == ("audio", 2, 16, 50.0)
    assert encoder.encode([]) == []


def test_company_changes_nothing(folder):
    encoder = AudioEncoder(folder)
    waves = [wave(n, n) for n in (5000, 40000, 16000)]
    for together, alone in zip(encoder.encode(waves), waves, strict=True):
        assert np.array_equal(together.values, encoder.encode([alone])[0].values)


def test_whisper_is_transformers_own_where_that_can_run(whisper):
    import torch

    encoder = AudioEncoder(whisper)
    mel = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = whisper_states(encoder.module, mel)
        theirs = encoder.module(mel, output_hidden_states=True)
    assert len(ours) == len(theirs.hidden_states) == 3
    for one, other in zip(ours, theirs.hidden_states, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(ours[-1], theirs.last_hidden_state)


def test_gradients_reach_every_weight_of_whisper(whisper):
    import torch

    module = AudioEncoder(whisper).module
    whisper_states(module, torch.randn(1, 80, 100))[-1].square().sum().backward()
    missing = {name for name, parameter in module.named_parameters() if parameter.grad is None}
    assert missing <= {"embed_positions.weight"}  # fixed sinusoids


def test_data2vec_is_transformers_own(data2vec):
    import torch

    encoder = AudioEncoder(data2vec, layers=(1, -1))
    sound = 7 + 3 * wave(20000)
    (features,) = encoder.encode([sound])
    normalised = (sound - sound.mean()) / sound.std()
    with torch.inference_mode():
        output = encoder.module(torch.from_numpy(normalised)[None], output_hidden_states=True)
    np.testing.assert_allclose(features.values[:, 0], output.hidden_states[1][0], atol=5e-3)
    np.testing.assert_allclose(features.values[:, 1], output.last_hidden_state[0], atol=5e-3)


def test_sound_longer_than_whispers_window_is_joined_from_equal_windows(whisper):
    encoder = AudioEncoder(whisper)
    sound = wave(31 * RATE)
    (features,) = encoder.encode([sound])
    assert features.values.shape[0] == 1550
    half = 775 * 320
    (first,) = encoder.encode([sound[:half]])
    (second,) = encoder.encode([sound[half:]])
    assert np.array_equal(features.values, np.concatenate([first.values, second.values]))


@example(samples=60 * RATE, most=1500)
@given(samples=st.integers(400, 70 * RATE), most=st.integers(50, 1500))
def test_windows_cover_everything_and_none_is_a_short_rest(samples, most):
    windows = _windows(np.broadcast_to(np.float32(0), samples), most)
    assert sum(map(len, windows)) == samples
    assert len(windows) == math.ceil(math.ceil(samples / 320) / most)
    frames = [math.ceil(len(window) / 320) for window in windows]
    assert max(frames) <= most
    assert max(frames) - min(frames) <= 1
    assert all(len(window) % 320 == 0 for window in windows[:-1])


@given(length=st.integers(1, 40), stride=st.integers(1, 9))
def test_reducing_averages_and_averages_the_rest_over_what_is_there(length, stride):
    import torch

    values = np.random.default_rng(length).normal(size=(length, 2, 3)).astype(np.float32)
    got = _reduce(torch.from_numpy(values), stride).numpy()
    expected = np.stack([values[i : i + stride].mean(0) for i in range(0, length, stride)])
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_stride(folder):
    full = AudioEncoder(folder, layers=(0, -1)).encode([wave(RATE)])[0].values.astype(np.float32)
    encoder = AudioEncoder(folder, layers=(0, -1), stride=4)
    assert encoder.frame_rate == 12.5
    (features,) = encoder.encode([wave(RATE)])
    assert features.values.shape == (13, 2, 16)
    np.testing.assert_allclose(features.values[0], full[:4].mean(0), atol=4e-3)
    np.testing.assert_allclose(features.values[-1], full[48:].mean(0), atol=4e-3)


def test_near_silence_has_features(folder):
    (features,) = AudioEncoder(folder).encode([1e-3 * wave(RATE) / np.abs(wave(RATE)).max()])
    assert np.isfinite(features.values).all()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (wave(399), "lasts 24.9 ms; at least 25 ms"),
        (wave(160), "lasts 10.0 ms"),
        (wave(0), "lasts 0.0 ms"),
        (np.full(RATE, np.nan, np.float32), "infinite or undefined"),
        (np.full(RATE, np.inf, np.float32), "infinite or undefined"),
        (np.zeros((2, RATE), np.float32), "must be mono"),
        (np.zeros(RATE, np.float32), "is silent"),
        (np.resize(np.float32([1, -1]) / 32768, RATE), "is silent"),
    ],
)
def test_what_cannot_be_encoded_says_why(data2vec, bad, reason):
    encoder = AudioEncoder(data2vec)
    assert reason in (encoder.check(bad) or "")
    with pytest.raises(AudioError, match=f"recording 2 of 2: .*{reason}"):
        encoder.encode([wave(RATE), bad])


def test_identity_and_spec(folder):
    encoder = AudioEncoder(folder, layers=(-1,), stride=4)
    again = from_spec(encoder.spec)
    assert isinstance(again, AudioEncoder)
    assert (again.spec, again.fingerprint) == (encoder.spec, encoder.fingerprint)
    assert AudioEncoder(folder).fingerprint != encoder.fingerprint
    assert "module" not in vars(encoder)


def test_wrong_options_say_so(data2vec, tmp_path):
    with pytest.raises(UserError, match="stride is 0"):
        AudioEncoder(data2vec, stride=0)
    with pytest.raises(UserError, match="'minilm' is for text, not for audio"):
        AudioEncoder("minilm")
    with pytest.raises(UserError, match="has no layer 9"):
        AudioEncoder(data2vec, layers=(9,)).encode([wave(RATE)])
    roberta = str(tiny_encoders.write_roberta(tmp_path / "roberta"))
    with pytest.raises(UserError, match="is a roberta, which does not take raw 16 kHz sound"):
        AudioEncoder(roberta).encode([wave(RATE)])
    with pytest.raises(UserError, match="cannot load the text encoder"):
        TextEncoder(data2vec).encode(["good"])


def test_pickled_weights_are_never_opened(tmp_path):
    folder = tiny_encoders.drop_safetensors(tiny_encoders.write_data2vec_audio(tmp_path))
    with pytest.raises(UserError, match="pickled ones are never opened"):
        AudioEncoder(str(folder)).encode([wave(RATE)])


@pytest.mark.encoders
def test_the_default_encoder():
    if find(SOURCES["whisper-tiny-en"]) is None:
        pytest.skip("whisper-tiny-en is not installed: run `mmolre encoders fetch`")
    encoder = AudioEncoder("whisper-tiny-en", layers=(0, 2, -1), stride=4)
    assert (encoder.width, encoder.frame_rate) == (384, 12.5)
    (features,) = encoder.encode([wave(2 * RATE)])
    assert features.values.shape == (25, 3, 384)
    assert np.isfinite(features.values).all()
