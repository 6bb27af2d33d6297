"""Runs that were kept small and put back are the same to an experiment as before."""

import json
from pathlib import Path

import pytest

from mmolre import UserError
from mmolre.data.cache import FeatureCache
from mmolre.experiments import run, runs
from mmolre.experiments.runs import Where
from mmolre.experiments.scored import read_predictions
from outside import load_file
from tiny_corpus import corpus_recipe

pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "keep_runs.py"


def no_training(*_, **__):
    raise AssertionError("what was put back is not trained again")


def test_compare_goes_on_from_kept_runs(tiny_corpus, tiny_encoders, tmp_path, monkeypatch):
    if not SCRIPT.is_file():
        pytest.skip("an installed package has no scripts")
    script = load_file(SCRIPT)
    recipe = corpus_recipe(tiny_encoders, epochs=1, primary=("sentiment.mae", "emotion.wa_mean"))
    here, there, kept = tmp_path / "here", tmp_path / "there", tmp_path / "kept"
    cache, only = FeatureCache(tmp_path / "features"), ("single", "hard", "mmolre")
    run.compare([recipe], Where([tiny_corpus], here, cache=cache), seeds=1, only=only)
    names = ["hard.seed0.npz", "mmolre.seed0.npz", "single.emotion-seed0.npz", "single.sentiment-seed0.npz"]
    assert [path.name for path in script.keep(here, kept)] == names
    assert script.keep(here, kept) == []

    # Neither labels nor texts nor ids of the corpus are in the files.
    content = b"".join(path.read_bytes() for path in kept.iterdir())
    assert b"truth" not in content
    first = json.loads((here / "runs/hard/seed0/predictions-test.jsonl").read_text().splitlines()[0])
    assert first["id"].encode() not in content

    assert len(script.restore(kept, there, [tiny_corpus])) == 4
    assert script.restore(kept, there, [tiny_corpus]) == []
    before, after = (read_predictions(folder / "runs/hard/seed0") for folder in (here, there))
    assert after.keys == before.keys
    assert after.modalities == before.modalities
    assert after.thresholds == before.thresholds
    assert after.sentiment == pytest.approx(before.sentiment, rel=1e-6)
    assert after.emotions == pytest.approx(before.emotions, rel=1e-6)
    monkeypatch.setattr(runs, "train", no_training)
    run.compare([recipe], Where([tiny_corpus], there, cache=cache), seeds=1, only=only)
    old, new = (json.loads((folder / "compare.json").read_text()) for folder in (here, there))
    for row in only:
        assert new["rows"][row]["minutes"] == old["rows"][row]["minutes"]
        for metric, value in old["rows"][row]["metrics"].items():
            assert new["rows"][row]["metrics"][metric]["mean"] == pytest.approx(value["mean"], abs=1e-4)

    other = tmp_path / "other.csv"
    lines = tiny_corpus.read_text().splitlines(keepends=True)
    other.write_text("".join(line for line in lines if not line.startswith(first["id"])))
    with pytest.raises(UserError, match="other test rows"):
        script.restore(kept, tmp_path / "third", [other])

    (here / "runs/hard/seed0/log.jsonl").write_text("another run")
    with pytest.raises(UserError, match=r"hard\.seed0\.npz is of an earlier run"):
        script.keep(here, kept)
