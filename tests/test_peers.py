"""What both sides of benchmarks/peers are fed is the same; the other side itself is not installed here."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmolre.data.feature_file import FeatureFile, write_feature_file
from mmolre.data.manifest import read_manifest
from mmolre.data.manifest_write import write_manifest
from mmolre.encoders.text import TextEncoder
from mmolre.errors import UserError
from mmolre.schema import TASKS, Utterance
from mmolre.train.recipe import read_recipe
from outside import load_file
from tiny_corpus import GOOD

FEATURES = Path(__file__).parent.parent / "benchmarks" / "peers" / "features.py"


@pytest.fixture(scope="module")
def features():
    if not FEATURES.exists():
        pytest.skip("an installed package has no benchmarks")
    return load_file(FEATURES)


def test_both_sides_get_the_same(features, tiny_encoders, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "LAYERS", (-1, -2))
    heard = {f"{split}-{i}": np.full(3, i, np.float32) for split in ("train", "valid", "test") for i in range(3)}
    silent = "train-0"  # without the features it is left out
    write_feature_file(tmp_path / "audio45.safetensors", [(key, x) for key, x in heard.items() if key != silent])
    files = {"audio45": tmp_path / "audio45.safetensors"}
    rows = [
        Utterance(
            key, "so" if key == "train-1" else GOOD[i % 4], split=key.split("-")[0], sentiment=i / 3, features=files
        )
        for i, key in enumerate(heard)
    ]
    write_manifest(tmp_path / "all.csv", rows)
    encoder = str(tiny_encoders["text"])
    out = tmp_path / "out"
    assert features.make(tmp_path / "all.csv", out, "audio45", 4, 2, encoder) == 6
    ours = read_manifest(out / "manifest.csv")
    theirs = pickle.loads((out / "mmsa.pkl").read_bytes())  # ours: written just now
    assert [u.id for u in ours] == ["train-1", "train-2", "valid-0", "valid-1", "test-0", "test-1"]
    for split in ("train", "valid", "test"):
        of = [u for u in ours if u.split == split]
        assert theirs[split]["text"].shape == (2, 4, 16)
        assert theirs[split]["vision"].shape == (2, 1, 1)
        np.testing.assert_array_equal(theirs[split]["regression_labels"], [u.sentiment for u in of])
        for i, u in enumerate(of):
            words = FeatureFile(out / "words.safetensors").get(u.id)
            padded = theirs[split]["text"][i]
            assert len(words) < 4 if u.id == "train-1" else len(words) == 4
            np.testing.assert_array_equal(padded[4 - len(words) :], words)
            assert not padded[: 4 - len(words)].any()
            np.testing.assert_array_equal(theirs[split]["audio"][i], heard[u.id][None])
            text = next(row.text for row in rows if row.id == u.id)
            (encoded,) = TextEncoder(encoder, (-1, -2)).encode([text])
            np.testing.assert_allclose(words, encoded.values[:4].astype(np.float32).mean(1), atol=2e-3)
    with pytest.raises(UserError, match="no utterance of some split has text, sentiment and the features 'loudness'"):
        features.make(tmp_path / "all.csv", out, "loudness", 4, 2, encoder)

    alone = tmp_path / "alone"
    assert features.make(tmp_path / "all.csv", alone, None, 4, None, encoder) == 9  # the silent one, too
    assert "train-0" in {u.id for u in read_manifest(alone / "manifest.csv")}
    theirs = pickle.loads((alone / "mmsa.pkl").read_bytes())
    assert theirs["train"]["audio"].shape == theirs["train"]["vision"].shape == (3, 1, 1)
    assert not theirs["train"]["audio"].any()
    write_manifest(tmp_path / "untold.csv", [replace(u, sentiment=None) for u in rows])
    with pytest.raises(UserError, match=r"no utterance of some split has text and sentiment$"):
        features.make(tmp_path / "untold.csv", alone, None, 4, None, encoder)


@pytest.fixture(scope="module")
def compare():
    path = FEATURES.with_name("compare.py")
    if not path.exists():
        pytest.skip("an installed package has no benchmarks")
    return load_file(path)


RECIPE = """name: peers
features: {words: {}}
model: {width: 8, shared_ranks: [2, 2], top_k: 1, specific_rank: 2, attention_width: 4, attention_heads: 2}
objective: {r_drop: 1.0}
training: {epochs: 2, batch_size: 4, learning_rate: 1.0e-2, primary: [sentiment.mae]}
"""


@pytest.mark.parametrize(("name", "tasks"), [("mmolre-reborn", ["sentiment"]), ("mmolre-both-reborn", list(TASKS))])
def test_each_pupil_has_teachers_of_its_own(compare, tmp_path, name, tasks):
    rng = np.random.default_rng(0)
    words = tmp_path / "words.safetensors"
    keys = [f"{split}-{i}" for split in ("train", "valid", "test") for i in range(8)]
    write_feature_file(words, [(key, rng.normal(size=(3, 4)).astype(np.float32)) for key in keys])
    rows = [
        Utterance(
            key, split=key.split("-")[0], sentiment=i % 7 - 3.0, emotions=(1.0, *[0.0] * 5), features={"words": words}
        )
        for i, key in enumerate(keys)
    ]
    write_manifest(tmp_path / "manifest.csv", rows)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    seen = set()
    for seed in (compare.FIRST_SEED, compare.FIRST_SEED + 1):
        made = compare.ours(recipe, tmp_path, name, seed, tmp_path / f"{name}-{seed}", 20, 5)
        assert len(made["predictions"]) == 8
        run = read_recipe(tmp_path / f"{name}-{seed}")
        assert (run.seed, run.objective.r_drop, list(run.model.tasks)) == (seed, 0.0, tasks)
        teachers = [read_recipe(Path(folder)) for folder in run.teachers]
        assert len(teachers) == 2
        assert all(of.model == run.model and of.objective == run.objective and not of.teachers for of in teachers)
        seen |= {seed, *(of.seed for of in teachers)}
    assert len(seen) == 6


def test_a_misspelt_model_is_refused(compare, tmp_path, monkeypatch, capsys):
    options = [str(tmp_path), "--python", "python", "--out", str(tmp_path / "out"), "--only", "typo"]
    monkeypatch.setattr("sys.argv", ["compare.py", *options])
    with pytest.raises(SystemExit):
        compare.main()
    assert "invalid choice: 'typo'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
