"""Sentiment metrics, by the rules of MMSA's metricsTop (yardsticks), so that figures compare with published ones.

Everything is computed in float64. ``NaN`` in the truth means *unlabelled*: such utterances are left out. A metric that
is not defined on what is left (the correlation of a constant, anything over no utterance) is ``NaN``.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmolre.errors import UserError

NEUTRAL_BAND = 0.5
"""Half-width of the predictions read as neutral where a corpus has three classes: what rounds to 0 (ours)."""


def sentiment_metrics(pred: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """All sentiment metrics in use, each under a name that says which convention it follows.

    Args:
        pred: (n,) predicted sentiment, unclipped.
        truth: (n,) sentiment in [-3, 3]; ``NaN`` where unlabelled.

    Returns:
        ``mae`` and ``corr`` (Pearson) on unclipped predictions; ``acc2_has0``/``f1_has0``: ``>= 0`` against ``>= 0``,
        all utterances; ``acc2_non0``/``f1_non0``: ``> 0`` against ``> 0``, utterances of truth 0 dropped; F1 weighted
        by class support; ``acc7``/``acc5``: both sides clipped to ±3/±2, rounded half to even, equal; ``n``: labelled
        utterances. Accuracies and F1 are fractions.

    Raises:
        UserError: a labelled utterance has a prediction that is not a finite number.
    """
    pred, truth = labelled_pairs(pred, truth)
    non0 = truth != 0
    return {
        "mae": _mean(np.abs(pred - truth)),
        "corr": pearson(pred, truth),
        "acc2_has0": _mean((pred >= 0) == (truth >= 0)),
        "f1_has0": weighted_f1(pred >= 0, truth >= 0),
        "acc2_non0": _mean((pred[non0] > 0) == (truth[non0] > 0)),
        "f1_non0": weighted_f1(pred[non0] > 0, truth[non0] > 0),
        "acc7": _mean(_rounded(pred, 3) == _rounded(truth, 3)),
        "acc5": _mean(_rounded(pred, 2) == _rounded(truth, 2)),
        "n": len(truth),
    }


def sentiment3_metrics(pred: ArrayLike, truth: ArrayLike, neutral: float = NEUTRAL_BAND) -> dict[str, float]:
    """Three classes (negative, neutral, positive), for corpora annotated like MELD.

    Args:
        pred: (n,) predicted sentiment; within ±``neutral`` (borders included) it is read as neutral.
        truth: (n,) of which only the sign counts; ``NaN`` where unlabelled.

    Returns:
        ``acc3``, ``f1_3`` (weighted by class support) and ``n``.

    Raises:
        UserError: as :func:`sentiment_metrics`.
    """
    pred, truth = labelled_pairs(pred, truth)
    pred3 = np.sign(pred) * (np.abs(pred) > neutral)
    truth3 = np.sign(truth)
    return {"acc3": _mean(pred3 == truth3), "f1_3": weighted_f1(pred3, truth3), "n": len(truth)}


def labelled_pairs(pred: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) predictions and truths -> those of the labelled utterances, in float64.

    Raises:
        ValueError: the shapes differ or are not one-dimensional.
        UserError: a labelled utterance has a prediction that is not a finite number.
    """
    pred, truth = np.asarray(pred, np.float64), np.asarray(truth, np.float64)
    if pred.ndim != 1 or pred.shape != truth.shape:
        raise ValueError(f"predictions and truths must both be (n,), not {pred.shape} and {truth.shape}")
    labelled = ~np.isnan(truth)
    pred, truth = pred[labelled], truth[labelled]
    if bad := int((~np.isfinite(pred)).sum()):
        raise UserError(
            f"sentiment: {bad} of {len(pred)} predictions are not finite numbers; evaluate an earlier checkpoint"
        )
    return pred, truth


def pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson correlation of two (n,) arrays; ``NaN``, without a warning, where either is constant or n < 2."""
    # A constant's computed variance may be a rounding error instead of 0, so constancy is asked for directly.
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm > 0 else float("nan")


def weighted_f1(pred: NDArray, truth: NDArray) -> float:
    """F1 of every class of the truth, averaged by the class's support (scikit-learn's ``average="weighted"``).

    Args:
        pred, truth: (n,) class labels of any kind, booleans among them.

    Returns:
        a fraction; ``NaN`` for no sample.
    """
    total = 0.0
    for cls in np.unique(truth):  # a class that is only predicted has support 0 and weighs nothing
        predicted, present = pred == cls, truth == cls
        total += present.sum() * 2 * (predicted & present).sum() / (predicted.sum() + present.sum())
    return float(total / len(truth)) if len(truth) else float("nan")


def _rounded(values: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    """Clipped to ±limit, rounded half to even: .5 -> 0, 1.5 -> 2, 2.5 -> 2."""
    return np.round(np.clip(values, -limit, limit))


def _mean(values: NDArray) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")
