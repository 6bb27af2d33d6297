"""From predictions to ``metrics-SPLIT.json`` and a table, the trivial predictors always beside."""

import difflib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmolre.errors import UserError
from mmolre.evaluate.emotion import emotion_metrics
from mmolre.evaluate.sentiment import sentiment_metrics
from mmolre.evaluate.thresholds import EmotionThresholds, modality_key, thresholds_for
from mmolre.files import write_text
from mmolre.schema import EMOTIONS

ON_ITS_OWN = "on_its_own"
"""Where the metrics of a model that reads utterances in context hold those of each utterance on its own."""

PER_EMOTION = ("wa", "wf1", "f1", "average_precision", "auc")

PRIMARY: dict[str, str] = {
    "sentiment.mae": "min",
    **{f"sentiment.{k}": "max" for k in ("corr", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc7", "acc5")},
    **{f"emotion.{k}": "max" for k in ("wa_mean", "wf1_mean", "accuracy_cells", "jaccard", "jaccard_empty1")},
    **{f"emotion.{k}": "max" for k in ("micro_f1", "macro_f1")},
    **{f"emotion.{k}": "min" for k in ("hamming", "calibration_error")},
    **{f"emotion.{k}": "max" for k in ("ap_mean", "auc_mean", "top_accuracy")},
    **{f"emotion.{k}.{name}": "max" for k in PER_EMOTION for name in EMOTIONS},
}
"""Every scalar metric by its dotted name in ``metrics-SPLIT.json``, and which way is better: ``min`` or ``max``."""


_HEADLINE = ("sentiment.mae", "sentiment.corr", "emotion.macro_f1", "emotion.wa_mean")


def evaluate_predictions(
    *,
    sentiment_pred: ArrayLike,
    sentiment_truth: ArrayLike,
    emotion_prob: ArrayLike,
    emotion_truth: ArrayLike,
    modalities: Sequence[Sequence[str]],
    thresholds: Mapping[str, EmotionThresholds],
    train_sentiment_median: float | None = None,
) -> dict[str, Any]:
    """Everything about one split, ready for JSON: fractions, an undefined value is ``None``.

    Args:
        sentiment_pred, sentiment_truth: (n,); truth ``NaN`` where unlabelled.
        emotion_prob, emotion_truth: (n, 6) probabilities and intensities; truth ``NaN`` where unlabelled.
        modalities: for each utterance those it has, e.g. ``("text",)``.
        thresholds: fitted on valid, by set of modalities (``modality_key``); see ``thresholds_for`` for a missing set.
        train_sentiment_median: of the training labels, for the trivial predictor; left out where ``None``.

    Returns:
        ``sentiment``: :func:`~mmolre.evaluate.sentiment.sentiment_metrics`; ``emotion``:
        :func:`~mmolre.evaluate.emotion.emotion_metrics`; each left out where no utterance has such a label.
        ``trivial``: for each of the two {predictor: the same metrics}: ``always_0``, ``train_median``;
        ``always_happy``, ``all_absent``, ``all_present`` (``top_accuracy`` of the last names the first emotion).
        ``n``: utterances; ``modalities``: utterances by set of modalities.

    Raises:
        ValueError: lengths or shapes that do not fit.
        UserError: predictions of labelled utterances that are not finite numbers, or not probabilities.
    """
    sentiment_truth = np.asarray(sentiment_truth, np.float64)
    emotion_truth = np.asarray(emotion_truth, np.float64)
    n = len(modalities)
    if not len(sentiment_truth) == len(emotion_truth) == n:
        raise ValueError(f"{len(sentiment_truth)} sentiments, {len(emotion_truth)} emotions, {n} sets of modalities")
    sets = [modality_key(m) for m in modalities]
    counts = Counter(sets)
    result: dict[str, Any] = {"trivial": {}, "n": n, "modalities": dict(sorted(counts.items()))}
    if not np.isnan(sentiment_truth).all():
        result["sentiment"] = sentiment_metrics(sentiment_pred, sentiment_truth)
        constants = {"always_0": 0.0, "train_median": train_sentiment_median}
        result["trivial"]["sentiment"] = {
            name: sentiment_metrics(np.full(n, value), sentiment_truth)
            for name, value in constants.items()
            if value is not None
        }
    if not np.isnan(emotion_truth).all():
        by_set = {key: thresholds_for(thresholds, key.split("+")) for key in counts}
        result["emotion"] = emotion_metrics(emotion_prob, emotion_truth, [by_set[key] for key in sets])
        always_happy = np.array(EMOTIONS) == "happy"
        result["trivial"]["emotion"] = {
            name: emotion_metrics(np.tile(np.float64(row), (n, 1)), emotion_truth, EmotionThresholds.default())
            for name, row in {
                "always_happy": always_happy,
                "all_absent": np.zeros(len(EMOTIONS)),
                "all_present": np.ones(len(EMOTIONS)),
            }.items()
        }
    order = ("sentiment", "emotion", "trivial", "n", "modalities")
    return _without_nan({key: result[key] for key in order if key in result})


def best_trivial(metrics: Mapping[str, Any], task: str, name: str) -> float | None:
    """The best value of a metric that any trivial predictor reaches; ``None`` where none has it.

    For the accuracies of sentiment's sign also that of a constant of the other sign, which is right where these are
    wrong.

    Args:
        metrics: of :func:`evaluate_predictions`.
        task: ``sentiment`` or ``emotion``.
        name: of the metric, e.g. ``macro_f1``.
    """
    values = [x for of in metrics["trivial"].get(task, {}).values() if (x := of.get(name)) is not None]
    if name.startswith("acc2"):
        values += [1 - x for x in values]
    best = min if direction(f"{task}.{name}") == "min" else max
    return best(values, default=None)


def direction(key: str) -> str:
    """``min`` or ``max``: which way the metric of this dotted name, e.g. ``emotion.macro_f1``, is better.

    Raises:
        UserError: no such metric; suggests near names.
    """
    if key not in PRIMARY:
        # Most slips leave out the task or the mean, so the last part is compared too.
        near = difflib.get_close_matches(key, PRIMARY, n=3) or [k for k in PRIMARY if key.split(".")[-1] in k][:3]
        raise UserError(
            f"metric {key!r} is not known; " + (f"near: {', '.join(near)}" if near else "e.g. sentiment.mae")
        )
    return PRIMARY[key]


def lookup(metrics: Mapping[str, Any], key: str) -> float:
    """The value of a metric by its dotted name; ``NaN`` where it is not defined on these utterances.

    Raises:
        UserError: no such metric (suggests near names), or no label of its task in what was evaluated.
    """
    direction(key)
    value: Any = metrics
    for part in key.split("."):
        if part not in value:
            raise UserError(
                f"metric {key!r}: no {key.split('.')[0]} label among the utterances evaluated; choose another"
            )
        value = value[part]
    return math.nan if value is None else float(value)


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write the dict of :func:`evaluate_predictions` as JSON: the whole file, or none and the old one kept.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The dict of :func:`evaluate_predictions` as plain text, at most 80 columns, the better way by an arrow.

    Fractions are shown as they are; ``–`` stands for a value that is not defined.
    """
    sets = ", ".join(f"{key} {count}" for key, count in metrics["modalities"].items())
    lines = [f"{metrics['n']} utterances ({sets})"]
    for task in ("sentiment", "emotion"):
        if task not in metrics:
            lines += ["", f"{task}: no label"]
            continue
        trivial = metrics["trivial"][task]
        lines += ["", _row(f"{task}, n = {metrics[task]['n']}", "", "model", *(k.replace("_", " ") for k in trivial))]
        for key, way in PRIMARY.items():
            if key.startswith(f"{task}.") and key.count(".") == 1:
                name = key.split(".")[1]
                columns = [source[name] for source in (metrics[task], *trivial.values())]
                lines.append(_row(name, "↓" if way == "min" else "↑", *map(_number, columns)))
    if ON_ITS_OWN in metrics:
        own = {f"{task}.{name}": v for task, found in metrics[ON_ITS_OWN].items() for name, v in found.items()}
        named = [f"{key.split('.')[1]} {_number(own[key])}" for key in _HEADLINE if key in own]
        lines += ["", f"each on its own: {', '.join(named)}"]
    if "emotion" in metrics:
        emotion = metrics["emotion"]
        heads = ("present", "wa", "wf1", "f1", "ap", "auc")
        lines += ["", f"{'emotion':<14}" + "".join(f"{head:>10}" for head in heads)]
        for name in EMOTIONS:
            values = [str(emotion["support"][name]), *(_number(emotion[key][name]) for key in PER_EMOTION)]
            lines.append(f"{name:<14}" + "".join(f"{value:>10}" for value in values))
        lines += ["", f"accuracy_cells of the majority value: {_number(emotion['accuracy_cells_majority'])};"]
        lines += [f"top_accuracy over {emotion['top_n']} with at most one emotion; thresholds fitted on valid"]
    return "\n".join(lines)


def _row(name: str, arrow: str, *columns: str) -> str:
    return (f"{name:<22}{arrow:<2}" + "".join(f"{column:>14}" for column in columns)).rstrip()


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
