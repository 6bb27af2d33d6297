"""What the other utterances of a recording say of one of them (ours).

A speaker's mood outlasts a sentence, and neighbours speak of the same thing. So each output v of a model (its
sentiment, its six emotions' logits) is shifted by what is predicted of the recording's other n - 1 utterances:

    v + trust (a + b v + c m),    m = mean of the others' v,    trust = (n - 1) / (n - 1 + 2)

with a, b and c fitted on valid. Sentiment is shifted by |v| / (|v| + 1) of that: what is neutral stays so, since it is
neutral whatever the rest is like. v is read within limits, sentiment in [-3, 3] and probabilities in [1e-4, 1 - 1e-4];
so is that of an utterance without others, which is not shifted. No label is read but valid's, and neither the order of
utterances nor the time between them matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mmolre.errors import UserError
from mmolre.evaluate.calibration import sigmoid
from mmolre.evaluate.newton import minimise
from mmolre.schema import EMOTIONS, SENTIMENT_RANGE

OUTPUTS = 1 + len(EMOTIONS)
"""Sentiment and six emotions."""

SHRINK = 2.0
"""So many others are trusted half."""

NEUTRAL = 1.0
"""A sentiment of this size is shifted by half of what one far from 0 is."""

LEAST = 1e-4
"""Probabilities nearer than this to 0 or 1 are read as this near, those of utterances without others, too: what is
predicted is rounded to four digits."""

RIDGE = 1.0
STEP = 0.25
"""Sentiment: errors far below it count by their square, far above it by their size, which is what is scored."""


class Others(NamedTuple):
    """Of n utterances, (n,) how far what is predicted of the others is trusted, and (n, 7) their mean."""

    trust: NDArray[np.float64]
    mean: NDArray[np.float64]


class Recordings:
    """Sums of what is predicted of each recording's utterances; grows with the recordings, not with the utterances."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}

    def add(self, recordings: Sequence[str | None], values_nv: NDArray[np.float64]) -> None:
        """Count utterances in; those of no recording (None) are passed over."""
        for recording, values in zip(recordings, values_nv, strict=True):
            if recording is not None:
                self._sums[recording] = self._sums.get(recording, 0.0) + np.append(values, 1.0)

    @property
    def with_others(self) -> int:
        """How many of those counted in have another one of their recording."""
        counts = [int(sums[-1]) for sums in self._sums.values()]
        return sum(count for count in counts if count > 1)

    def others(self, recordings: Sequence[str | None], values_nv: NDArray[np.float64]) -> Others:
        """Of utterances that have been counted in, what the others of their recordings come to."""
        none = np.zeros(OUTPUTS + 1)
        sums = np.array([self._sums[r] if r is not None else none for r in recordings]).reshape(-1, OUTPUTS + 1)
        count = np.maximum(sums[:, -1] - 1, 0.0)
        mean = np.where(count[:, None] > 0, (sums[:, :-1] - values_nv) / np.maximum(count, 1.0)[:, None], 0.0)
        return Others(count / (count + SHRINK), mean)


def _others_of(recordings: Sequence[str | None], values_nv: NDArray[np.float64]) -> Others:
    """:meth:`Recordings.others` of utterances that are all there is of their recordings."""
    sums = Recordings()
    sums.add(recordings, values_nv)
    return sums.others(recordings, values_nv)


@dataclass(frozen=True, slots=True)
class Context:
    """(a, b, c) of sentiment and of each emotion, in the order of ``EMOTIONS``."""

    weights: tuple[tuple[float, float, float], ...]

    def apply(self, values_nv: NDArray[np.float64], others: Others) -> NDArray[np.float64]:
        """(n, 7) of :func:`values` -> the same in the light of the others."""
        shifts = np.einsum("nvf,vf->nv", _features(values_nv, others), np.array(self.weights))
        return values_nv + shifts

    def to_json(self) -> list[list[float]]:
        """:meth:`from_json` gives back the same."""
        return [list(row) for row in self.weights]

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            UserError: not seven times three finite numbers.
        """
        try:
            weights = tuple((float(a), float(b), float(c)) for a, b, c in data)
        except (TypeError, ValueError):
            weights = ()
        if len(weights) != OUTPUTS or not np.isfinite(weights).all():
            raise UserError(f"context: not {OUTPUTS} times 3 numbers; fit it again by training")
        return cls(weights)


def values(sentiment: NDArray[np.float64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) sentiment and (n, 6) probabilities, as logits -> (n, 7); NaN without the task.

    Sentiment is clipped to its range, probabilities to [LEAST, 1 - LEAST]: :func:`outputs` does not give back the rest.
    """
    p = np.clip(probabilities, LEAST, 1 - LEAST)
    return np.column_stack([np.clip(sentiment, *SENTIMENT_RANGE), np.log(p) - np.log1p(-p)])


def outputs(values_nv: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The inverse of :func:`values`, but for what was clipped there: sentiment, after a shift perhaps out of its range,
    and probabilities."""
    logits = values_nv[:, 1:]
    probabilities = np.full_like(logits, np.nan)
    known = ~np.isnan(logits)
    probabilities[known] = sigmoid(logits[known])
    return values_nv[:, 0], probabilities


def fit_context(
    values_nv: NDArray[np.float64],
    recordings: Sequence[str | None],
    sentiment: NDArray[np.float64],
    emotions: NDArray[np.float64],
) -> Context:
    """Fit on the valid split, never test; an output without labels, or without others anywhere, keeps its values.

    Minimises the summed pseudo-Huber loss of sentiment and the cross-entropies of the emotions, each plus
    ``RIDGE / 2 (a² + b² + c²)``.

    Args:
        values_nv: (n, 7) of :func:`values`.
        recordings: n; None = of none.
        sentiment, emotions: (n,), (n, 6) labels; NaN = unlabelled.
    """
    features = _features(values_nv, _others_of(recordings, values_nv))
    weights = []
    for v, truth in enumerate([sentiment, *emotions.T]):
        rows = ~np.isnan(truth) & ~np.isnan(values_nv[:, v])
        target = truth[rows] if v == 0 else (truth[rows] > 0).astype(np.float64)
        weights.append(_fit(values_nv[rows, v], features[rows, v], target, logistic=v > 0))
    return Context(tuple(weights))


def _features(values_nv: NDArray[np.float64], others: Others) -> NDArray[np.float64]:
    """(n, 7, 3): what a, b and c are multiplied with."""
    trust = np.repeat(others.trust[:, None], OUTPUTS, axis=1)
    size = np.abs(values_nv[:, 0])
    trust[:, 0] *= size / (size + NEUTRAL)
    return np.stack([trust, trust * values_nv, trust * others.mean], axis=-1)


def _fit(own: NDArray, features: NDArray, target: NDArray, *, logistic: bool) -> tuple[float, float, float]:
    """The best weights of one output."""

    def loss(w: NDArray) -> float:
        z = own + features @ w
        each = np.logaddexp(0, z) - z * target if logistic else np.hypot(z - target, STEP)
        return float(each.sum() + RIDGE / 2 * w @ w)

    def derivatives(w: NDArray) -> tuple[NDArray, NDArray]:
        z = own + features @ w
        if logistic:
            p = sigmoid(z)
            slope, curve = p - target, p * (1 - p)
        else:
            size = np.hypot(z - target, STEP)
            slope, curve = (z - target) / size, STEP**2 / size**3
        return features.T @ slope + RIDGE * w, (features.T * curve) @ features + RIDGE * np.eye(3)

    a, b, c = minimise(loss, derivatives, np.zeros(3)).tolist()
    return a, b, c
