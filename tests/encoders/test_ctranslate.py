"""Whisper's encoder out of a CTranslate2 file: exact where sound, one clear error where not."""

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmolre.encoders.ctranslate import dequantized, load_whisper_encoder, read_variables
from mmolre.errors import UserError

TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "bfloat16": 5}


def model_bytes(variables: dict[str, np.ndarray], aliases: dict[str, str] | None = None, bfloat16: tuple = ()) -> bytes:
    """A model.bin, written by the layout that CTranslate2's converter documents."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    out = [struct.pack("<I", 6), string("WhisperSpec"), struct.pack("<I", 3), struct.pack("<I", len(variables))]
    for name, values in variables.items():
        kind = "bfloat16" if name in bfloat16 else values.dtype.name
        out += [string(name), struct.pack("<B", values.ndim), *(struct.pack("<I", n) for n in values.shape)]
        out += [struct.pack("<B", TYPES[kind]), struct.pack("<I", values.nbytes), values.tobytes()]
    out.append(struct.pack("<I", len(aliases or {})))
    for alias, name in (aliases or {}).items():
        out += [string(alias), string(name)]
    return b"".join(out)


def whisper_variables(encoder, heads: int) -> dict[str, np.ndarray]:
    """What CTranslate2's converter makes of transformers' encoder."""
    state = {name: value.detach().numpy() for name, value in encoder.state_dict().items()}
    out = {"encoder/num_heads": np.array(heads, np.int16)}

    def copy(theirs, ours, names=("weight", "bias")):
        for name, parameter in zip(names, ("weight", "bias"), strict=True):
            out[f"encoder/{theirs}/{name}"] = state[f"{ours}.{parameter}"]

    copy("conv1", "conv1")
    copy("conv2", "conv2")
    copy("layer_norm", "layer_norm", ("gamma", "beta"))
    out["encoder/position_encodings/encodings"] = state["embed_positions.weight"]
    for i in range(len(encoder.layers)):
        attention = f"layers.{i}.self_attn"
        copy(f"layer_{i}/self_attention/layer_norm", f"layers.{i}.self_attn_layer_norm", ("gamma", "beta"))
        fused = f"encoder/layer_{i}/self_attention/linear_0"
        out[f"{fused}/weight"] = np.concatenate([state[f"{attention}.{part}_proj.weight"] for part in "qkv"])
        bias = state[f"{attention}.q_proj.bias"], state[f"{attention}.v_proj.bias"]
        out[f"{fused}/bias"] = np.concatenate([bias[0], np.zeros_like(bias[0]), bias[1]])
        copy(f"layer_{i}/self_attention/linear_1", f"{attention}.out_proj")
        copy(f"layer_{i}/ffn/layer_norm", f"layers.{i}.final_layer_norm", ("gamma", "beta"))
        copy(f"layer_{i}/ffn/linear_0", f"layers.{i}.fc1")
        copy(f"layer_{i}/ffn/linear_1", f"layers.{i}.fc2")
    return dict(sorted(out.items()))


@pytest.fixture(scope="module")
def encoder():
    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(0)
    encoder = WhisperEncoder(
        WhisperConfig(
            d_model=8,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=12,
            num_mel_bins=4,
            max_source_positions=10,
        )
    )
    for parameter in encoder.parameters():  # norms and biases too, which begin as ones and zeros
        parameter.data = torch.randn_like(parameter)
    return encoder.eval()


def test_the_state_comes_back_exactly(encoder, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(model_bytes(whisper_variables(encoder, 2)))
    loaded = load_whisper_encoder(path)
    assert not loaded.training
    assert loaded.config.encoder_attention_heads == 2
    expected, got = encoder.state_dict(), loaded.state_dict()
    assert expected.keys() == got.keys()
    assert all((expected[name] == got[name]).all() for name in expected)


def test_storage_types(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 4, 3)).astype(np.float32)
    scale = (127 / np.abs(values).max(axis=(1, 2))).astype(np.float32)
    wide = np.float32(1024 / np.abs(values).max())
    variables = {
        "f4": values,
        "f2": values.astype(np.float16),
        "b2": (values.view(np.uint32) >> 16).astype(np.uint16),
        "i1": np.rint(values * scale[:, None, None]).astype(np.int8),
        "i1_scale": scale,
        "i2": np.rint(values * wide).astype(np.int16),
        "i2_scale": np.array(wide),
    }
    path = tmp_path / "model.bin"
    path.write_bytes(model_bytes(variables, {"alias": "f4"}, bfloat16=("b2",)))
    read = read_variables(path)
    assert read["alias"] is read["f4"]
    assert not read["f4"].flags.writeable
    for name, tolerance in {"f4": 0, "f2": 1e-3, "b2": 1e-2, "i1": 0.02, "i2": 0.002}.items():
        got = dequantized(read, name)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, values, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def sound_bytes(encoder):
    return model_bytes(whisper_variables(encoder, 2), {"alias": "encoder/conv1/bias"})


def test_a_file_cut_off_anywhere_is_refused(sound_bytes, tmp_path):
    path = tmp_path / "model.bin"
    cuts = {*range(200), *range(0, len(sound_bytes), 97), len(sound_bytes) - 1}
    for cut in sorted(cuts):
        path.write_bytes(sound_bytes[:cut])
        with pytest.raises(UserError, match=r"model\.bin is not a sound CTranslate2 model") as caught:
            read_variables(path)
        assert "\n" not in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
@given(where=st.integers(0, 10**6), noise=st.binary(min_size=1, max_size=6))
def test_damage_anywhere_gives_a_clear_error_or_a_model(sound_bytes, tmp_path_factory, where, noise):
    damaged = bytearray(sound_bytes)
    where %= 400 if where % 2 else len(damaged)
    damaged[where : where + len(noise)] = noise
    path = tmp_path_factory.mktemp("damaged") / "model.bin"
    path.write_bytes(damaged)
    with contextlib.suppress(UserError):
        load_whisper_encoder(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoder/num_heads": np.array(0, np.int16)}, ""),
        ({"encoder/num_heads": np.array(3, np.int16)}, ""),
        ({"encoder/conv1/weight": np.zeros((8, 4), np.float32)}, "unpack"),
        ({"encoder/layer_norm/gamma": np.zeros(7, np.float32)}, "Whisper encoder"),
        ({"encoder/conv1/bias_scale": np.zeros((), np.float32)}, "not positive"),
    ],
)
def test_what_is_no_whisper_is_refused(encoder, tmp_path, change, reason):
    path = tmp_path / "model.bin"
    path.write_bytes(model_bytes({**whisper_variables(encoder, 2), **change}))
    with pytest.raises(UserError, match=f"does not hold a Whisper encoder: .*{reason}|Whisper encoder"):
        load_whisper_encoder(path)


def test_a_pickle_is_refused_and_not_opened(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch %s/owned'\ntR." % str(tmp_path).encode())
    with pytest.raises(UserError, match="binary version"):
        load_whisper_encoder(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.encoders
def test_parity_with_ctranslate2():
    ctranslate2 = pytest.importorskip("ctranslate2")
    import torch

    from mmolre.encoders.audio import AudioEncoder, whisper_states
    from mmolre.encoders.weights import SOURCES, find

    if find(SOURCES["whisper-tiny-en"]) is None:
        pytest.skip("whisper-tiny-en is not installed: run `mmolre encoders fetch`")
    ours = AudioEncoder("whisper-tiny-en")
    theirs = ctranslate2.models.Whisper(str(ours.folder), device="cpu", compute_type="float32")
    mel = np.random.default_rng(0).normal(size=(1, 80, 301)).astype(np.float32)
    expected = np.array(theirs.encode(ctranslate2.StorageView.from_array(mel)))
    with torch.inference_mode():
        got = whisper_states(ours.module, torch.from_numpy(mel))[-1].numpy()
    assert json.loads((ours.folder / "config.json").read_text())["alignment_heads"]  # CTranslate2's own config
    np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.encoders
def test_encoding_first_does_not_cost_the_gradients():
    import torch

    from mmolre.encoders.audio import AudioEncoder, whisper_states
    from mmolre.encoders.weights import SOURCES, find

    if find(SOURCES["whisper-tiny-en"]) is None:
        pytest.skip("whisper-tiny-en is not installed: run `mmolre encoders fetch`")
    encoder = AudioEncoder("whisper-tiny-en")  # loaded by what encodes first, in inference mode
    encoder.encode([np.full(16_000, 0.1, np.float32)])
    mel = torch.zeros(1, 80, 100, requires_grad=True)
    whisper_states(encoder.module, mel)[-1].sum().backward()
    assert mel.grad is not None
