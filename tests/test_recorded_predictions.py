"""Predictions that are committed beside a run's summary."""

import json
from pathlib import Path

import pytest

from mmolre import load
from mmolre.data.manifest import read_manifest
from outside import load_file
from tiny_corpus import MISSING

SCRIPT = Path(__file__).parent.parent / "scripts" / "record_predictions.py"


@pytest.fixture(scope="module")
def script():
    if not SCRIPT.is_file():
        pytest.skip("an installed package has no scripts")
    return load_file(SCRIPT)


def test_ids_and_figures_of_the_splits_and_nothing_else(script, tiny_run, tiny_corpus, tmp_path):
    path = script.record(tiny_run.folder, tiny_corpus, ["valid", "test"], tmp_path)
    assert path == tmp_path / "tiny" / "predictions-seed0.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    expected = [u for u in read_manifest(tiny_corpus) if u.split in ("valid", "test")]
    assert [row["id"] for row in rows] == [u.id for u in expected]
    assert all(row.keys() == {"id", "sentiment", "emotions"} for row in rows)
    for row, prediction in zip(rows, load(tiny_run.folder).predict_many(expected), strict=True):
        assert row["sentiment"] == pytest.approx(prediction.sentiment, abs=1e-4)
        assert row["emotions"] == pytest.approx(prediction.emotions, abs=1e-4)


def test_a_task_that_the_model_lacks_is_left_out(script):
    assert script.kept({"id": "a", "sentiment": 0.12345, "emotions": {}}) == {"id": "a", "sentiment": 0.1235}
    sad = {"sad": 0.5}
    assert script.kept({"id": "a", "sentiment": None, "emotions": sad}) == {"id": "a", "emotions": sad}


def test_a_row_that_fails_stops_it(script, tiny_run, tiny_corpus, tmp_path):
    split = next(u.split for u in read_manifest(tiny_corpus) if u.id == MISSING)
    with pytest.raises(SystemExit, match=r"could not be predicted: .*gone\.wav"):
        script.record(tiny_run.folder, tiny_corpus, [split], tmp_path)
    assert not list(tmp_path.iterdir())
