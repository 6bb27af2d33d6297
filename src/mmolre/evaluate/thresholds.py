"""From emotion probabilities to decisions: thresholds, fitted on the valid split, one family per metric.

Every published emotion metric wants its own threshold (the best one for weighted accuracy is far from the best one for
F1), so each is fitted for its own metric and kept under its name. The fit is exact: it tries every cut between two
distinct scores, by cumulative sums over the sorted scores. An emotion is predicted iff its probability is >= its
threshold. Applying thresholds needs numpy alone.

Thresholds that are best for the labels of valid are too well adapted to them, most of all those of rare emotions. Once
probabilities are calibrated, they say themselves how often an emotion is there; thresholds that are best for what is
then expected hold better on other utterances (ours; docs/log.md has the measurement).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmolre.errors import UserError
from mmolre.schema import EMOTIONS

E = len(EMOTIONS)
JACCARD_UNIT = 60  # a multiple of every union's size (1 to 6), so that sums of Jaccard indices are whole numbers


@dataclass(frozen=True, slots=True)
class EmotionThresholds:
    """Thresholds on probabilities, each for the metric it is named after. Emotions in the order of ``EMOTIONS``.

    Attributes:
        wa: six, for the weighted accuracy (TPR + TNR) / 2 of each emotion.
        macro_f1: six, for the F1 of each emotion; they also decide :func:`present`.
        micro_f1: one in common, for F1 over all cells; also used for hamming.
        jaccard: one in common, for the mean Jaccard index (an empty sample counting 0).
        top_none: :func:`top` names no emotion where the largest probability is below it.
        rest: the probabilities are of at most one emotion, and :func:`top` names none where what they leave of 1 is
            larger than any of them, instead. Nothing of this is fitted.
    """

    wa: tuple[float, ...]
    macro_f1: tuple[float, ...]
    micro_f1: float
    jaccard: float
    top_none: float
    rest: bool = False

    @classmethod
    def default(cls) -> Self:
        """.5 everywhere: what is used where nothing was fitted."""
        return cls((0.5,) * E, (0.5,) * E, 0.5, 0.5, 0.5)

    @classmethod
    def mean(cls, parts: Sequence[Self]) -> Self:
        """The mean of several, in logit space: the rule by which ``calibration.combine`` combines modalities (ours).

        A sample that lies exactly on every modality's threshold then lies on the combined one. Of one modality with
        ``rest`` and others without, ``top_none`` counts.
        """

        def average(name: str) -> NDArray[np.float64]:
            p = np.clip(np.array([getattr(part, name) for part in parts], np.float64), 1e-6, 1 - 1e-6)
            return 1 / (1 + np.exp(-np.mean(np.log(p) - np.log1p(-p), axis=0)))

        return cls(
            wa=tuple(average("wa").tolist()),
            macro_f1=tuple(average("macro_f1").tolist()),
            micro_f1=float(average("micro_f1")),
            jaccard=float(average("jaccard")),
            top_none=float(average("top_none")),
            rest=all(part.rest for part in parts),
        )

    def to_json(self) -> dict[str, Any]:
        """A dict of numbers and lists; :meth:`from_json` gives back exactly the same thresholds."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return values if self.rest else {key: value for key, value in values.items() if key != "rest"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            UserError: a key is missing or unknown, or a value is not a number or six.
        """
        try:
            wa, macro = (tuple(float(v) for v in data[key]) for key in ("wa", "macro_f1"))
            common = (float(data[key]) for key in ("micro_f1", "jaccard", "top_none"))
            thresholds = cls(wa, macro, *common, rest=data.get("rest", False) is True)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"emotion thresholds: unreadable ({error!r}); fit them again by evaluating on valid"
            ) from None
        if (
            not len(wa) == len(macro) == E
            or len(data) != 5 + ("rest" in data)
            or not all(np.isfinite([*wa, *macro, *_common(thresholds)]))
        ):
            raise UserError(
                "emotion thresholds: not six numbers per emotion family; fit them again by evaluating on valid"
            )
        return thresholds


def _common(t: EmotionThresholds) -> tuple[float, float, float]:
    return t.micro_f1, t.jaccard, t.top_none


def modality_key(modalities: Sequence[str]) -> str:
    """The name of a set of modalities, under which its thresholds are kept, e.g. ``text+audio``: those two first, the
    others after them by name."""
    known = [m for m in ("text", "audio") if m in modalities]
    return "+".join([*known, *sorted(set(modalities) - set(known))])


def thresholds_for(by_set: Mapping[str, EmotionThresholds], modalities: Sequence[str]) -> EmotionThresholds:
    """The thresholds of a set of modalities: its own; else the mean of its modalities' own; else the default."""
    key = modality_key(modalities)
    if key in by_set:
        return by_set[key]
    parts = [by_set[m] for m in key.split("+") if m in by_set]
    return EmotionThresholds.mean(parts) if parts else EmotionThresholds.default()


