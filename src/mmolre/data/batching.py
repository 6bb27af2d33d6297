"""From stored features to padded batches of similar length."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmolre.schema import EMOTIONS, Utterance

POSITIONS = 2**15
"""Tokens and frames of a batch that is predicted: 64 texts of 512 tokens, or 11 minutes of sound at 50 frames a second,
which take some 1.3 GB."""


class Batch(NamedTuple):
    """A padded batch.

    Attributes:
        ids: B utterance ids.
        features: modality -> (B, T_m, L_m, width_m) float32; a modality that nobody in the batch has is left out.
        masks: modality -> (B, T_m) bool, True at real positions.
        sentiment: (B,), NaN where unlabelled.
        emotions: (B, 6) intensities, NaN where unlabelled.
    """

    ids: list[str]
    features: dict[str, Tensor]
    masks: dict[str, Tensor]
    sentiment: Tensor
    emotions: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(
            self.ids,
            {m: x.to(device) for m, x in self.features.items()},
            {m: x.to(device) for m, x in self.masks.items()},
            self.sentiment.to(device),
            self.emotions.to(device),
        )


def collate(utterances: Sequence[Utterance], arrays: Sequence[Mapping[str, np.ndarray]]) -> Batch:
    """Pad features to the longest of the batch.

    Args:
        utterances: for ids and labels.
        arrays: per utterance, modality -> (T, L, width); an absent modality is absent here too.
    """
    features, masks = {}, {}
    for modality in dict.fromkeys(m for present in arrays for m in present):
        sequences = [present.get(modality) for present in arrays]
        longest = max(len(x) for x in sequences if x is not None)
        shape = next(x.shape[1:] for x in sequences if x is not None)
        values = np.zeros((len(arrays), longest, *shape), dtype=np.float32)
        mask = np.zeros((len(arrays), longest), dtype=bool)
        for row, x in enumerate(sequences):
            if x is not None:
                values[row, : len(x)] = x
                mask[row, : len(x)] = True
        features[modality], masks[modality] = torch.from_numpy(values), torch.from_numpy(mask)
    return Batch([u.id for u in utterances], features, masks, *targets(utterances))


def targets(utterances: Sequence[Utterance]) -> tuple[Tensor, Tensor]:
    """Labels as tensors, (n,) sentiment and (n, 6) emotion intensities, NaN where there is none."""
    nan = float("nan")
    sentiment = torch.tensor([nan if u.sentiment is None else u.sentiment for u in utterances], dtype=torch.float32)
    emotions = torch.tensor([[nan if e is None else e for e in u.emotions] for u in utterances], dtype=torch.float32)
    return sentiment, emotions.view(len(utterances), len(EMOTIONS))


def likeness(present: Mapping[str, np.ndarray]) -> tuple[str, int]:
    """What utterances of one batch should have in common: which modalities are there, and how long they are.

    A batch of one kind costs what its own modalities cost; a mixed one pays for the longest of each in every row.
    """
    return "+".join(sorted(present)), sum(len(x) for x in present.values())


def shuffled_buckets(
    keys: Sequence[Any], batch_size: int, generator: torch.Generator, *, pool: int = 50
) -> list[list[int]]:
    """Random batches of like utterances: shuffle, sort within pools of ``pool`` batches, cut, shuffle the batches.

    Every index appears exactly once; the last batch may be smaller.

    Args:
        keys: what to sort by, e.g. :func:`likeness`.
    """
    order = torch.randperm(len(keys), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), pool * batch_size):
        chunk = sorted(order[start : start + pool * batch_size], key=keys.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def sorted_buckets(keys: Sequence[tuple[str, int]], batch_size: int, positions: int = POSITIONS) -> list[list[int]]:
    """Batches in the order of ``keys``, for inference: least padding, no randomness.

    Args:
        keys: of :func:`likeness`.
        batch_size: utterances at most.
        positions: at most, padding included, where one utterance is not longer by itself: what bounds the memory.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        last = batches[-1] if batches else []
        longest = max([keys[i][1] for i in last] + [keys[index][1]])
        if last and len(last) < batch_size and (len(last) + 1) * longest <= positions:
            last.append(index)
        else:
            batches.append([index])
    return batches
