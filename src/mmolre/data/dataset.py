"""Utterances with their features, ready for the model; rows that cannot be used are set aside with their reasons."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, overload

import numpy as np

from mmolre.data.cache import FeatureCache, Features
from mmolre.data.readymade import ReadyMade
from mmolre.encoders.base import Encoder
from mmolre.encoders.extract import Progress, extract
from mmolre.schema import Utterance

Source = Encoder | ReadyMade
"""Where a modality comes from."""


class StoredFeatures(Sequence[Mapping[str, np.ndarray]]):
    """Index -> {modality: (T, L, width)}, read when asked for; nothing is held in memory.

    Args:
        readers: modality -> row of the data set -> its features, ``None`` where absent.
        rows: the rows that are used.
    """

    def __init__(self, readers: Mapping[str, Callable[[int], Features | None]], rows: Sequence[int]) -> None:
        self._readers, self._rows = readers, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredFeatures": ...
    def __getitem__(self, index: int | slice) -> "dict[str, np.ndarray] | StoredFeatures":
        if isinstance(index, slice):
            return StoredFeatures(self._readers, self._rows[index])
        found = {m: read(self._rows[index]) for m, read in self._readers.items()}
        return {m: features.values for m, features in found.items() if features is not None}

    def truncated(self, index: int) -> bool:
        """Whether an encoder cut the input at its window."""
        found = (read(self._rows[index]) for read in self._readers.values())
        return any(features.truncated for features in found if features is not None)


class FailedRow(NamedTuple):
    """A row that was set aside, where it stands, and why."""

    id: str
    row: str
    reason: str


class Rows(NamedTuple):
    """Utterances of one split, with their stored features: index -> {modality: (T, L, width)}."""

    utterances: list[Utterance]
    arrays: Sequence[Mapping[str, np.ndarray]]


class Dataset(NamedTuple):
    """The usable utterances with their features; those that failed; those with nothing in them that is read here."""

    utterances: list[Utterance]
    arrays: StoredFeatures
    failed: list[FailedRow]
    empty: list[FailedRow]


def build_dataset(
    utterances: Iterable[Utterance],
    sources: Mapping[str, Source],
    cache: FeatureCache | None,
    *,
    progress: Progress | None = None,
) -> Dataset:
    """Encode what is not cached yet, and set aside each row of which a modality failed or none can be read.

    A row is never used with less than it claims to have: a missing sound file sets the whole row aside, text or not.
    (Of ready-made features a manifest claims only that a file may hold them.)

    Args:
        sources: modality -> encoder, or ready-made features.

    Raises:
        UserError: encoder weights or a feature file are missing, or the cache cannot be written.
    """
    rows = list(utterances)
    encoders = {m: source for m, source in sources.items() if isinstance(source, Encoder)}
    table = extract(rows, encoders, cache, progress=progress)
    readers: dict[str, Callable[[int], Features | None]] = {}
    for modality, source in sources.items():
        if isinstance(source, ReadyMade):
            readers[modality] = lambda i, source=source: source.read(rows[i])
        else:
            readers[modality] = lambda i, modality=modality: table.get(i, modality)
    reasons: dict[str, str] = {}
    for failure in table.failures:
        reasons.setdefault(failure.id, failure.reason)
    usable: list[int] = []
    failed: list[FailedRow] = []
    empty: list[FailedRow] = []
    whence = " (features come with a manifest)" if len(encoders) < len(sources) else ""
    for i, utterance in enumerate(rows):
        if utterance.id in reasons:
            failed.append(FailedRow(utterance.id, utterance.row, reasons[utterance.id]))
        elif any(read(i) is not None for read in readers.values()):
            usable.append(i)
        else:
            reason = f"the utterance has no {' or '.join(sources)}, which is all that is read here{whence}"
            empty.append(FailedRow(utterance.id, utterance.row, reason))
    return Dataset([rows[i] for i in usable], StoredFeatures(readers, usable), failed, empty)
