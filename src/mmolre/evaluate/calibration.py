"""Emotion logits that mean what they say: Platt or temperature scaling, and how modalities are combined. numpy alone.

Each emotion's scale and bias are drawn to those of all six together, since the labels of one emotion in a small valid
split (two actors of acted speech) say more of its speakers than of the emotion (ours; docs/log.md has the measurement).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmolre.errors import UserError
from mmolre.evaluate.newton import minimise
from mmolre.schema import EMOTIONS

E = len(EMOTIONS)
MIN_SCALE = 0.01
"""A calibration never reverses a ranking: the scale stays above this even where the logits are worse than chance."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """``scale * logit + bias`` for each emotion, in the order of ``EMOTIONS``; scale > 0.

    With ``exclusive`` these are the logits of a softmax over the six and none, whose logit is 0.
    """

    scale: tuple[float, ...] = (1.0,) * E
    bias: tuple[float, ...] = (0.0,) * E
    exclusive: bool = False

    def logits(self, logits: ArrayLike) -> NDArray[np.float64]:
        """(..., 6) raw logits -> (..., 6) calibrated logits, what :func:`combine` takes.

        A calibrated logit is that of the emotion's probability, log p - log (1 - p), with ``exclusive`` too.
        """
        own = np.asarray(logits, np.float64) * np.array(self.scale) + np.array(self.bias)
        if not self.exclusive:
            return own
        seven = np.concatenate([own, np.zeros((*own.shape[:-1], 1))], axis=-1)
        others = np.where(np.eye(E, E + 1, dtype=bool), -np.inf, seven[..., None, :])
        return own - np.logaddexp.reduce(others, axis=-1)

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        """(..., 6) raw logits -> (..., 6) calibrated probabilities in [0, 1]."""
        return sigmoid(self.logits(logits))

    def to_json(self) -> dict[str, Any]:
        """A dict of two lists; :meth:`from_json` gives back exactly the same calibration."""
        more = {"exclusive": True} if self.exclusive else {}
        return {"scale": list(self.scale), "bias": list(self.bias)} | more

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            UserError: not six finite numbers each, or a scale that is not positive.
        """
        try:
            scale, bias = (tuple(float(v) for v in data[key]) for key in ("scale", "bias"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"emotion calibration: unreadable ({error!r}); fit it again on valid") from None
        if not len(scale) == len(bias) == E or not all(np.isfinite([*scale, *bias])) or min(scale) <= 0:
            raise UserError("emotion calibration: not six positive scales and six biases; fit it again on valid")
        return cls(scale, bias, data.get("exclusive", False) is True)


def fit_calibration(logits: ArrayLike, truth: ArrayLike, ridge: float = 1.0, pull: float = 30.0) -> Calibration:
    """Platt scaling by the labelled samples, of all emotions together and then of each. Give it valid, never test.

    With logits in units of their root mean square, first one scale and bias minimise the binary cross-entropy, summed
    over all cells, + ridge / 2 * ((scale - 1)² + bias²), the scale there in units of the logits as they are; then those
    of each emotion its own sum + pull / 2 * their squared distance to the common ones. So an emotion with few labels
    stays near what all say, and all with few labels near what the model says (ours).

    Args:
        logits: (n, 6) raw logits.
        truth: (n, 6) intensities, present iff > 0, ``NaN`` where unlabelled.
        ridge, pull: see above.

    Raises:
        ValueError: shapes other than (n, 6).
        UserError: a labelled cell's logit is not a finite number.
    """
    logits, truth, labelled = _checked(logits, truth)
    if not labelled.any():
        return Calibration()
    unit = float(np.sqrt((logits[labelled] ** 2).mean())) or 1.0
    x, there, least = logits / unit, truth > 0, MIN_SCALE * unit
    common = _platt(x[labelled], there[labelled], np.array([unit, 0.0]), np.array([ridge / unit**2, ridge]), least)
    pulls = np.array([pull, pull])
    each = np.array([_platt(x[known, e], there[known, e], common, pulls, least) for e, known in enumerate(labelled.T)])
    scales = np.maximum(each[:, 0] / unit, MIN_SCALE)  # the bound, but for rounding
    return Calibration(scale=tuple(scales.tolist()), bias=tuple(each[:, 1].tolist()))


def fit_exclusive(logits: ArrayLike, truth: ArrayLike, ridge: float = 1.0) -> Calibration:
    """Temperature scaling of a softmax over the six and none (Guo et al., ICML 2017). Give it valid, never test.

    For utterances of which it is known that they hold at most one emotion. One scale, for all, minimises the
    cross-entropy of the samples with all six labels and at most one emotion, + ridge / 2 * (scale - 1)²; which of the
    seven is the likeliest stays as the model has it.

    Args:
        logits, truth: as of :func:`fit_calibration`, and the same is raised.
    """
    logits, truth, labelled = _checked(logits, truth)
    there = truth > 0
    rows = labelled.all(axis=1) & (there.sum(axis=1) <= 1)
    seven = np.column_stack([logits[rows], np.zeros(rows.sum())])
    right = np.column_stack([there[rows], ~there[rows].any(axis=1)])

    def loss(w: NDArray) -> float:
        z = w * seven
        return float((np.logaddexp.reduce(z, axis=1) - z[right]).sum() + ridge * ((w - 1) ** 2).sum() / 2)

    def derivatives(w: NDArray) -> tuple[NDArray, NDArray]:
        z = w * seven
        p = np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))
        mean = (p * seven).sum(axis=1)
        gradient = (mean - seven[right]).sum() + ridge * (w - 1)
        spread = (p * seven**2).sum() - (mean**2).sum()
        return gradient, np.array([[spread + ridge]])

    (scale,) = minimise(loss, derivatives, np.ones(1))
    return Calibration(scale=(max(float(scale), MIN_SCALE),) * E, exclusive=True)


