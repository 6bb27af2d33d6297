"""Test predictions of a run, kept in its folder, so that every later comparison needs no model.

``predictions-test.jsonl`` holds one utterance a line: ``id``, ``modalities``, ``sentiment``, ``emotions`` (calibrated
probabilities; null where the model lacks the task), and the labels as ``truth``. It is written last: a run that has it
is finished and scored.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmolre.bundle import MODEL_FOLDER, PIPELINE_FILE
from mmolre.errors import UserError
from mmolre.evaluate.decision import Decision
from mmolre.evaluate.report import evaluate_predictions
from mmolre.evaluate.thresholds import EmotionThresholds, thresholds_for
from mmolre.files import read_json_lines, write_text
from mmolre.schema import EMOTIONS, Utterance

PREDICTIONS_FILE = "predictions-test.jsonl"

Key = tuple[str, int]
"""An utterance: its id, and how many rows before it bear the same."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions and labels of n utterances.

    Attributes:
        keys: n, each once.
        sentiment, emotions: predictions, (n,) and (n, 6); NaN without that task.
        true_sentiment, true_emotions: labels, likewise; NaN where unlabelled.
        modalities: what was read of each utterance for its emotions.
        thresholds: fitted on valid, by set of modalities.
        train_sentiment_median: for the trivial predictor.
    """

    keys: list[Key]
    sentiment: NDArray[np.float64]
    emotions: NDArray[np.float64]
    true_sentiment: NDArray[np.float64]
    true_emotions: NDArray[np.float64]
    modalities: list[tuple[str, ...]]
    thresholds: dict[str, EmotionThresholds]
    train_sentiment_median: float | None

    def at(self, keys: Sequence[Key]) -> "Scored":
        """These utterances alone, in this order."""
        place = {key: i for i, key in enumerate(self.keys)}
        rows = [place[key] for key in keys]
        return Scored(
            list(keys),
            self.sentiment[rows],
            self.emotions[rows],
            self.true_sentiment[rows],
            self.true_emotions[rows],
            [self.modalities[i] for i in rows],
            self.thresholds,
            self.train_sentiment_median,
        )

    def row_thresholds(self) -> list[EmotionThresholds]:
        """Each utterance's thresholds."""
        of_set = {m: thresholds_for(self.thresholds, m) for m in set(self.modalities)}
        return [of_set[m] for m in self.modalities]

    def metrics(self) -> dict[str, Any]:
        """All metrics, nested, of :func:`mmolre.evaluate.report.evaluate_predictions`."""
        no_sentiment, no_emotions = np.isnan(self.sentiment).all(), np.isnan(self.emotions).all()
        return evaluate_predictions(
            sentiment_pred=self.sentiment,
            sentiment_truth=np.full_like(self.sentiment, np.nan) if no_sentiment else self.true_sentiment,
            emotion_prob=self.emotions,
            emotion_truth=np.full_like(self.emotions, np.nan) if no_emotions else self.true_emotions,
            modalities=self.modalities,
            thresholds=self.thresholds,
            train_sentiment_median=self.train_sentiment_median,
        )


def write_predictions(
    path: Path,
    utterances: Sequence[Utterance],
    modalities: Sequence[Sequence[str]],
    sentiment: NDArray[np.floating],
    emotions: NDArray[np.floating],
) -> None:
    """Write what is predicted of n utterances beside its run's model, whole or not at all.

    Args:
        path: :data:`PREDICTIONS_FILE` in the run's folder.
        utterances: n, with their labels.
        modalities: n, what was read of each for its emotions.
        sentiment, emotions: (n,) and (n, 6); NaN without that task.
    """
    lines = []
    for u, which, s, probabilities in zip(utterances, modalities, sentiment.tolist(), emotions.tolist(), strict=True):
        line = {
            "id": u.id,
            "modalities": which,
            "sentiment": _json(s),
            "emotions": {name: _json(p) for name, p in zip(EMOTIONS, probabilities, strict=True)},
            "truth": {"sentiment": u.sentiment, "emotions": list(u.emotions)},
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def read_predictions(run: Path) -> Scored:
    """The predictions kept in a run's folder.

    Raises:
        UserError: a file is missing or damaged.
    """
    path, pipeline = run / PREDICTIONS_FILE, run / MODEL_FOLDER / PIPELINE_FILE
    try:
        rows = read_json_lines(path)
        about = json.loads(pipeline.read_text(encoding="utf-8"))
        seen: Counter[str] = Counter()
        keys = []
        for row in rows:
            keys.append((row["id"], seen[row["id"]]))
            seen[row["id"]] += 1
        return Scored(
            keys,
            _array([row["sentiment"] for row in rows]),
            _array([[row["emotions"][name] for name in EMOTIONS] for row in rows]),
            _array([row["truth"]["sentiment"] for row in rows]),
            _array([row["truth"]["emotions"] for row in rows]),
            [tuple(row["modalities"]) for row in rows],
            Decision.from_json(about["decision"]).limits(together=True),
            about["about"].get("train_sentiment_median"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run} holds no readable predictions ({error}); delete it and run the same again") from None


def combine(parts: Mapping[str, Scored]) -> Scored:
    """One set of predictions from single-task models' (task -> its model's), on the utterances that all have."""
    if "" in parts:
        return parts[""]
    common = common_keys(parts.values())
    aligned = {task: scored.at(common) for task, scored in parts.items()}
    first = next(iter(aligned.values()))
    sentiment, emotion = aligned.get("sentiment"), aligned.get("emotion")
    return Scored(
        common,
        sentiment.sentiment if sentiment else np.full_like(first.sentiment, np.nan),
        emotion.emotions if emotion else np.full_like(first.emotions, np.nan),
        first.true_sentiment,
        first.true_emotions,
        (emotion or first).modalities,
        (emotion or first).thresholds,
        (sentiment or first).train_sentiment_median,
    )


def common_keys(all_scored: Iterable[Scored]) -> list[Key]:
    """The utterances that every one of several :class:`Scored` has, in the order of the first.

    Raises:
        UserError: there are none; or their labels differ: they are not of the same data.
    """
    several = list(all_scored)
    others = [set(scored.keys) for scored in several[1:]]
    keys = [key for key in several[0].keys if all(key in other for other in others)]
    if not keys:
        raise UserError(
            "no utterance of test was scored by all of the runs, which read different modalities, or different data: "
            "compare fewer of them (--only), or give another --out"
        )
    truths = [(s.true_sentiment, s.true_emotions) for s in (scored.at(keys) for scored in several)]
    same = all(np.array_equal(a, b, equal_nan=True) for t in truths[1:] for a, b in zip(truths[0], t, strict=True))
    if not same:
        raise UserError("the runs were scored on different data: the labels of test rows differ; give another --out")
    return keys


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _array(values: list) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)  # None becomes NaN