def present(prob: ArrayLike, thresholds: EmotionThresholds) -> list[list[str]]:
    """(n, 6) probabilities -> for each sample the names of the emotions at or over their macro-F1 threshold."""
    over = np.asarray(prob, np.float64) >= np.array(thresholds.macro_f1)
    return [[name for name, there in zip(EMOTIONS, row, strict=True) if there] for row in over]


def top(prob: ArrayLike, thresholds: EmotionThresholds) -> list[str | None]:
    """(n, 6) probabilities -> for each sample the most likely emotion, ``None`` where it is below ``top_none``, or
    with ``rest`` where none of them is likelier."""
    prob = np.asarray(prob, np.float64)
    best = prob.argmax(axis=1)
    named = prob.max(axis=1) >= none_below(prob, thresholds.top_none, thresholds.rest)
    return [EMOTIONS[e] if there else None for e, there in zip(best, named, strict=True)]


def none_below(prob: NDArray[np.float64], top_none: ArrayLike, rest: ArrayLike) -> NDArray[np.float64]:
    """(n, 6) probabilities -> (n,) what the largest must reach to be named by :func:`top`."""
    return np.where(rest, 1 - prob.sum(axis=1), top_none)


def fit_thresholds(prob: ArrayLike, truth: ArrayLike, *, calibrated: bool = False) -> EmotionThresholds:
    """Fit every family's thresholds for its own metric. Give it the valid split, never test (yardsticks).

    Among equally good cuts the middle of the widest run of them is taken, the one nearest .5 if several are as wide
    (ours). A threshold stays .5 where its metric has nothing to decide: an emotion (or, for the common ones, all
    cells together) not labelled both present and absent; for ``top_none``, no sample with exactly one emotion.

    Args:
        prob: (n, 6) probabilities in [0, 1].
        truth: (n, 6) intensities, present iff > 0, ``NaN`` where unlabelled. Jaccard uses the samples with all six
            labels, ``top_none`` those of them with at most one emotion present, the rest every labelled cell.
        calibrated: the probabilities are calibrated: weighted accuracy and F1 are those expected of labels drawn by
            them, instead of those of the labels themselves.

    Raises:
        ValueError: shapes other than (n, 6).
        UserError: a labelled cell's probability is not in [0, 1].
    """
    prob, there, labelled = as_cells(prob, truth)
    columns = [labelled[:, e] for e in range(E)]
    decided = [0 < there[rows, e].sum() < rows.sum() for e, rows in enumerate(columns)]
    # How much each cell is there: 0 or 1 by its label, or its probability.
    degree = prob if calibrated else there.astype(np.float64)
    complete = labelled.all(axis=1)

    def each(fit: Callable[[NDArray[np.float64], NDArray[np.float64]], float]) -> tuple[float, ...]:
        pairs = zip(columns, decided, strict=True)
        return tuple(fit(prob[rows, e], degree[rows, e]) if some else 0.5 for e, (rows, some) in enumerate(pairs))

    return EmotionThresholds(
        wa=each(_fit_wa),
        macro_f1=each(_fit_f1),
        micro_f1=_fit_f1(prob[labelled], degree[labelled]) if 0 < there[labelled].sum() < labelled.sum() else 0.5,
        jaccard=_fit_jaccard(prob[complete], there[complete]),
        top_none=_fit_top(prob[complete], there[complete]),
    )


