"""What is the speaker's and not the utterance's (ours).

A voice that always sounds tense is not always angry. Of a speaker's utterances that hold at most one emotion each, the
logits z of the six (that of none is 0) are taken for

    z = mean of the utterance's class + shift of the speaker + noise,   noise ~ N(0, W),   shift ~ N(0, BETWEEN W)

and how often the speaker feels what, for unknown, too: a Dirichlet prior of one utterance more of each of the seven.
The likeliest shift, found by expectation maximisation from all that is predicted of the speaker, is taken off his
logits, as speech recognisers adapt to a speaker whose words nobody has written down (Sankar and Lee, 1996). To take off
the mean of his logits would tell who is always sad that he never is; here the classes may be as unequal as they are.
The seven means and W are fitted on valid; no other label is read, and the order of utterances does not matter.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmolre.errors import UserError
from mmolre.evaluate.calibration import Calibration, E
from mmolre.evaluate.context import LEAST

CLASSES = E + 1
"""The six emotions and none."""

BETWEEN = 0.1
"""Variance between speakers, in units of that between utterances of one class by one speaker."""

FEWEST = 5
"""Of fewer utterances a speaker's shift is not told from what they hold."""

FEWEST_OF_CLASS = 5
"""With fewer labelled utterances of a class nothing is fitted."""

PULL = 10.0
"""W is estimated as if so many more utterances had the same variance in all directions."""

STEPS, ENOUGH = 200, 1e-6


@dataclass(frozen=True, slots=True)
class Speakers:
    """How speakers' utterances are read together.

    Attributes:
        means: (7, 6) mean logits of the utterances of each class.
        within: (6, 6), W: their covariance, of one speaker and one class.
    """

    means: tuple[tuple[float, ...], ...]
    within: tuple[tuple[float, ...], ...]

    def shift(self, logits_ne: NDArray[np.float64]) -> NDArray[np.float64]:
        """(6,) what a speaker's n utterances have in common beyond what they hold; 0 for fewer than ``FEWEST``."""
        count = len(logits_ne)
        if count < FEWEST:
            return np.zeros(E)
        root = np.linalg.cholesky(np.array(self.within))
        white, means = (np.linalg.solve(root, np.array(x).T).T for x in (logits_ne, self.means))
        shift, prior = np.zeros(E), np.full(CLASSES, 1 / CLASSES)
        for _ in range(STEPS):
            fit = np.log(prior) - ((white[:, None] - shift - means) ** 2).sum(axis=2) / 2
            belongs = np.exp(fit - np.logaddexp.reduce(fit, axis=1, keepdims=True))
            prior = (belongs.sum(axis=0) + 1) / (count + CLASSES)
            before, shift = shift, (white - belongs @ means).sum(axis=0) / (count + 1 / BETWEEN)
            if np.abs(shift - before).max() < ENOUGH:
                break
        return root @ shift

    def to_json(self) -> dict[str, list[list[float]]]:
        """:meth:`from_json` gives back the same."""
        return {"means": [list(row) for row in self.means], "within": [list(row) for row in self.within]}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            UserError: not seven means and a covariance of six logits.
        """
        wrong = UserError(f"speakers: not {CLASSES} means and a covariance of {E} logits; fit them again by training")
        try:
            means, within = (np.array(data[key], np.float64) for key in ("means", "within"))
            np.linalg.cholesky(within)  # and so it is positive definite
        except (KeyError, TypeError, ValueError, np.linalg.LinAlgError):
            raise wrong from None
        fine = means.shape == (CLASSES, E) and within.shape == (E, E) and np.isfinite(np.vstack([means, within])).all()
        if not fine or not np.array_equal(within, within.T):
            raise wrong
        return cls(tuple(map(tuple, means.tolist())), tuple(map(tuple, within.tolist())))


def logits_of(probabilities_ne: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 6) probabilities of at most one emotion -> (n, 6) logits, that of none being 0."""
    rest = 1 - probabilities_ne.sum(axis=1, keepdims=True)
    return np.log(np.maximum(probabilities_ne, LEAST)) - np.log(np.maximum(rest, LEAST))


def probabilities_of(logits_ne: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of :func:`logits_of`."""
    return Calibration(exclusive=True).apply(logits_ne)


def fit_speakers(
    logits_ne: NDArray[np.float64], speakers: Sequence[Hashable], emotions_ne: NDArray[np.float64]
) -> Speakers | None:
    """Fit on the valid split, never test; ``None`` where it has too few labelled utterances of a class.

    Args:
        logits_ne: (n, 6) of :func:`logits_of`.
        speakers: n; None = unknown, and is left out.
        emotions_ne: (n, 6) labels; a row counts that has all six and at most one that is present.
    """
    known = np.array([speaker is not None for speaker in speakers], bool)
    fit = known & ~np.isnan(emotions_ne).any(axis=1) & ((emotions_ne > 0).sum(axis=1) <= 1)
    rows = np.flatnonzero(fit).tolist()
    there = emotions_ne[rows] > 0
    classes = np.where(there.any(axis=1), there.argmax(axis=1), E)
    if np.bincount(classes, minlength=CLASSES).min() < FEWEST_OF_CLASS:
        return None
    number: dict[Hashable, int] = {}
    by = np.array([number.setdefault(speakers[row], len(number)) for row in rows])
    free = len(rows) - len(number) - (CLASSES - 1)
    if free <= 0:
        return None
    z = logits_ne[rows]
    means = np.array([z[classes == c].mean(axis=0) for c in range(CLASSES)])
    rest = z - means[classes]
    sums = np.zeros((len(number), E))
    np.add.at(sums, by, rest)
    rest -= (sums / np.bincount(by)[:, None])[by]
    scatter = rest.T @ rest
    if not scatter.any():
        return None
    within = (scatter + PULL * np.eye(E) * np.trace(scatter) / free / E) / (free + PULL)
    within = (within + within.T) / 2
    return Speakers(tuple(map(tuple, means.tolist())), tuple(map(tuple, within.tolist())))
