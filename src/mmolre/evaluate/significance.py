"""Is A better than B? A paired bootstrap over utterances, or over videos (yardsticks: one for each such claim)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class BootstrapResult:
    """How much better A is than B.

    Attributes:
        delta: the difference on all utterances, in the metric's unit, signed so that > 0 means A is better.
        low, high: percentile interval of it at the given confidence; NaN of fewer than two utterances (or groups), of
            which all resamples are the same.
        p: two-sided; twice the smaller share of resamples on either side of 0, with the +1 correction, at most 1; 1
            where there is no interval.
    """

    delta: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    metric: Callable[[Any, Any], float],
    pred_a: ArrayLike,
    pred_b: ArrayLike,
    truth: ArrayLike,
    *,
    higher_is_better: bool,
    groups: ArrayLike | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> BootstrapResult:
    """Resample the utterances with replacement, the same ones for A, B and the truth; compare the metric on each.

    Args:
        metric: (predictions, truth) -> float, e.g. ``lambda p, t: sentiment_metrics(p, t)["mae"]``; ``NaN`` where it
            is not defined: such resamples are left out.
        pred_a, pred_b, truth: (n, ...) arrays, one row per utterance.
        higher_is_better: the metric's direction, e.g. ``direction("sentiment.mae") == "max"``.
        groups: (n,) ids, e.g. of videos: whole groups are resampled, since utterances of one video are alike. Give
            them where the claim is about unseen videos or speakers.
        n_resamples, seed, confidence: the same seed gives the same result.

    Raises:
        ValueError: lengths that differ, no utterance, or a metric that is not defined on any resample.
    """
    pred_a, pred_b, truth = np.asarray(pred_a), np.asarray(pred_b), np.asarray(truth)
    units = np.arange(len(truth)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if not len(truth) or not len(pred_a) == len(pred_b) == len(truth) == len(units):
        raise ValueError(f"{len(pred_a)} and {len(pred_b)} predictions, {len(truth)} truths, {len(units)} groups")
    sign = 1.0 if higher_is_better else -1.0

    def difference(rows) -> float:
        return sign * (metric(pred_a[rows], truth[rows]) - metric(pred_b[rows], truth[rows]))

    if len(np.unique(units)) < 2:
        if np.isnan(delta := difference(slice(None))):
            raise ValueError("the metric is not defined on any resample")
        return BootstrapResult(delta, np.nan, np.nan, 1.0)
    rng = np.random.default_rng(seed)
    members = np.split(np.argsort(units, kind="stable"), np.cumsum(np.bincount(units))[:-1])
    deltas = np.empty(n_resamples)
    for i in range(n_resamples):
        drawn = rng.integers(len(members), size=len(members))
        deltas[i] = difference(drawn if groups is None else np.concatenate([members[g] for g in drawn]))
    deltas = deltas[~np.isnan(deltas)]
    if not len(deltas):
        raise ValueError("the metric is not defined on any resample")
    low, high = np.quantile(deltas, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min((deltas <= 0).sum(), (deltas >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(deltas) + 1))
    return BootstrapResult(delta=difference(slice(None)), low=float(low), high=float(high), p=float(p))
