"""Every recipe that comes with the project, run by the commands on tiny data: train, evaluate, predict."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmolre import cli
from mmolre.data.feature_file import write_feature_file
from mmolre.schema import EMOTIONS
from tiny_corpus import write_wave
from tiny_encoders import write_whisper

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
WIDTHS = {"audio45": 45, "acoustic": 74, "visual": 47}
COUNTS = {"train": 8, "valid": 4, "test": 4}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Every row has all that any recipe reads; the last test row has features alone."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    rows = []
    for split, count in COUNTS.items():
        for i in range(count):
            name = f"{split}-{i}"
            row = {"id": name, "split": split, "sentiment": 1.5 - 3 * (i % 2), "text": "so very good"}
            row |= {emotion: (i + e) % 2 for e, emotion in enumerate(EMOTIONS)}
            rows.append(row | {"audio": write_wave(folder / f"{name}.wav", 220 + 50 * i).name})
    rows[-1] |= {"text": None, "audio": None}
    for name, width in WIDTHS.items():
        arrays = ((row["id"], draw.normal(size=(3, width))) for row in rows)
        write_feature_file(folder / f"{name}.safetensors", arrays)
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sidecar = {"features": {name: f"{name}.safetensors" for name in WIDTHS}}
    Path(f"{path}.json").write_text(json.dumps(sidecar))
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["mmolre", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return call


@pytest.fixture(scope="module")
def stand_ins(tiny_encoders, tmp_path_factory):
    """Role -> a tiny encoder of its kind."""
    whisper = write_whisper(tmp_path_factory.mktemp("encoders") / "whisper")
    return lambda role, modality: whisper if role.startswith("whisper") else tiny_encoders[modality]


def shrunk(path, stand_ins):
    """The words that make a recipe small enough for a test."""
    smaller = {"training.epochs": 1, "training.precision": "fp32", "model.width": 16, "model.specific_rank": 4}
    for name, part in yaml.safe_load(path.read_text()).get("encoders", {}).items():
        smaller |= {f"encoders.{name}.source": stand_ins(part["source"], name), f"encoders.{name}.layers": "[0, -1]"}
        if "upper" in part:
            smaller[f"encoders.{name}.upper"] = 1
    return ["--cache", "cache", *(word for key, value in smaller.items() for word in ("--set", f"{key}={value}"))]


def before(path):
    """The runs that a recipe needs, each named after its own recipe, the first first."""
    recipe = yaml.safe_load(path.read_text())
    named = [*filter(None, [recipe.get("start_from")]), *recipe.get("teachers", [])]
    return [run for name in named for run in (*before(path.with_name(f"{Path(name).name}.yaml")), name)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_trains_evaluates_and_predicts(run, path, manifest, stand_ins):
    recipe = yaml.safe_load(path.read_text())
    features = sorted(recipe.get("features", {}))
    assert set(features) <= set(WIDTHS), "a new kind of features: give it a width here"
    data = ("--data", manifest)
    for first in before(path):
        earlier = path.with_name(f"{Path(first).name}.yaml")
        code, _, err = run("train", earlier.stem, *data, "--out", first, *shrunk(earlier, stand_ins))
        assert code == 0, err
    code, _, err = run("train", path, *data, "--out", "r", *shrunk(path, stand_ins))
    assert code == 0, err
    names = "+".join([*sorted(recipe.get("encoders", {}), reverse=True), *features])
    code, out, err = run("evaluate", "r", *data, "--cache", "cache", "--json")
    assert code == 0, err
    counts = {names: COUNTS["test"] - (names != "+".join(features))}
    if features and recipe.get("encoders"):
        counts["+".join(features)] = 1
    assert json.loads(out)["modalities"] == counts
    code, _, err = run("predict", "--model", "r", *data, "--out", "p.jsonl")
    predictions = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    read = len(predictions) == sum(COUNTS.values())
    assert (code, read) == ((0, True) if features else (3, False)), err
    assert "+".join(predictions[0]["modalities"]) == names
    tasks = recipe.get("model", {}).get("tasks", ["sentiment", "emotion"])
    assert (predictions[0]["sentiment"] is not None) == ("sentiment" in tasks)
    assert bool(predictions[0]["emotions"]) == ("emotion" in tasks)
    for part in (features[:1], features) if features else ():
        chosen = "+".join(part)
        code, out, err = run("evaluate", "r", *data, "--modalities", chosen, "--json")
        assert code == 0, err
        assert json.loads(out)["modalities"] == {chosen: COUNTS["test"]}
        assert Path(f"r/metrics-test-{chosen}.json").is_file()


def test_modalities_that_the_model_does_not_read(run, manifest):
    settings = ("--set", "training.epochs=1", "--set", "model.width=16", "--set", "model.specific_rank=4")
    code, _, err = run("train", "mosei-audio45", "--data", manifest, "--out", "r", *settings)
    assert code == 0, err
    for wrong in ("text", "audio45+face", ""):
        code, _, err = run("evaluate", "r", "--data", manifest, "--modalities", wrong)
        assert code == 2
        assert err.count("\n") == 1
        assert f"the model does not read '{wrong.rpartition('+')[2]}'; it reads audio45" in err
