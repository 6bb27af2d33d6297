"""Integrated gradients through real encoders (tiny ones), and what the parts add up to."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmolre import EMOTIONS, UserError, Utterance
from mmolre.bundle import load_bundle
from mmolre.data.feature_file import write_feature_file
from mmolre.data.manifest import read_manifest
from mmolre.data.media import load_audio
from mmolre.data.readymade import ReadyMade
from mmolre.encoders.audio import AudioEncoder
from mmolre.evaluate.anchor import Anchor
from mmolre.explain import run
from mmolre.explain.inputs import leaf
from mmolre.predictor import Predictor
from tiny_corpus import write_wave
from tiny_encoders import write_whisper
from tiny_runs import tiny_model

pytest.importorskip("captum", reason="the extra `explain` is not installed")
pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
from mmolre.explain import attribution

TEXT = "i love this movie, so  very good"


@pytest.fixture
def bundle(tiny_run):
    return load_bundle(tiny_run.folder)


@pytest.fixture
def utterance(tmp_path) -> Utterance:
    return Utterance("both", TEXT, write_wave(tmp_path / "a.wav", 330, 0.3))


@pytest.mark.parametrize("late", [False, True])
def test_the_parts_add_up_and_the_scores_are_those_predicted(bundle, utterance, late):
    anchors = {"text+audio": Anchor("text", 0.4)} if late else {}
    decision = bundle.decision
    scaled = {m: replace(c, exclusive=late and m == "audio") for m, c in decision.calibration.items()}
    bundle = replace(bundle, decision=replace(decision, late=late, anchors=anchors, calibration=scaled))
    found = attribution.explain(bundle, utterance, steps=80)
    assert list(found["scores"]) == ["sentiment", *EMOTIONS]
    predicted = next(iter(Predictor(bundle).predict_many([utterance])))
    assert found["scores"]["sentiment"]["value"] == pytest.approx(predicted.sentiment, abs=2e-2)
    assert found["scores"]["fear"]["value"] == pytest.approx(predicted.emotions["fear"], abs=1e-2)
    for name, score in found["scores"].items():
        total = sum(sum(part["attributions"][name]) for part in found["parts"].values())
        assert total == pytest.approx(score["raw"] - score["nothing"] - score["unexplained"], abs=1e-5)
        assert abs(score["unexplained"]) < 0.01 + 0.02 * abs(score["raw"] - score["nothing"])  # completeness
    assert found["parts"]["text"]["places"] == ["i", "love", "this", "movie,", "so"]  # as far as it is read
    assert found["parts"]["audio"]["places"] == ["0.00-0.25 s", "0.25-0.30 s"]
    alone = next(iter(Predictor(bundle).predict_many([Utterance("t", TEXT)])))
    assert found["alone"]["text"]["sentiment"] == pytest.approx(alone.sentiment, abs=2e-2)
    added = found["scores"]["sentiment"]["value"] - found["alone"]["text"]["sentiment"]
    assert found["added"]["audio"]["sentiment"] == pytest.approx(added)
    assert sum(found["weights"]["emotion"].values()) == pytest.approx(1, abs=1e-5)


def test_a_word_that_the_encoder_does_not_know_has_its_share(bundle):
    found = attribution.explain(bundle, Utterance("odd", "love zyxomma"))
    assert found["parts"]["text"]["places"] == ["love", "zyxomma"]
    assert abs(found["parts"]["text"]["attributions"]["sentiment"][1]) > 1e-4
    alone = attribution.explain(bundle, Utterance("odd", "zyxomma"))["scores"]["sentiment"]
    assert abs(alone["raw"] - alone["nothing"]) > 1e-4  # nothing is not what it says itself


@pytest.mark.parametrize("how", ["utterance", "token"])
def test_the_choice_of_experts_is_held(how):
    model = tiny_model(("text",), routing=how, renormalize=True)
    x, y = torch.randn(2, 1, 4, 1, 6)
    masks = {"text": torch.ones(1, 4, dtype=torch.bool)}

    def kept(values: torch.Tensor) -> list[torch.Tensor]:
        return [place.gates > 0 for place in model({"text": values}, masks).routing]

    own, other, plain = kept(x), kept(y), model({"text": x}, masks).tasks["emotion"]
    assert not all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    with attribution.choices_of(model):
        torch.testing.assert_close(model({"text": x}, masks).tasks["emotion"], plain)
        assert all(torch.equal(a, b) for a, b in zip(own, kept(y), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(other, kept(y), strict=True))


def test_a_linear_model_by_hand(bundle, utterance, monkeypatch):
    """Of a score that is linear in the input, the attribution is weight times difference from the baseline."""
    text = leaf(bundle.encoders["text"], utterance, bundle.model)
    assert text is not None
    weight = torch.linspace(-1, 1, text.value.shape[-1])
    monkeypatch.setattr(attribution, "leaf", lambda *_: text._replace(features=lambda x: x[:, :, None]))
    monkeypatch.setattr(attribution, "scores", lambda _, f: (f["text"][:, :, 0] @ weight).sum(1, keepdim=True))
    monkeypatch.setattr(attribution, "score_names", lambda _: ["sentiment"])
    monkeypatch.setattr(bundle.model, "forward", lambda *_: type("O", (), {"modality_weights": {}}))
    found = attribution.explain(replace(bundle, encoders={"text": bundle.encoders["text"]}), utterance, steps=4)
    expected = ((text.value - text.baseline)[0] @ weight)[1:-1]  # all but the special tokens, a token a word but one
    given = found["parts"]["text"]["attributions"]["sentiment"]
    assert given[:3] == pytest.approx(expected[:3].tolist(), abs=1e-5)
    assert given[3] == pytest.approx(expected[3:5].sum().item(), abs=1e-5)  # "movie" and ","


@pytest.mark.parametrize("windows", [1, 2])
def test_the_way_through_whisper_is_the_encoders_own(tmp_path, windows, monkeypatch):
    encoder = AudioEncoder(str(write_whisper(tmp_path / "whisper")), (0, -1), stride=3)
    if windows == 2:
        monkeypatch.setattr(encoder._config, "max_source_positions", 20)
    path = write_wave(tmp_path / "a.wav", 330, 0.6)
    found = leaf(encoder, Utterance("a", None, path), tiny_model())
    assert found is not None
    with torch.no_grad():
        own = found.features(found.value)[0].numpy()
    (expected,) = encoder.encode([load_audio(path)])
    np.testing.assert_allclose(own, expected.values, atol=5e-3)
    assert found.value.shape == found.baseline.shape
    assert len(found.places) == 3


def test_ready_made_features(tmp_path):
    write_feature_file(tmp_path / "f.safetensors", [("a", np.array([[1.0, np.nan, 3.0]], np.float32))])
    utterance = Utterance("a", features={"audio45": tmp_path / "f.safetensors"})
    model = tiny_model(("text",))
    model.inputs["audio45"] = model.inputs["text"]
    found = leaf(ReadyMade("audio45"), utterance, model)
    assert found is not None
    assert found.places == ["all of it"]
    np.testing.assert_array_equal(found.value[0, 0, 0], [1, 0, 3])  # what is not finite is the baseline
    assert found.by_place(found.value - found.baseline) == [4]
    assert leaf(ReadyMade("audio45"), Utterance("b", "text"), model) is None


def test_files_and_bad_options(bundle, tiny_run, tiny_corpus, tmp_path):
    out = tmp_path / "out"
    told: list[str] = []
    assert run.explain([str(tiny_run.folder)], out, text="i love this", tell=told.append) == 0
    assert {path.name for path in out.iterdir()} == {f"utterance.{kind}" for kind in ("json", "png", "svg")}
    content = json.loads((out / "utterance.json").read_text())
    assert "added" not in content
    svg = (out / "utterance.svg").read_text()
    assert ">love<" in svg
    assert "sentiment" in svg
    failed = run.explain([str(tiny_run.folder)], out, data=[tiny_corpus], split="train")
    assert failed == 1
    places = json.loads((out / "routing.json").read_text())["places"]
    assert {place["modality"] for place in places} == {"text", "audio"}
    wanted = next(u.id for u in read_manifest(tiny_corpus) if len(u.modalities) == 2)
    run.explain([str(tiny_run.folder)], out, data=[tiny_corpus], wanted=wanted)
    assert "what each modality added" in (out / "utterance.svg").read_text()
    (out / "routing.json").unlink()
    assert run.explain([str(tiny_run.folder)], out, data=[tiny_corpus], text="i love this") == 0
    assert (out / "routing.json").exists()
    assert ">love<" in (out / "utterance.svg").read_text()
    for options, message in (
        ({}, "nothing to explain"),
        ({"wanted": "a"}, "looked up in --data"),
        ({"data": [tiny_corpus], "wanted": "nobody"}, "no utterance 'nobody'"),
        ({"text": " "}, "empty"),
    ):
        with pytest.raises(UserError, match=message):
            run.explain([str(tiny_run.folder)], out, **options)
    other = shutil.copytree(tiny_run.folder, tmp_path / "other")
    with pytest.raises(UserError, match="logged no task conflict"):
        run.explain([str(tiny_run.folder), str(other)], out)
