import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmolre.errors import UserError
from mmolre.evaluate.report import (
    ON_ITS_OWN,
    PRIMARY,
    best_trivial,
    direction,
    evaluate_predictions,
    lookup,
    metrics_table,
    write_metrics,
)
from mmolre.evaluate.thresholds import EmotionThresholds
from mmolre.schema import EMOTIONS

nan = float("nan")
CORPORA = Path(os.environ.get("MMOLRE_CORPORA") or Path(__file__).parents[2] / "../shared/data")


def sample(n=60, **changes):
    rng = np.random.default_rng(0)
    truth = np.round(rng.uniform(-3, 3, n) * 3) / 3
    emotions = (rng.random((n, 6)) < 0.3).astype(float)
    arguments = {
        "sentiment_pred": truth + rng.normal(0, 1, n),
        "sentiment_truth": truth,
        "emotion_prob": np.clip(0.4 * emotions + rng.random((n, 6)) * 0.6, 0, 1),
        "emotion_truth": emotions,
        "modalities": [("text",)] * (n // 2) + [("text", "audio")] * (n - n // 2),
        "thresholds": {"text": EmotionThresholds.default()},
        "train_sentiment_median": 0.2,
    }
    return arguments | changes


def test_every_scalar_has_a_direction_and_a_value():
    metrics = evaluate_predictions(**sample())
    counts = {"n", "support", "top_n", "accuracy_cells_majority"}
    scalars = set()
    for task in ("sentiment", "emotion"):
        for key, value in metrics[task].items():
            if key not in counts:
                nested = isinstance(value, dict)
                scalars |= {f"{task}.{key}.{name}" for name in value} if nested else {f"{task}.{key}"}
    assert scalars == set(PRIMARY)
    assert all(0 <= lookup(metrics, key) <= 1 for key in PRIMARY if key != "sentiment.mae")
    assert direction("sentiment.mae") == direction("emotion.hamming") == "min"
    assert direction("emotion.wa.happy") == direction("sentiment.corr") == "max"


def test_layout():
    metrics = evaluate_predictions(**sample())
    assert list(metrics) == ["sentiment", "emotion", "trivial", "n", "modalities"]
    assert metrics["n"] == 60
    assert metrics["modalities"] == {"text": 30, "text+audio": 30}
    assert list(metrics["trivial"]["sentiment"]) == ["always_0", "train_median"]
    assert list(metrics["trivial"]["emotion"]) == ["always_happy", "all_absent", "all_present"]
    truth = sample()["sentiment_truth"]
    assert metrics["trivial"]["sentiment"]["train_median"]["mae"] == pytest.approx(np.abs(truth - 0.2).mean())
    assert metrics["trivial"]["sentiment"]["always_0"]["corr"] is None
    assert "train_median" not in evaluate_predictions(**sample(train_sentiment_median=None))["trivial"]["sentiment"]


def test_each_utterance_is_judged_by_the_thresholds_of_its_modalities():
    never = EmotionThresholds((1.1,) * 6, (1.1,) * 6, 1.1, 1.1, 1.1)
    both = {"text": EmotionThresholds.default(), "text+audio": never}
    metrics = evaluate_predictions(**sample(thresholds=both))
    arguments = sample()
    arguments["emotion_prob"][30:] = 0  # what "never" amounts to
    assert metrics["emotion"]["f1"] == evaluate_predictions(**arguments)["emotion"]["f1"]


def test_a_task_without_labels_is_left_out():
    metrics = evaluate_predictions(**sample(emotion_truth=np.full((60, 6), nan), emotion_prob=np.full((60, 6), nan)))
    assert "emotion" not in metrics
    assert "emotion" not in metrics["trivial"]
    assert "emotion: no label" in metrics_table(metrics)
    with pytest.raises(UserError, match="no emotion label"):
        lookup(metrics, "emotion.macro_f1")
    assert "sentiment" not in evaluate_predictions(**sample(sentiment_truth=np.full(60, nan)))


def test_lengths_must_fit():
    with pytest.raises(ValueError, match="59 sets of modalities"):
        evaluate_predictions(**sample(modalities=[("text",)] * 59))


@pytest.mark.parametrize(
    ("key", "near"),
    [("emotion.macrof1", "emotion.macro_f1"), ("mae", "sentiment.mae"), ("emotion.wa", "emotion.wa_mean")],
)
def test_unknown_metric_suggests_a_near_one(key, near):
    with pytest.raises(UserError, match=near):
        direction(key)
    with pytest.raises(UserError, match=near):
        lookup({}, key)


def test_null_is_looked_up_as_nan():
    metrics = evaluate_predictions(**sample(sentiment_pred=np.zeros(60)))
    assert metrics["sentiment"]["corr"] is None
    assert math.isnan(lookup(metrics, "sentiment.corr"))


def test_table_fits_80_columns_with_what_each_utterance_says_on_its_own():
    metrics = evaluate_predictions(**sample())
    metrics[ON_ITS_OWN] = {task: metrics[task] for task in ("sentiment", "emotion")}
    lines = metrics_table(metrics).splitlines()
    assert max(map(len, lines)) <= 80
    (own,) = (line for line in lines if line.startswith("each on its own"))
    assert f"mae {metrics['sentiment']['mae']:.4f}" in own
    assert own.endswith(f"wa_mean {metrics['emotion']['wa_mean']:.4f}")


def test_table_fits_80_columns_and_shows_the_trivial_predictors():
    metrics = evaluate_predictions(**sample(sentiment_pred=np.zeros(60)))
    table = metrics_table(metrics)
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    for head in ("always 0", "train median", "always happy", "all absent", "all present"):
        assert head in table
    (mae,) = (line for line in lines if line.startswith("mae"))
    assert mae.split()[1:3] == ["↓", f"{metrics['sentiment']['mae']:.4f}"]
    (corr,) = (line for line in lines if line.startswith("corr"))
    assert corr.split()[1:3] == ["↑", "–"]
    assert all(any(line.startswith(name) for line in lines) for name in EMOTIONS)


def test_written_file_reads_back_and_a_failure_keeps_the_old_one(tmp_path, monkeypatch):
    metrics = evaluate_predictions(**sample(sentiment_pred=np.zeros(60)))
    path = tmp_path / "metrics-test.json"
    write_metrics(path, metrics)
    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail) == metrics
    old = path.read_bytes()

    def full_disk(self, *_, **__):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(UserError, match=r"the disk that holds .* is full"):
        write_metrics(path, {"n": 1})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    write_metrics(tmp_path / "new" / "metrics.json", metrics)
    assert (tmp_path / "new" / "metrics.json").read_bytes() == old


