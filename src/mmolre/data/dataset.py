"""Utterances with their features, ready for the model; rows that cannot be used are set aside with their reasons."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmolre.data.cache import FeatureCache
from mmolre.encoders.base import Encoder
from mmolre.encoders.extract import FeatureTable, Progress, extract
from mmolre.schema import Utterance


class StoredFeatures(Sequence[Mapping[str, np.ndarray]]):
    """Index -> {modality: (T, L, width) float16}, read from the table when asked for; nothing is held in memory."""

    def __init__(self, table: FeatureTable, rows: Sequence[int], modalities: Sequence[str]) -> None:
        self._table, self._rows, self._modalities = table, rows, modalities

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):  # type: ignore[override]
        if isinstance(index, slice):
            return StoredFeatures(self._table, self._rows[index], self._modalities)
        found = {m: self._table.get(self._rows[index], m) for m in self._modalities}
        return {m: features.values for m, features in found.items() if features is not None}

    def truncated(self, index: int) -> bool:
        """Whether an encoder cut the input at its window."""
        found = (self._table.get(self._rows[index], m) for m in self._modalities)
        return any(features.truncated for features in found if features is not None)


class FailedRow(NamedTuple):
    """A row that was set aside, where it stands, and why."""

    id: str
    row: str
    reason: str


class Dataset(NamedTuple):
    """The usable utterances with their features, and the others with their reasons."""

    utterances: list[Utterance]
    arrays: StoredFeatures
    failed: list[FailedRow]


def build_dataset(
    utterances: Iterable[Utterance],
    encoders: Mapping[str, Encoder],
    cache: FeatureCache | None,
    *,
    progress: Progress | None = None,
) -> Dataset:
    """Encode what is not cached yet, and set aside each row of which a modality failed or none can be read.

    A row is never used with less than it claims to have: a missing sound file sets the whole row aside, text or not.
    """
    rows = list(utterances)
    table = extract(rows, encoders, cache, progress=progress)
    reasons: dict[str, str] = {}
    for failure in table.failures:
        reasons.setdefault(failure.id, failure.reason)
    for utterance in rows:
        if not set(utterance.modalities) & set(encoders):
            has, reads = " and ".join(utterance.modalities), " and ".join(encoders)
            reasons.setdefault(utterance.id, f"it has {has} only, and {reads} is what is read here")
    usable = [i for i, utterance in enumerate(rows) if utterance.id not in reasons]
    failed = [FailedRow(u.id, u.row, reasons[u.id]) for u in rows if u.id in reasons]
    return Dataset([rows[i] for i in usable], StoredFeatures(table, usable, list(encoders)), failed)
