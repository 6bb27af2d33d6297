"""Emotion logits that mean what they say: per-emotion Platt scaling, and how modalities are combined. numpy alone."""

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
    """``scale * logit + bias`` for each emotion, in the order of ``EMOTIONS``; scale > 0."""

    scale: tuple[float, ...] = (1.0,) * E
    bias: tuple[float, ...] = (0.0,) * E

    def logits(self, logits: ArrayLike) -> NDArray[np.float64]:
        """(..., 6) raw logits -> (..., 6) calibrated logits, what :func:`combine` takes."""
        return np.asarray(logits, np.float64) * np.array(self.scale) + np.array(self.bias)

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        """(..., 6) raw logits -> (..., 6) calibrated probabilities in [0, 1]."""
        return sigmoid(self.logits(logits))

    def to_json(self) -> dict[str, Any]:
        """A dict of two lists; :meth:`from_json` gives back exactly the same calibration."""
        return {"scale": list(self.scale), "bias": list(self.bias)}

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
        return cls(scale, bias)


def fit_calibration(logits: ArrayLike, truth: ArrayLike, ridge: float = 1.0) -> Calibration:
    """Platt scaling of each emotion by its labelled samples. Give it the valid split, never test.

    Minimises the summed binary cross-entropy + ridge / 2 * ((scale - 1)² + bias²), so an emotion with few labels stays
    near what the model says, and one with none keeps it (ours).

    Args:
        logits: (n, 6) raw logits.
        truth: (n, 6) intensities, present iff > 0, ``NaN`` where unlabelled.

    Raises:
        ValueError: shapes other than (n, 6).
        UserError: a labelled cell's logit is not a finite number.
    """
    logits, truth = np.asarray(logits, np.float64), np.asarray(truth, np.float64)
    if logits.ndim != 2 or logits.shape[1] != E or logits.shape != truth.shape:
        raise ValueError(f"logits and intensities must both be (n, {E}), not {logits.shape} and {truth.shape}")
    labelled = ~np.isnan(truth)
    if not np.isfinite(logits[labelled]).all():
        raise UserError("emotion calibration: some logits are not finite numbers; use an earlier checkpoint")
    pairs = [_platt(logits[known, e], truth[known, e] > 0, ridge) for e, known in enumerate(labelled.T)]
    return Calibration(scale=tuple(a for a, _ in pairs), bias=tuple(b for _, b in pairs))


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


def _platt(x: NDArray[np.float64], there: NDArray[np.bool_], ridge: float) -> tuple[float, float]:
    """The best (scale, bias) with scale >= MIN_SCALE."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    centre = np.array([1.0, 0.0])

    def loss(w: NDArray) -> float:
        z = design @ w
        return float((np.logaddexp(0, z) - z * there).sum() + ridge / 2 * ((w - centre) ** 2).sum())

    def derivatives(w: NDArray) -> tuple[NDArray, NDArray]:
        p = sigmoid(design @ w)
        gradient = design.T @ (p - there) + ridge * (w - centre)
        return gradient, (design.T * (p * (1 - p))) @ design + ridge * np.eye(2)

    scale, bias = minimise(loss, derivatives, centre)
    if scale < MIN_SCALE:  # the loss is convex: where the optimum breaks the bound, the best allowed one lies on it
        scale = MIN_SCALE

        def of_bias(w: NDArray) -> tuple[NDArray, NDArray]:
            gradient, hessian = derivatives(np.array([MIN_SCALE, w[0]]))
            return gradient[1:], hessian[1:, 1:]

        (bias,) = minimise(lambda w: loss(np.array([MIN_SCALE, w[0]])), of_bias, np.zeros(1))
    return float(scale), float(bias)
