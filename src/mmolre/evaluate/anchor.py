"""How far the fused sentiment of several modalities is trusted over that of the best of them alone (ours)."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mmolre.evaluate.thresholds import modality_key

PRIOR_WEIGHT = 0.5
PRIOR_ROWS = 100
"""Before any utterance of valid is seen, fused and alone count the same; it takes so many to weigh as much as that."""
FEW = 20
"""Utterances of which a correlation says little."""


class Anchor(NamedTuple):
    """Sentiment is ``alone + weight * (fused - alone)``, where ``alone`` is predicted from ``modality`` only.

    Where few utterances with several modalities are there to learn from, a fused model follows chance traits of the
    weaker one; pulled toward the stronger, it is never far worse than that.
    """

    modality: str
    weight: float

    @classmethod
    def from_json(cls, key: str, data: Mapping[str, Any]) -> Self:
        """The anchor of a set of modalities from its fields.

        Raises:
            ValueError: a modality that is not of the set, a weight outside [0, 1].
        """
        anchor = cls(str(data["modality"]), float(data["weight"]))
        if anchor.modality not in key.split("+") or not 0 <= anchor.weight <= 1:
            raise ValueError(f"an anchor of {key} is {anchor.modality!r}, with the weight {anchor.weight}")
        return anchor


def fit_anchors(
    fused: NDArray[np.float64],
    alone: Mapping[str, NDArray[np.float64]],
    truth: NDArray[np.float64],
    modalities: Sequence[tuple[str, ...]],
) -> dict[str, Anchor]:
    """An anchor for each set of two or more modalities. Give it the valid split, never test.

    The anchor is the modality whose own predictions correlate best with the labels of the utterances with exactly this
    set, or, where these are fewer than FEW, of all that have it: what a modality says in another corpus is another
    matter. The weight is that of least squares over the labelled utterances with exactly this set, shrunk toward
    PRIOR_WEIGHT and kept in [0, 1].

    Args:
        fused: (n,) sentiment from all that an utterance has.
        alone: modality -> (n,) sentiment from it alone, NaN where an utterance has it not.
        truth: (n,), NaN = unlabelled.
        modalities: per utterance.
    """
    everywhere = {m: _correlation(own, truth) for m, own in alone.items()}
    keys = np.array([modality_key(row) for row in modalities])
    anchors = {}
    for size in range(2, len(alone) + 1):
        for members in combinations(alone, size):
            key = modality_key(members)
            rows = (keys == key) & ~np.isnan(truth)
            quality = everywhere
            if np.count_nonzero(rows) >= FEW:
                quality = {m: _correlation(alone[m][rows], truth[rows]) for m in members}
            best = max(members, key=quality.__getitem__)
            step = (fused - alone[best])[rows]
            weight = PRIOR_WEIGHT
            if len(step) and (square := float(np.mean(step**2))) > 0:
                evidence = float(np.sum(step * (truth - alone[best])[rows])) / square
                weight = (evidence + PRIOR_ROWS * PRIOR_WEIGHT) / (len(step) + PRIOR_ROWS)
            anchors[key] = Anchor(best, min(max(weight, 0.0), 1.0))
    return anchors


def _correlation(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Pearson's r; below all others where it cannot be said."""
    known = ~np.isnan(predicted) & ~np.isnan(truth)
    x, y = predicted[known], truth[known]
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return -2.0
    return float(np.corrcoef(x, y)[0, 1])
