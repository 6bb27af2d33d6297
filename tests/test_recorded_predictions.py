"""Predictions that are committed beside a run's summary."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmolre import EMOTIONS, UserError, load
from mmolre.data.manifest import read_manifest
from mmolre.evaluate.emotion import emotion_metrics
from mmolre.evaluate.thresholds import fit_thresholds
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


# ---- scoring them again ----

SCORE = SCRIPT.with_name("score_predictions.py")


@pytest.fixture(scope="module")
def scorer(script):
    return load_file(SCORE)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def scored(tmp_path):
    """A corpus of texts, and what two models say of its valid and test rows."""
    rng = np.random.default_rng(0)
    rows, said = [], ([], [])
    for i in range(60):
        split = ("train", "valid", "test")[i % 3]
        emotions = {name: int(rng.random() < 0.4) for name in EMOTIONS}
        rows.append({"id": f"u{i}", "split": split, "text": "so", "sentiment": float(i % 7 - 3), **emotions})
        for of in said if split != "train" else ():
            p = {
                name: round(float(np.clip(0.3 + 0.3 * x + rng.normal(0, 0.2), 0, 1)), 4) for name, x in emotions.items()
            }
            of.append({"id": f"u{i}", "sentiment": round(i % 7 - 3 + rng.normal(), 4), "emotions": p})
    files = [write_rows(tmp_path / f"{i}.jsonl", of) for i, of in enumerate(said)]
    return write_rows(tmp_path / "m.jsonl", rows), files


def test_scored_again_with_thresholds_of_the_valid_rows(scorer, scored):
    data, files = scored
    truth = {row["id"]: row for row in map(json.loads, data.read_text().splitlines())}
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    found = scorer.score(files[:1], data)

    def arrays(split):
        chosen = [row for row in rows if truth[row["id"]]["split"] == split]
        prob = np.array([[row["emotions"][e] for e in EMOTIONS] for row in chosen])
        there = np.array([[truth[row["id"]][e] for e in EMOTIONS] for row in chosen], float)
        off = [abs(row["sentiment"] - truth[row["id"]]["sentiment"]) for row in chosen]
        return prob, there, np.mean(off)

    prob, there, _ = arrays("valid")
    thresholds = fit_thresholds(prob, there, calibrated=True)
    for split in ("valid", "test"):
        prob, there, mae = arrays(split)
        assert found[split]["sentiment"]["mae"] == pytest.approx(mae)
        assert found[split]["emotion"]["macro_f1"] == emotion_metrics(prob, there, thresholds)["macro_f1"]
        assert found[split]["n"] == 20


def test_of_several_files_the_mean_is_scored(scorer, scored):
    data, files = scored
    pairs = zip(*(map(json.loads, path.read_text().splitlines()) for path in files), strict=True)
    mean = [
        {
            "id": a["id"],
            "sentiment": (a["sentiment"] + b["sentiment"]) / 2,
            "emotions": {e: (a["emotions"][e] + b["emotions"][e]) / 2 for e in EMOTIONS},
        }
        for a, b in pairs
    ]
    assert scorer.score(files, data) == scorer.score([write_rows(data.with_name("mean.jsonl"), mean)], data)


def test_a_task_or_a_split_without_labels_is_left_out(scorer, scored):
    data, files = scored
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    alone = write_rows(data.with_name("alone.jsonl"), [{k: row[k] for k in ("id", "sentiment")} for row in rows])
    assert "emotion" not in scorer.score([alone], data)["test"]
    blank = [json.loads(line) for line in data.read_text().splitlines()]
    for row in blank:
        if row["split"] == "test":
            row |= dict.fromkeys(("sentiment", *EMOTIONS))
    assert scorer.score(files[:1], write_rows(data.with_name("blank.jsonl"), blank)).keys() == {"valid"}


def test_nothing_to_score(scorer, scored, tmp_path):
    data, files = scored
    other = write_rows(tmp_path / "other.jsonl", [{"id": "a", "split": "test", "text": "so", "sentiment": 1.0}])
    with pytest.raises(UserError, match="no valid or test row with a label is among the predictions"):
        scorer.score(files, other)
    for content in (None, "[1]\n", "{"):
        path = tmp_path / "bad.jsonl"
        path.unlink(missing_ok=True)
        if content:
            path.write_text(content)
        with pytest.raises(UserError, match=r"bad\.jsonl holds no readable predictions"):
            scorer.score([path], data)


def test_thresholds_are_not_made_up(scorer, scored, tmp_path):
    data, files = scored
    test = {row["id"] for row in map(json.loads, data.read_text().splitlines()) if row["split"] == "test"}
    rows = [row for row in map(json.loads, files[0].read_text().splitlines()) if row["id"] in test]
    with pytest.raises(UserError, match="no valid row of the emotions is among the predictions"):
        scorer.score([write_rows(tmp_path / "test.jsonl", rows)], data)
    for row in rows:
        del row["emotions"]
    assert "test" in scorer.score([write_rows(tmp_path / "sentiment.jsonl", rows)], data)