def test_import_and_prediction_time_use_need_no_sklearn():
    code = (
        "import sys, numpy as np; from mmolre.evaluate import *; p = Calibration().apply(np.zeros((2, 6)));"
        "present(p, EmotionThresholds.default()); top(p, EmotionThresholds.default()); combine({'text': p});"
        "assert not {'sklearn', 'scipy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.corpus
def test_trivial_predictors_on_mosei_give_the_known_figures():
    file = CORPORA / "mosei" / "segments.csv"
    if not file.exists():
        pytest.skip(f"no corpus at {file}; set MMOLRE_CORPORA")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    train = [float(row["sentiment"]) for row in rows if row["split"] == "train"]
    test = [row for row in rows if row["split"] == "test"]
    n = len(test)
    metrics = evaluate_predictions(
        sentiment_pred=np.zeros(n),
        sentiment_truth=[float(row["sentiment"]) for row in test],
        emotion_prob=np.zeros((n, 6)),
        emotion_truth=[[float(row[name]) for name in EMOTIONS] for row in test],
        modalities=[("text",)] * n,
        thresholds={},
        train_sentiment_median=float(np.median(train)),
    )
    assert n == 4659
    assert metrics["sentiment"]["mae"] == pytest.approx(0.838, abs=5e-4)
    trivial = metrics["trivial"]["emotion"]
    assert trivial["all_absent"]["accuracy_cells"] == pytest.approx(0.773, abs=5e-4)
    assert metrics["emotion"]["accuracy_cells_majority"] == pytest.approx(0.773, abs=5e-4)
    assert trivial["always_happy"]["jaccard"] == pytest.approx(0.43, abs=0.01)
    assert trivial["all_absent"]["jaccard"] == 0
    assert trivial["always_happy"]["wa_mean"] == 0.5


def test_the_best_that_a_trivial_predictor_reaches():
    of_sentiment = {"always_0": {"mae": 0.9, "acc2_non0": 0.3, "corr": None}, "median": {"mae": 0.8, "acc2_non0": 0.4}}
    metrics = {"trivial": {"sentiment": of_sentiment, "emotion": {"all_present": {"macro_f1": 0.3, "hamming": 0.7}}}}
    assert best_trivial(metrics, "sentiment", "mae") == 0.8
    assert best_trivial(metrics, "sentiment", "acc2_non0") == 0.7  # a constant of the other sign than the first
    assert best_trivial(metrics, "sentiment", "corr") is None
    assert best_trivial(metrics, "emotion", "macro_f1") == 0.3
    assert best_trivial({"trivial": {}}, "emotion", "macro_f1") is None