def as_cells(prob: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Probabilities and intensities -> (n, 6) probabilities (float64), present, labelled.

    Raises:
        ValueError: shapes other than (n, 6).
        UserError: a labelled cell's probability is not in [0, 1].
    """
    prob, truth = np.asarray(prob, np.float64), np.asarray(truth, np.float64)
    if prob.ndim != 2 or prob.shape[1] != E or prob.shape != truth.shape:
        raise ValueError(f"probabilities and intensities must both be (n, {E}), not {prob.shape} and {truth.shape}")
    labelled = ~np.isnan(truth)
    if bad := int((~((prob >= 0) & (prob <= 1)) & labelled).sum()):
        raise UserError(
            f"emotion: {bad} of {labelled.sum()} predictions are not probabilities in [0, 1];"
            " evaluate an earlier checkpoint"
        )
    return prob, truth > 0, labelled


def _fit_wa(scores: NDArray[np.float64], degree: NDArray[np.float64]) -> float:
    cuts, tp, fp = _sweep(scores, degree, 1 - degree)
    # TPR - FPR, times what makes it a whole number where the degrees are: so ties are exact
    return _pick(cuts, tp * (1 - degree).sum() - fp * degree.sum())


def _fit_f1(scores: NDArray[np.float64], degree: NDArray[np.float64]) -> float:
    cuts, tp, fp = _sweep(scores, degree, 1 - degree)
    return _pick(cuts, 2 * tp / (tp + fp + degree.sum()))


def _fit_jaccard(prob: NDArray[np.float64], there: NDArray[np.bool_]) -> float:
    if not there.any() or there.all():
        return 0.5
    # As the threshold falls, a sample's emotions enter in the order of their probability; each entry changes the
    # sample's index by a known step, so the sum over samples is a cumulative sum over all entries.
    order = np.argsort(-prob, axis=1, kind="stable")
    hits = np.take_along_axis(there, order, axis=1).cumsum(axis=1)
    union = np.arange(1, E + 1) + there.sum(axis=1, keepdims=True) - hits
    index = JACCARD_UNIT * hits // union
    steps = np.diff(index, axis=1, prepend=0)
    cuts, total = _sweep(np.take_along_axis(prob, order, axis=1).ravel(), steps.ravel())
    return _pick(cuts, total)


def _fit_top(prob: NDArray[np.float64], there: NDArray[np.bool_]) -> float:
    n_there = there.sum(axis=1)
    if not (n_there == 1).any():
        return 0.5
    prob, there, n_there = prob[n_there <= 1], there[n_there <= 1], n_there[n_there <= 1]
    right = there[np.arange(len(prob)), prob.argmax(axis=1)]
    cuts, gained, lost = _sweep(prob.max(axis=1), right, n_there == 0)
    return _pick(cuts, gained - lost)


def _sweep(scores: NDArray[np.float64], *amounts: NDArray) -> tuple[NDArray, ...]:
    """What each amount sums to over the scores admitted, for a threshold falling from above all to below all scores.

    Returns:
        (k,) the distinct scores, falling; then for each amount (k + 1,) sums, the first (nothing admitted) 0.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # equal scores are admitted together
    sums = [np.concatenate([[0], np.cumsum(a[order], dtype=np.float64)[last]]) for a in amounts]
    return ranked[last], *sums


def _pick(cuts: NDArray[np.float64], value: NDArray) -> float:
    """The centre of the widest run of thresholds of the highest value.

    Args:
        cuts: (k,) distinct scores in [0, 1], falling.
        value: (k + 1,) the metric with the first 0, 1, ..., k of them admitted.
    """
    low = np.append(cuts, 0.0)  # the thresholds that admit the first i are those in (low[i], high[i]]
    high = np.insert(cuts, 0, max(1.0, np.nextafter(cuts[0], 2)))
    best = np.concatenate([[False], value == value.max(), [False]])
    edges = np.flatnonzero(np.diff(best))
    lows, highs = low[edges[1::2] - 1], high[edges[0::2]]
    centres = (lows + highs) / 2
    centres = np.where(centres > lows, centres, highs)  # two neighbouring floats have no middle
    return float(centres[np.lexsort([np.abs(centres - 0.5), lows - highs])[0]])
