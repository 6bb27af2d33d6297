"""Emotion metrics: the three incompatible families that are published, and threshold-free ones (yardsticks).

An emotion is present iff its intensity is > 0; ``NaN`` means *unlabelled* and such cells are left out of everything.
Every family decides by the thresholds fitted for it. A value that is not defined (one class only, no sample) is ``NaN``
and left out of the means.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmolre.evaluate.calibration import expected_calibration_error
from mmolre.evaluate.sentiment import weighted_f1
from mmolre.evaluate.thresholds import EmotionThresholds, as_cells, none_below
from mmolre.schema import EMOTIONS

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def emotion_metrics(
    prob: ArrayLike, truth: ArrayLike, thresholds: EmotionThresholds | Sequence[EmotionThresholds]
) -> dict[str, Any]:
    """All emotion metrics in use, each under the name of its convention. Fractions, not percent.

    Args:
        prob: (n, 6) probabilities in [0, 1].
        truth: (n, 6) intensities; ``NaN`` where unlabelled.
        thresholds: fitted on valid; or one per sample, where samples differ in their modalities.

    Returns:
        Values are floats; those marked * are dicts {emotion: float}.

        - ``wa``*, ``wa_mean``: (TPR + TNR) / 2; ``wf1``*, ``wf1_mean``: F1 weighted by class support; both with the
          thresholds fitted for WA (Modality-Transferable-MER, MME2E).
        - ``accuracy_cells``: accuracy over all labelled cells at .5, whatever was fitted; ``accuracy_cells_majority``:
          the same of the better of all-absent and all-present.
        - ``jaccard``: mean over the samples with all six labels of |both| / |either|, where a sample with neither label
          nor prediction counts 0 (TAILOR); ``jaccard_empty1``: the same, such samples counting 1. Same thresholds.
        - ``micro_f1``: over all labelled cells; ``hamming``: fraction of labelled cells that are wrong, with the
          micro-F1 threshold; ``f1``*, ``macro_f1``: per emotion with the macro-F1 thresholds, and their mean.
        - ``average_precision``*, ``ap_mean``, ``auc``*, ``auc_mean``: threshold-free (scikit-learn).
        - ``top_accuracy``: over the samples with all six labels and at most one emotion present, how often the one most
          likely emotion (or none: see :func:`mmolre.evaluate.thresholds.top`) is the one present (or none);
          ``top_n``: how many.
        - ``calibration_error``: expected calibration error of all labelled cells, in bins of equal mass.
        - ``n``: samples with any label; ``support``*: how many of the samples have the emotion.

    Raises:
        ValueError: shapes other than (n, 6), or as many thresholds as samples not given.
        UserError: a labelled cell's probability is not in [0, 1].
    """
    prob, there, labelled = as_cells(prob, truth)
    cut = _cuts(thresholds, len(prob))
    complete = labelled.all(axis=1)
    decide = {family: prob >= cut[family] for family in ("wa", "macro_f1", "micro_f1", "jaccard")}

    def per_emotion(metric, values: NDArray) -> dict[str, float]:
        columns = ((values[known, e], there[known, e]) for e, known in enumerate(labelled.T))
        return {name: float(metric(v, t)) for name, (v, t) in zip(EMOTIONS, columns, strict=True)}

    wa = per_emotion(weighted_accuracy, decide["wa"])
    wf1 = per_emotion(weighted_f1, decide["wa"])
    f1 = per_emotion(binary_f1, decide["macro_f1"])
    average_precision = per_emotion(_average_precision, prob)
    auc = per_emotion(_auc, prob)
    cells = there[labelled]
    empty0, empty1 = jaccard(decide["jaccard"][complete], there[complete])
    top_accuracy, top_n = _top_accuracy(
        prob[complete], there[complete], none_below(prob, cut["top_none"][:, 0], cut["rest"][:, 0] > 0)[complete]
    )
    return {
        "wa": wa,
        "wa_mean": _mean(wa.values()),
        "wf1": wf1,
        "wf1_mean": _mean(wf1.values()),
        "accuracy_cells": _mean((prob >= 0.5)[labelled] == cells),
        "accuracy_cells_majority": max(_mean(cells), _mean(~cells)),
        "jaccard": empty0,
        "jaccard_empty1": empty1,
        "micro_f1": binary_f1(decide["micro_f1"][labelled], cells),
        "f1": f1,
        "macro_f1": _mean(f1.values()),
        "hamming": _mean(decide["micro_f1"][labelled] != cells),
        "average_precision": average_precision,
        "ap_mean": _mean(average_precision.values()),
        "auc": auc,
        "auc_mean": _mean(auc.values()),
        "top_accuracy": top_accuracy,
        "top_n": top_n,
        "calibration_error": expected_calibration_error(prob, truth),
        "n": int(labelled.any(axis=1).sum()),
        "support": dict(zip(EMOTIONS, there.sum(axis=0).tolist(), strict=True)),
    }


def weighted_accuracy(pred: Bools, there: Bools) -> float:
    """(TPR + TNR) / 2 of (n,) decisions; ``NaN`` where only one class is there."""
    if not len(there) or there.all() or not there.any():
        return float("nan")
    return float((pred[there].mean() + (~pred[~there]).mean()) / 2)


def binary_f1(pred: Bools, there: Bools) -> float:
    """F1 of the class *present*, of (n,) decisions: 0 where nothing is present nor predicted, ``NaN`` for no sample."""
    if not len(there):
        return float("nan")
    return float(2 * (pred & there).sum() / max(1, pred.sum() + there.sum()))


def jaccard(pred: Bools, there: Bools) -> tuple[float, float]:
    """Mean over samples of |both| / |either|, of (n, 6) decisions.

    Returns:
        the mean where a sample with neither label nor prediction counts 0, and where it counts 1.
    """
    both, either = (pred & there).sum(axis=1), (pred | there).sum(axis=1)
    index = both / np.maximum(either, 1)
    return _mean(index), _mean(np.where(either == 0, 1.0, index))


def _top_accuracy(prob: Floats, there: Bools, none_below: Floats) -> tuple[float, int]:
    single = there.sum(axis=1) <= 1
    prob, there, none_below = prob[single], there[single], none_below[single]
    right = there[np.arange(len(prob)), prob.argmax(axis=1)]
    return _mean(np.where(prob.max(axis=1) >= none_below, right, ~there.any(axis=1))), len(prob)


def _cuts(thresholds: EmotionThresholds | Sequence[EmotionThresholds], n: int) -> dict[str, Floats]:
    """Each family's thresholds, as an array that broadcasts against (n, 6)."""
    rows = [thresholds] * n if isinstance(thresholds, EmotionThresholds) else list(thresholds)
    if len(rows) != n:
        raise ValueError(f"{len(rows)} thresholds for {n} samples")
    per_emotion = {
        k: np.array([getattr(t, k) for t in rows], np.float64).reshape(n, len(EMOTIONS)) for k in ("wa", "macro_f1")
    }
    common = ("micro_f1", "jaccard", "top_none", "rest")
    return per_emotion | {k: np.array([getattr(t, k) for t in rows], np.float64).reshape(n, 1) for k in common}


def _average_precision(scores: Floats, there: Bools) -> float:
    if not len(there) or there.all() or not there.any():
        return float("nan")
    from sklearn.metrics import average_precision_score  # a second to import, and prediction never needs it

    return float(average_precision_score(there, scores))


def _auc(scores: Floats, there: Bools) -> float:
    if not len(there) or there.all() or not there.any():
        return float("nan")
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(there, scores))


def _mean(values) -> float:
    """Mean of the defined values; ``NaN``, without a warning, where there is none."""
    values = np.array(list(values), np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