def combine(logits: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """One set of emotion logits from each modality's own calibrated ones: their mean (ours).

    For a model that was never trained on emotions with both modalities there. A product of experts (the sum, less the
    prior) would count evidence twice where words and voice say the same, and needs one prior where the corpora have
    different ones (an emotion acted in one recording of eight, present in every second opinion). The mean needs none,
    and is never more confident than the more confident modality.

    Args:
        logits: modality -> (n, 6) calibrated logits, at least one, of equal shape.
    """
    return np.mean([np.asarray(values, np.float64) for values in logits.values()], axis=0)


def expected_calibration_error(prob: ArrayLike, truth: ArrayLike, bins: int = 15) -> float:
    """Mean distance between predicted probability and observed frequency, over bins of equal mass.

    Args:
        prob: probabilities of any shape; all cells are pooled.
        truth: intensities of the same shape, present iff > 0, ``NaN`` where unlabelled.

    Returns:
        in [0, 1]; ``NaN`` where nothing is labelled.
    """
    prob, truth = np.asarray(prob, np.float64), np.asarray(truth, np.float64)
    labelled = ~np.isnan(truth)
    prob, there = prob[labelled], truth[labelled] > 0
    if not len(prob):
        return float("nan")
    # Equal scores share their mean outcome, so that neither the order of the input nor of the outcomes decides in
    # which bin which of them falls.
    scores, place, count = np.unique(prob, return_inverse=True, return_counts=True)
    frequency = np.bincount(place, there) / count
    ranked, observed = np.repeat(scores, count), np.repeat(frequency, count)
    gaps = [abs(float((ranked[b] - observed[b]).sum())) for b in np.array_split(np.arange(len(prob)), bins)]
    return sum(gaps) / len(prob)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logistic function, without overflow at either end."""
    return np.exp(-np.logaddexp(0, -x))


def _checked(logits: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """(n, 6) logits and intensities, and which are labelled."""
    logits, truth = np.asarray(logits, np.float64), np.asarray(truth, np.float64)
    if logits.ndim != 2 or logits.shape[1] != E or logits.shape != truth.shape:
        raise ValueError(f"logits and intensities must both be (n, {E}), not {logits.shape} and {truth.shape}")
    labelled = ~np.isnan(truth)
    if not np.isfinite(logits[labelled]).all():
        raise UserError("emotion calibration: some logits are not finite numbers; use an earlier checkpoint")
    return logits, truth, labelled


def _platt(
    x: NDArray[np.float64],
    there: NDArray[np.bool_],
    centre: NDArray[np.float64],
    ridges: NDArray[np.float64],
    least: float,
) -> NDArray[np.float64]:
    """The best (scale, bias) with scale >= least: by cross-entropy and, for each of the two, half a ridge times its
    squared distance to the centre."""
    design = np.stack([x, np.ones_like(x)], axis=1)

    def loss(w: NDArray) -> float:
        z = design @ w
        return float((np.logaddexp(0, z) - z * there).sum() + (ridges * (w - centre) ** 2).sum() / 2)

    def derivatives(w: NDArray) -> tuple[NDArray, NDArray]:
        p = sigmoid(design @ w)
        gradient = design.T @ (p - there) + ridges * (w - centre)
        return gradient, (design.T * (p * (1 - p))) @ design + np.diag(ridges)

    best = minimise(loss, derivatives, centre)
    if best[0] >= least:
        return best

    # The loss is convex: where the optimum breaks the bound, the best allowed one lies on it.
    def of_bias(w: NDArray) -> tuple[NDArray, NDArray]:
        gradient, hessian = derivatives(np.array([least, w[0]]))
        return gradient[1:], hessian[1:, 1:]

    (bias,) = minimise(lambda w: loss(np.array([least, w[0]])), of_bias, np.zeros(1))
    return np.array([least, bias])
