"""Token-level text features, on a tiny RoBERTa and on the default encoder where it is installed."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_encoders
from mmolre.encoders import from_spec
from mmolre.encoders.text import _BATCH_TOKENS, TextEncoder, TextError, _batches
from mmolre.encoders.weights import SOURCES, find
from mmolre.errors import UserError

TEXTS = ["I love this movie!", "bad", "so very very good, and so very very bad.", "not a bad movie", "?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_encoders.write_roberta(tmp_path_factory.mktemp("roberta"), width=16, layers=2, window=20))


@pytest.fixture(scope="module")
def encoder(folder):
    return TextEncoder(folder, layers=(0, 1, -1))


def test_shapes(encoder):
    features = encoder.encode(TEXTS)
    # <s> tokens </s>: the special tokens are time steps too
    assert [f.values.shape for f in features] == [(n + 2, 3, 16) for n in (5, 1, 11, 4, 1)]
    assert all(f.values.dtype == np.float16 and not f.truncated for f in features)
    assert (encoder.modality, encoder.n_layers, encoder.width) == ("text", 3, 16)
    assert encoder.encode([]) == []


def test_layers_are_those_of_the_model(encoder):
    import torch

    (features,) = encoder.encode(TEXTS[:1])
    tokens = torch.tensor([encoder.tokenizer(TEXTS[0])["input_ids"]])
    with torch.inference_mode():
        output = encoder.module(input_ids=tokens, output_hidden_states=True)
    for place, layer in enumerate((0, 1, 2)):
        np.testing.assert_allclose(features.values[:, place], output.hidden_states[layer][0], atol=2e-3)
    np.testing.assert_allclose(features.values[:, 2], output.last_hidden_state[0], atol=2e-3)


def test_padding_changes_nothing(encoder):
    together = encoder.encode(TEXTS)
    for text, batched in zip(TEXTS, together, strict=True):
        (alone,) = encoder.encode([text])
        np.testing.assert_allclose(alone.values, batched.values, atol=4e-3)


def test_order_is_kept_over_several_batches(encoder, monkeypatch):
    expected = encoder.encode(TEXTS)
    monkeypatch.setattr("mmolre.encoders.text._BATCH_TOKENS", 12)
    for got, want in zip(encoder.encode(TEXTS), expected, strict=True):
        np.testing.assert_allclose(got.values, want.values, atol=4e-3)


@given(st.lists(st.integers(1, 600), max_size=200))
def test_batches_hold_everything_once_and_little_padding(lengths):
    batches = list(_batches(lengths))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= _BATCH_TOKENS


def test_a_long_text_is_cut_at_the_window_and_flagged(folder, encoder):
    assert encoder.window == 20
    fits, cut, short = encoder.encode(["bad " * 18, "bad " * 10_000, "bad"])
    assert (fits.values.shape[0], fits.truncated) == (20, False)
    assert (cut.values.shape[0], cut.truncated) == (20, True)
    assert not short.truncated
    np.testing.assert_allclose(fits.values, cut.values, atol=4e-3)  # </s> is still the last token
    (shorter,) = TextEncoder(folder, max_tokens=4).encode(["bad " * 3])
    assert (shorter.values.shape[0], shorter.truncated) == (4, True)
    assert TextEncoder(folder, max_tokens=1000).window == 20


def test_the_window_is_the_models_where_the_tokenizer_knows_none(tmp_path):
    folder = tiny_encoders.write_roberta(tmp_path, window=20)
    tiny_encoders.rewrite_json(folder / "tokenizer_config.json", model_max_length=10**30)
    (features,) = TextEncoder(str(folder)).encode(["bad " * 100])
    assert (features.values.shape[0], features.truncated) == (20, True)


def test_values_beyond_float16_are_brought_to_its_ends(tmp_path):
    folder = tiny_encoders.write_roberta(tmp_path)
    encoder = TextEncoder(str(folder))
    encoder.module.encoder.layer[-1].output.LayerNorm.weight.data.fill_(1e6)  # type: ignore[union-attr, index]
    (features,) = encoder.encode(["bad"])
    assert np.isfinite(features.values).all()
    assert np.abs(features.values).max() == np.finfo(np.float16).max


def test_identity_needs_no_loading(folder):
    encoder = TextEncoder(folder, layers=[-1])
    assert len(encoder.fingerprint) == 64
    assert (encoder.width, encoder.n_layers, encoder.check("bad")) == (16, 1, None)
    assert "module" not in vars(encoder)
    assert "tokenizer" not in vars(encoder)


def test_the_fingerprint_of_a_role_needs_no_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MMOLRE_HOME", str(tmp_path))
    encoder = TextEncoder("mpnet")
    assert len(encoder.fingerprint) == 64
    assert encoder.width == 768


def test_the_fingerprint_follows_weights_tokenizer_and_options(tmp_path):
    one = tiny_encoders.write_roberta(tmp_path / "one", seed=0)
    same = tiny_encoders.write_roberta(tmp_path / "same", seed=0)
    other = tiny_encoders.write_roberta(tmp_path / "other", seed=1)
    reference = TextEncoder(str(one)).fingerprint
    assert TextEncoder(str(same)).fingerprint == reference
    tiny_encoders.rewrite_json(same / "tokenizer_config.json", model_max_length=9)
    variants = [
        TextEncoder(str(other)),
        TextEncoder(str(same)),
        TextEncoder(str(one), layers=(0,)),
        TextEncoder(str(one), layers=(-1, 0)),
        TextEncoder(str(one), max_tokens=9),
    ]
    assert len({reference, *(encoder.fingerprint for encoder in variants)}) == 6


def test_the_spec_builds_the_same_encoder(folder):
    encoder = TextEncoder(folder, layers=(0, -1), max_tokens=7)
    again = from_spec(encoder.spec)
    assert isinstance(again, TextEncoder)
    assert (again.spec, again.fingerprint) == (encoder.spec, encoder.fingerprint)
    with pytest.raises(UserError, match="'video'"):
        from_spec({"modality": "video", "source": "x"})


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u200b", "\x00"])
def test_an_empty_text_is_refused(encoder, text):
    assert encoder.check(text) == "the text is empty"
    with pytest.raises(TextError, match="text 2 of 3: the text is empty"):
        encoder.encode(["good", text, "bad"])


@pytest.mark.parametrize("text", ["это было хорошо", "这部电影很好", "真的 so good 这部电影很好看", "αβγ!"])
def test_an_english_encoder_refuses_other_alphabets(encoder, text):
    assert "not in Latin letters, and encoder 'minilm' knows English only" in (TextEncoder("minilm").check(text) or "")
    assert encoder.check(text) is None  # of a stranger's encoder nothing is known


@pytest.mark.parametrize(
    "text", ["I loved it", "It was très naïve…", "ＧＯＯＤ", "10/10", "👍👍", "π is fine by me", "!"]
)
def test_an_english_encoder_takes_what_is_mostly_latin(text):
    assert TextEncoder("minilm").check(text) is None


def test_a_lone_surrogate_is_refused(encoder):
    assert "not valid Unicode" in (encoder.check("good \ud800") or "")


def test_wrong_options_say_so(folder):
    with pytest.raises(UserError, match="at least one layer"):
        TextEncoder(folder, layers=())
    with pytest.raises(UserError, match="max_tokens is 2"):
        TextEncoder(folder, max_tokens=2)
    with pytest.raises(UserError, match=r"'whisper-tiny-en' is for audio, not for text"):
        TextEncoder("whisper-tiny-en")
    with pytest.raises(UserError, match=r"has no layer 3: it has 0 to 2"):
        TextEncoder(folder, layers=(0, 3)).encode(["bad"])
    with pytest.raises(UserError, match=r"has no layer -4"):
        TextEncoder(folder, layers=(-4,)).encode(["bad"])


def test_pickled_weights_are_never_opened(tmp_path):
    folder = tiny_encoders.drop_safetensors(tiny_encoders.write_roberta(tmp_path))
    with pytest.raises(UserError, match=r"no \.safetensors weights .* pickled ones are never opened"):
        TextEncoder(str(folder)).encode(["bad"])


def test_a_folder_that_is_no_encoder_says_so_in_one_line(tmp_path, capfd):
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot load the text encoder") as caught:
        TextEncoder(str(tmp_path)).encode(["bad"])
    assert "\n" not in str(caught.value)


def test_loading_prints_nothing(folder, capfd):
    TextEncoder(folder).encode(["bad " * 100])
    assert capfd.readouterr() == ("", "")


def test_importing_the_encoders_does_not_import_torch():
    import subprocess

    code = (
        "import sys, mmolre.encoders.text, mmolre.encoders.audio, mmolre.encoders.extract, mmolre.encoders.fetch\n"
        "from mmolre.encoders.text import TextEncoder\n"
        "TextEncoder('minilm').fingerprint\n"
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.encoders
def test_the_default_encoder():
    if find(SOURCES["minilm"]) is None:
        pytest.skip("minilm is not installed: run `mmolre encoders fetch`")
    encoder = TextEncoder("minilm")
    assert encoder.window == 512
    texts = ["What a wonderful film, I loved it.", "A great movie, it was lovely.", "The bus leaves at noon. " * 200]
    good, alike, long = encoder.encode(texts)
    assert good.values.shape == (11, 1, 384)
    assert (long.values.shape, long.truncated) == ((512, 1, 384), True)

    def pooled(features):
        mean = features.values.astype(np.float32).mean((0, 1))
        return mean / np.linalg.norm(mean)

    assert pooled(good) @ pooled(alike) > 0.5 > pooled(good) @ pooled(long)


def test_upper_case_throughout_is_read_in_lower_case(folder, tmp_path):
    cased = shutil.copytree(folder, tmp_path / "cased")
    path = cased / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": None}))
    encoder = TextEncoder(str(cased), lower_if_upper=True, tokens=True)
    shouted, said, mixed = (f.values.tolist() for f in encoder.encode(["I LOVE THIS", "i love this", "I love THIS"]))
    assert shouted == said != mixed
    plain = TextEncoder(str(cased), tokens=True)
    assert plain.encode(["I LOVE THIS"])[0].values.tolist() != said
    assert plain.fingerprint != encoder.fingerprint
    assert from_spec(encoder.spec).fingerprint == encoder.fingerprint


def test_a_folder_s_own_code_is_never_run(tmp_path, monkeypatch):
    tiny_encoders.write_roberta(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.C", "AutoModel": "modeling_own.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    with pytest.raises(UserError, match="cannot load the text encoder"):
        TextEncoder(str(tmp_path)).encode(["a"])
    assert not (tmp_path / "ran").exists()


def test_weights_under_other_names_are_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tiny_encoders.write_roberta(tmp_path)
    weights = folder / "model.safetensors"
    save_file({f"0.auto_model.{name}": x for name, x in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"\d+ of its weights are not in .*, e\.g\. embeddings"):
        TextEncoder(str(folder)).encode(["bad"])


def test_a_pooler_is_not_missed(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tiny_encoders.write_roberta(tmp_path)
    weights = folder / "model.safetensors"
    before = TextEncoder(str(folder)).encode(["bad"])[0].values
    left = {name: x for name, x in load_file(weights).items() if "pooler" not in name}
    save_file(left, weights, {"format": "pt"})
    assert np.array_equal(TextEncoder(str(folder)).encode(["bad"])[0].values, before)
