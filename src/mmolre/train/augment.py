"""Voices that are never heard twice alike: a part of each sequence of frames, with gaps, drawn anew in each step."""

import numpy as np
import torch
from numpy.typing import NDArray

from mmolre.train.recipe import AugmentRecipe


def shortened(x_tlw: NDArray, recipe: AugmentRecipe) -> NDArray:
    """Some of the frames, in their order (ours; like the time masks of SpecAugment, Park et al., Interspeech 2019, but
    what is masked is gone).

    First a contiguous part of at least ``keep`` of the frames (rounded), then ``cuts`` gaps in it, each of up to
    ``cut`` of what is there. Lengths and places are uniform, drawn from torch's generator.

    Args:
        x_tlw: (T, L, width), T >= 1.

    Returns:
        (T', L, width), 1 <= T' <= T.
    """
    kept = max(1, round(len(x_tlw) * _uniform(recipe.keep, 1.0)))
    start = _place(len(x_tlw) - kept)
    x = x_tlw[start : start + kept]
    for _ in range(recipe.cuts):
        gap = min(len(x) - 1, int(len(x) * _uniform(0.0, recipe.cut)))
        start = _place(len(x) - gap)
        x = np.concatenate([x[:start], x[start + gap :]])
    return x


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _place(last: int) -> int:
    return int(torch.randint(last + 1, ()))
