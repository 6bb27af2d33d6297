import json
import shutil
from pathlib import Path

import pytest
import torch

from mmolre import UserError
from mmolre.bundle import SHIPPED, bundle_digest, load_bundle, model_folder, save_bundle
from mmolre.encoders import from_spec
from mmolre.encoders.weights import SOURCES, WeightSource, sha256
from mmolre.evaluate.calibration import Calibration
from mmolre.evaluate.decision import Decision
from mmolre.evaluate.thresholds import EmotionThresholds
from mmolre.train.start import earlier_model
from tiny_encoders import write_roberta
from tiny_runs import tiny_model


@pytest.fixture
def folder(tiny_run, tmp_path) -> Path:
    """A copy of the tiny run's model that a test may damage."""
    return Path(shutil.copytree(tiny_run.folder / "model", tmp_path / "model"))


def edit(folder: Path, change) -> None:
    path = folder / "pipeline.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_device(tiny_run):
    bundle = load_bundle(tiny_run.folder, device="meta")
    assert {p.device.type for p in bundle.model.parameters()} == {"meta"}
    assert {e.device for e in bundle.encoders.values()} == {"meta"}  # type: ignore[union-attr]
    assert {p.device.type for p in load_bundle(tiny_run.folder).model.parameters()} == {"cpu"}


def test_a_run_and_its_model_folder_are_the_same_bundle(tiny_run):
    run, model = load_bundle(tiny_run.folder), load_bundle(str(tiny_run.folder / "model"))
    assert run.decision == model.decision
    assert run.about == model.about
    state = model.model.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in run.model.state_dict().items())
    assert {m: e.spec for m, e in run.encoders.items()} == {m: e.spec for m, e in model.encoders.items()}
    assert run.encoders["audio"].spec["stride"] == 2
    assert run.encoders["text"].spec["max_tokens"] == 8


def test_the_shipped_model_has_a_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert model_folder("shipped") == SHIPPED
    assert earlier_model("start_from", "shipped") == SHIPPED
    (tmp_path / "shipped").mkdir()
    with pytest.raises(UserError, match=r"and a folder here: that is \./shipped"):
        model_folder("shipped")
    assert model_folder("./shipped") == Path("shipped")


def test_what_is_saved_comes_back(tmp_path, tiny_encoders):
    encoder = from_spec({"modality": "text", "source": str(tiny_encoders["text"]), "layers": [0], "max_tokens": 9})
    decision = Decision(
        True,
        {"text": Calibration((0.5,) * 6, (0.1,) * 6)},
        {"text": EmotionThresholds((0.1,) * 6, (0.2,) * 6, 0.3, 0.4, 0.6)},
    )
    model = tiny_model(("text",))
    save_bundle(tmp_path / "b", model, {"text": encoder}, decision, {"note": "é", "n": 3}, dtype=torch.float16)
    assert {p.suffix for p in (tmp_path / "b").iterdir()} == {".json", ".safetensors"}
    bundle = load_bundle(tmp_path / "b")
    assert bundle.decision == decision
    assert bundle.about == {"note": "é", "n": 3}
    assert bundle.encoders["text"].spec == encoder.spec
    assert bundle.encoders["text"].fingerprint == encoder.fingerprint
    assert bundle.model.config == model.config


def test_other_encoder_weights_are_refused(tiny_run, tmp_path, tiny_encoders):
    other = write_roberta(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"is not the one that the model in .* was trained with"):
        load_bundle(tiny_run.folder, overrides={"text": str(other)})
    moved = shutil.copytree(tiny_encoders["text"], tmp_path / "moved")
    bundle = load_bundle(tiny_run.folder, overrides={"text": str(moved)})
    assert bundle.encoders["text"].source == str(moved)


def test_a_roles_files_among_others(tmp_path, tiny_encoders, monkeypatch):
    files = {path.name: sha256(path) for path in tiny_encoders["text"].iterdir() if path.is_file()}
    source = WeightSource("tiny-role", "text", "for tests", "MIT", 16, files, (("x==1",),))
    monkeypatch.setitem(SOURCES, "tiny-role", source)
    encoder = from_spec({"modality": "text", "source": "tiny-role", "layers": [1], "max_tokens": 9})
    save_bundle(tmp_path / "b", tiny_model(("text",)), {"text": encoder}, Decision(False, {}, {}), {})
    folder = Path(shutil.copytree(tiny_encoders["text"], tmp_path / "snapshot"))
    (folder / "modules.json").write_text("[]")
    assert load_bundle(tmp_path / "b", overrides={"text": str(folder)}).encoders["text"].source == str(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="is not the one"):
        load_bundle(tmp_path / "b", overrides={"text": str(folder)})


def anchor_of_another_modality(content):
    content["decision"]["anchors"] = {"text+audio": {"modality": "smell", "weight": 0.5}}


def anchor_of_no_weight(content):
    content["decision"]["anchors"] = {"text+audio": {"modality": "text", "weight": float("nan")}}


def other_layers(content):
    spec = content["encoders"]["audio"]
    spec["layers"] = [1, *spec["layers"]]
    spec["fingerprint"] = from_spec({k: v for k, v in spec.items() if k != "fingerprint"}).fingerprint


def drop_fingerprint(content):
    del content["encoders"]["text"]["fingerprint"]


def unknown_option(content):
    content["encoders"]["text"]["colour"] = "red"


def unknown_modality(content):
    content["encoders"]["text"]["modality"] = "smell"


def encoders_as_list(content):
    content["encoders"] = list(content["encoders"])


def decision_as_list(content):
    content["decision"] = []


def no_decision(content):
    del content["decision"]


def bad_calibration(content):
    content["decision"]["calibration"] = {"text": {"scale": [1], "bias": []}}


def about_nothing(content):
    content["about"] = None


def one_encoder_less(content):
    del content["encoders"]["audio"]


@pytest.mark.parametrize(
    "damage",
    [
        drop_fingerprint,
        unknown_option,
        unknown_modality,
        encoders_as_list,
        decision_as_list,
        no_decision,
        bad_calibration,
        about_nothing,
        one_encoder_less,
        anchor_of_another_modality,
        anchor_of_no_weight,
        other_layers,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_pipeline_is_said_in_one_line(folder, damage):
    edit(folder, damage)
    with pytest.raises(UserError) as error:
        load_bundle(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 200_000])
def test_a_pipeline_that_is_no_json_object(folder, content):
    (folder / "pipeline.json").write_bytes(content)
    with pytest.raises(UserError, match=r"pipeline.json is damaged"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pipeline.json"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_bundle(folder)


@pytest.mark.parametrize("load", [load_bundle, bundle_digest])
def test_an_empty_name_is_not_the_shipped_model(load, monkeypatch):
    monkeypatch.chdir(SHIPPED)
    with pytest.raises(UserError, match="no model at an empty name"):
        load("")


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="no model at"):
        load_bundle(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no trained model: pipeline.json is missing"):
        load_bundle(tmp_path)


def test_encoders_that_are_gone(folder):
    edit(folder, lambda content: content["encoders"]["text"].update(source="/no/such/folder"))
    with pytest.raises(UserError, match="/no/such/folder") as error:
        load_bundle(folder)
    assert "\n" not in str(error.value)
