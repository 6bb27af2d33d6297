"""Faults of ready-made features: what is not a number, what never changes, what knows the label too well (ours).

CMU-MOSI's visual features that circulate with its utterance-level audio predict the polarity of the test split at 85 %,
where honest ones reach 55 %: they carry the labels. So each file is put to the test: a ridge regression from its means
over the frames, fitted on train, scored on the other rows.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmolre.data.feature_file import FeatureFile
from mmolre.schema import EMOTIONS, Utterance

SUSPICIOUS_POLARITY = 0.75
"""Balanced accuracy of the sign of the sentiment; text features reach 0.8, sound 0.5 to 0.65, faces 0.5 to 0.6."""
SUSPICIOUS_AUC = 0.85
SUSPICIOUS_COLUMN = 0.8
"""Correlation of one column with the sentiment."""

_FEWEST = 30  # rows on either side, for a figure to mean anything
_RIDGES = (1.0, 10.0, 100.0, 1e3, 1e4)


def inspect_features(
    rows: Sequence[Utterance], warnings: list[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, frozenset[str]]]:
    """For each feature's name its figures, and the ids of the rows that have it.

    Raises:
        UserError: a feature file that cannot be read.
    """
    paths: dict[str, Path] = {}
    for row in rows:
        paths |= row.features
    figures: dict[str, dict[str, Any]] = {}
    held: dict[str, frozenset[str]] = {}
    for name, path in paths.items():
        file = FeatureFile(path)
        having = [row for row in rows if row.id in file]
        held[name] = frozenset(row.id for row in having)
        figures[name] = _figures(name, file, having, len(rows), warnings)
    return figures, held


def _figures(
    name: str, file: FeatureFile, rows: Sequence[Utterance], total: int, warnings: list[str]
) -> dict[str, Any]:
    if not rows:
        warnings.append(f"features {name}: no id of the file is in the manifest: are they written alike?")
    means = np.zeros((len(rows), file.width), np.float32)
    low, high = np.full(file.width, np.inf), np.full(file.width, -np.inf)
    nan = inf = 0
    for place, row in enumerate(rows):
        array = file.get(row.id)
        if array is None:
            continue
        finite = np.isfinite(array)
        if not finite.all():
            missing = int(np.isnan(array).sum())
            nan, inf = nan + missing, inf + int((~finite).sum()) - missing
            array = np.where(finite, array, np.nan)
        with np.errstate(all="ignore"):
            low, high = np.fmin(low, np.fmin.reduce(array)), np.fmax(high, np.fmax.reduce(array))
            count = finite.sum(axis=0)
            means[place] = np.where(finite, array, 0).sum(axis=0, dtype=np.float64) / np.maximum(count, 1)
    constant = int((~(high > low)).sum()) if rows else 0
    for kind, count in (("NaN", nan), ("infinite", inf)):
        if count:
            warnings.append(f"features {name}: {count} numbers are {kind}: they will be masked")
    if constant:
        warnings.append(f"features {name}: {constant} of {file.width} columns never change")
    frames = np.array([file.frames(row.id) for row in rows]) if rows else np.zeros(1)
    spread = {key: float(np.percentile(frames, place)) for key, place in _PLACES.items()}
    predicts = _predicts(means, rows)
    _judge(name, predicts, warnings)
    return {
        "file": file.path.name,
        "width": file.width,
        "utterances": len(rows),
        "missing": total - len(rows),
        "unused_ids": len(file) - len(rows),
        "frames": spread,
        "nan": nan,
        "inf": inf,
        "constant": constant,
        "predicts": predicts,
    }


_PLACES = {"min": 0, "median": 50, "p95": 95, "max": 100}


def _predicts(means: np.ndarray, rows: Sequence[Utterance]) -> dict[str, Any] | None:
    """How well the features alone tell the labels of rows that are not of train; ``None``: too few to say."""
    train = np.array([row.split == "train" for row in rows], bool)
    found: dict[str, Any] = {}
    known = np.array([row.sentiment is not None for row in rows], bool)
    sentiment = np.array([row.sentiment if row.sentiment is not None else np.nan for row in rows])
    if _enough(train, known):
        fit, score = known & train, known & ~train
        predicted = _ridge(means[fit], sentiment[fit])(means[score])
        truth = sentiment[score]
        found |= {"rows": int(score.sum()), "correlation": _correlation(predicted, truth)}
        found["polarity"] = _balanced(predicted[truth != 0] > np.median(predicted), truth[truth != 0] > 0)
        columns = [abs(_correlation(means[known, i], sentiment[known]) or 0.0) for i in range(means.shape[1])]
        found["best_column"] = max(columns, default=0.0)
    best: float | None = None
    for place in range(len(EMOTIONS)):
        values = [row.emotions[place] for row in rows]
        known = np.array([value is not None for value in values], bool)
        if _enough(train, known):
            truth = np.array([bool(value) for value in values])
            fit, score = known & train, known & ~train
            auc = _auc(_ridge(means[fit], truth[fit].astype(float))(means[score]), truth[score])
            best = auc if best is None else max(best, auc or 0.0)
            found.setdefault("rows", int(score.sum()))
    if best is not None:
        found["best_emotion_auc"] = best
    return found or None


def _enough(train: np.ndarray, known: np.ndarray) -> bool:
    return min((train & known).sum(), (~train & known).sum()) >= _FEWEST


def _judge(name: str, predicts: Mapping[str, Any] | None, warnings: list[str]) -> None:
    predicts = predicts or {}
    limits = {
        "polarity": (SUSPICIOUS_POLARITY, "the polarity of {:.0%} of held-out rows"),
        "best_emotion_auc": (SUSPICIOUS_AUC, "an emotion with an AUC of {:.2f}"),
    }
    for key, (limit, words) in limits.items():
        value = predicts.get(key)
        if value is not None and value >= limit:
            warnings.append(
                f"features {name}: they alone tell {words.format(value)}; text may, but sound or faces that do so may "
                "carry the labels: ask how they were made"
            )
    column = predicts.get("best_column")
    if column is not None and column >= SUSPICIOUS_COLUMN:
        warnings.append(f"features {name}: one column correlates {column:.2f} with the sentiment: it may be the label")


def _ridge(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ridge regression on standardised columns; its strength by generalised cross-validation on the same rows."""
    x = x.astype(np.float64)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1.0
    z = np.clip((x - centre) / scale, -10, 10)
    values, vectors = np.linalg.eigh(z.T @ z)
    values = np.maximum(values, 0)
    mean = y.mean()
    projected = vectors.T @ (z.T @ (y - mean))
    best = (np.inf, np.zeros(x.shape[1]))
    for strength in _RIDGES:
        weights = vectors @ (projected / (values + strength))
        freedom = len(y) - 1 - (values / (values + strength)).sum()
        if freedom > 0:
            error = float(((y - mean - z @ weights) ** 2).sum() / freedom**2)
            best = min(best, (error, weights), key=lambda pair: pair[0])
    weights = best[1]
    return lambda new: np.clip((new - centre) / scale, -10, 10) @ weights + mean


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _balanced(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    if truth.all() or not truth.any():
        return None
    return float((predicted[truth].mean() + (~predicted[~truth]).mean()) / 2)


def _auc(scores: np.ndarray, truth: np.ndarray) -> float | None:
    if truth.all() or not truth.any():
        return None
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positive = int(truth.sum())
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * (len(truth) - positive)))
