"""Ready-made features as modalities: from a manifest that points to arrays to a trained model and back."""

import json
import warnings

import numpy as np
import pytest

from mmolre.bundle import load_bundle
from mmolre.data.feature_file import write_feature_file
from mmolre.data.readymade import ReadyMade, _windowed_mean
from mmolre.errors import UserError
from mmolre.evaluate.run import evaluate
from mmolre.predictor import Predictor
from mmolre.schema import Utterance
from mmolre.train.recipe import Recipe
from mmolre.train.run import train

SPLITS = {"train": 40, "valid": 16, "test": 16}


def write_features_corpus(folder, bad=False):
    """Two kinds of features of unequal widths; `face` is there for every other row; its column 0 is the sentiment."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    lines, voice, face = [], [], []
    for split, count in SPLITS.items():
        for i in range(count):
            sentiment = float(rng.uniform(-3, 3))
            name = f"{split}-{i}"
            lines.append({"id": name, "split": split, "text": "x", "sentiment": sentiment})
            voice.append((name, rng.normal(1000, 50, (rng.integers(1, 7), 3))))
            if i % 2 == 0:
                values = rng.normal(0, 1, (4, 5))
                values[:, 0] = 100 + 20 * sentiment
                if bad and i == 0:
                    values[1:3] = np.nan
                    values[3, 2] = np.inf
                face.append((name, values))
    write_feature_file(folder / "voice.safetensors", voice)
    write_feature_file(folder / "face.safetensors", face)
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sidecar = {"features": {"voice": "voice.safetensors", "face": "face.safetensors"}}
    (folder / "m.jsonl.json").write_text(json.dumps(sidecar))
    return folder / "m.jsonl"


def recipe(**features):
    return Recipe.model_validate(
        {
            "name": "features",
            "features": features or {"voice": {"stride": 2}, "face": {}},
            "model": {"tasks": ["sentiment"], "width": 16, "shared_ranks": [2, 3], "specific_rank": 2, "top_k": 1}
            | {"attention_width": 8, "dropout": 0.0},
            "training": {"epochs": 25, "batch_size": 8, "learning_rate": 1e-2, "patience": 25},
        }
    )


def test_features_alone_train_and_predict(tmp_path):
    manifest = write_features_corpus(tmp_path / "data")
    out = tmp_path / "run"
    train(recipe(), [manifest], out)
    bundle = load_bundle(out)
    face = evaluate(bundle, [manifest], "test", modalities=["face"]).metrics
    voice = evaluate(bundle, [manifest], "test", modalities=["voice"]).metrics
    assert face["n"] == 8
    assert voice["n"] == 16
    assert face["sentiment"]["corr"] > 0.8  # the labels are in it
    assert voice["sentiment"]["mae"] > face["sentiment"]["mae"]
    assert bundle.model.config.modalities["face"].width == 5
    assert np.allclose(bundle.model.inputs["voice"].norm.mean, 1000, atol=30)
    row = Utterance("test-1", features={"voice": tmp_path / "data" / "voice.safetensors"})
    (prediction,) = Predictor(bundle).predict_many([row])
    assert prediction.modalities == ["voice"]


def test_figures_of_standardisation_are_those_of_train_alone(tmp_path):
    manifest = write_features_corpus(tmp_path / "data")
    before = load_bundle(train(recipe(), [manifest], tmp_path / "a").folder).model.inputs["face"].norm.mean.clone()
    path = tmp_path / "data" / "face.safetensors"
    source = ReadyMade("face")
    rows = [Utterance(f"{split}-{i}", features={"face": path}) for split, n in SPLITS.items() for i in range(0, n, 2)]
    values = {u.id: source.read(u).values[:, 0] for u in rows}
    write_feature_file(path, [(k, v if k.startswith("train") else v + 1e3) for k, v in values.items()])
    after = load_bundle(train(recipe(), [manifest], tmp_path / "b").folder).model.inputs["face"].norm.mean
    assert before.tolist() == after.tolist()


def test_what_is_not_finite_is_counted_and_masked(tmp_path):
    manifest = write_features_corpus(tmp_path / "data", bad=True)
    with pytest.warns(UserWarning, match="features face: 11 of 400 training values are NaN or infinite"):
        train(recipe(face={}), [manifest], tmp_path / "run")
    assert np.isfinite(load_bundle(tmp_path / "run").model.inputs["face"].norm.mean.numpy()).all()


def test_all_not_finite_is_absent(tmp_path):
    path = tmp_path / "f.safetensors"
    write_feature_file(path, [("a", np.full((3, 2), np.nan)), ("b", np.ones((3, 2)))])
    source = ReadyMade("f")
    assert source.read(Utterance("a", features={"f": path})) is None
    assert source.read(Utterance("b", features={"f": path})).values.shape == (3, 1, 2)
    assert source.read(Utterance("c", features={"f": path})) is None
    assert source.read(Utterance("b")) is None


def test_widths_that_differ_are_refused(tmp_path):
    for name, width in (("a", 2), ("b", 3)):
        write_feature_file(tmp_path / f"{name}.safetensors", [(name, np.ones((3, width)))])
    source = ReadyMade("f")
    source.read(Utterance("a", features={"f": tmp_path / "a.safetensors"}))
    with pytest.raises(UserError, match=r"b.safetensors: features 'f' are 3 wide here and 2 elsewhere"):
        source.read(Utterance("b", features={"f": tmp_path / "b.safetensors"}))


def test_features_that_nobody_has(tmp_path):
    manifest = write_features_corpus(tmp_path / "data")
    with pytest.raises(UserError, match="no usable row"):
        train(recipe(gaze={}), [manifest], tmp_path / "run")


def test_windowed_mean_by_hand():
    values = np.array([[1, np.nan], [3, np.inf], [5, 7]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = _windowed_mean(values, 2)
    assert result[:, 0].tolist() == [2, 5]
    assert np.isnan(result[0, 1])
    assert result[1, 1] == 7


@pytest.mark.parametrize("splits", [(), ("valid", "test")])
def test_features_of_no_training_utterance_are_refused(tmp_path, splits):
    """They would be neither standardised nor learned from."""
    manifest = write_features_corpus(tmp_path / "data")
    rng = np.random.default_rng(0)
    named = [(f"{split}-{i}", rng.normal(size=(2, 5))) for split in splits for i in range(SPLITS[split])]
    write_feature_file(tmp_path / "data/face.safetensors", named or [("train_0", np.zeros((2, 5)))])
    with pytest.raises(UserError, match="no training utterance has the features 'face'"):
        train(recipe(), [manifest], tmp_path / "run")


@pytest.mark.filterwarnings("ignore:features face")
def test_what_is_not_finite_is_refused_where_nothing_stands_for_it(tmp_path):
    manifest = write_features_corpus(tmp_path, bad=True)
    message = r"features face: NaN or infinite in utterance train-0; .* --set features\.face\.standardize=true"
    with pytest.raises(UserError, match=message):
        train(recipe(face={"standardize": False}), [manifest], tmp_path / "run")
