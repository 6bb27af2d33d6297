"""How far predicted sentiment is off on valid: what an uncertainty band is made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmolre.evaluate.decision import rows_by_set

LEVELS = (0.1, 0.9)
"""The quantiles that bound the band: four of five utterances of valid lie within."""

FEWEST = 50
"""Fewer labelled utterances give no band."""


def sentiment_error_quantiles(
    predicted: NDArray[np.float64], truth: NDArray[np.float64], modalities: Sequence[tuple[str, ...]]
) -> dict[str, dict[str, float]]:
    """Quantiles of ``truth - predicted``, for all utterances and for each set of modalities that is frequent enough.

    Args:
        predicted: (n,) sentiment, NaN where there is none.
        truth: (n,), NaN = unlabelled.
        modalities: per utterance, what it was predicted from.

    Returns:
        ``all``, ``text``, ``audio``, ``text+audio``, … -> ``low``, ``high`` (sentiment) and ``n``, of how many.
    """
    error = truth - predicted
    found = {"all": np.arange(len(error)), **rows_by_set(modalities)}
    result = {}
    for key, rows in found.items():
        known = error[rows][~np.isnan(error[rows])]
        if len(known) >= FEWEST:
            low, high = np.quantile(known, LEVELS)
            result[key] = {"low": round(float(low), 4), "high": round(float(high), 4), "n": len(known)}
    return result


def band(about: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """What to add to a sentiment predicted from the modalities ``key`` to get its band's ends.

    Args:
        about: a bundle's.
        key: e.g. ``text+audio``; where it is not known of its own, that of all utterances is taken.

    Returns:
        ``None`` where the bundle does not say.
    """
    known = about.get("sentiment_error_quantiles") or {}
    entry = known.get(key) or known.get("all")
    return (float(entry["low"]), float(entry["high"])) if entry else None
