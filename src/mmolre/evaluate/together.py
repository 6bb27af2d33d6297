"""Utterances that are read with others: collected until all are known, in whatever order and pieces they come."""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmolre.evaluate.context import Context, Recordings, outputs, values
from mmolre.evaluate.speaker import FEWEST, Speakers, logits_of, probabilities_of
from mmolre.evaluate.thresholds import modality_key

BySpeaker = tuple[str, str | None, str]
"""Set of modalities, recording and speaker: "A" of one call is not "A" of the next."""


class OnTheirOwn(NamedTuple):
    """Of n utterances, what is predicted of each on its own, and what it is one of.

    Attributes:
        modalities: what was read.
        recordings, speakers: None = of none, unknown.
        sentiment, probabilities: (n,), (n, 6); NaN without the task.
    """

    modalities: Sequence[tuple[str, ...]]
    recordings: Sequence[str | None]
    speakers: Sequence[str | None]
    sentiment: NDArray[np.float64]
    probabilities: NDArray[np.float64]


def companions(own: OnTheirOwn, exclusive: Set[str]) -> tuple[list[str | None], list[BySpeaker | None]]:
    """Of each, what it is read with: its recording, or its speaker; ``None`` for the other, and where it is unknown.

    Args:
        exclusive: the sets of modalities that hold at most one emotion.
    """
    within: list[str | None] = []
    by: list[BySpeaker | None] = []
    for row, recording, speaker in zip(own.modalities, own.recordings, own.speakers, strict=True):
        key = modality_key(row)
        within.append(None if key in exclusive else recording)
        by.append((key, recording, speaker) if key in exclusive and speaker is not None else None)
    return within, by


class Together:
    """Utterances, and how they are read with each other.

    One that may have several emotions is read in the light of the others of its recording
    (:mod:`mmolre.evaluate.context`); one with at most one, of its speaker's (:mod:`mmolre.evaluate.speaker`): their
    probabilities come to 1 with that of none, which shifting each by itself would break.
    """

    def __init__(self, context: Context, speakers: Mapping[str, Speakers], exclusive: frozenset[str]) -> None:
        """Begin with none; ``exclusive``: the sets of modalities that hold at most one emotion."""
        self._context, self._speakers, self._exclusive = context, speakers, exclusive
        self._sums = Recordings()
        self._logits: dict[BySpeaker, list[NDArray[np.float64]]] = {}
        self._shifts: dict[BySpeaker, NDArray[np.float64]] = {}

    def add(self, own: OnTheirOwn) -> None:
        """Count utterances in."""
        within, by = self._of(own)
        self._sums.add(within, values(own.sentiment, own.probabilities))
        for i, key in enumerate(by):
            if key is not None:
                self._logits.setdefault(key, []).append(logits_of(own.probabilities[i : i + 1]))
                self._shifts.pop(key, None)

    @property
    def with_others(self) -> int:
        """How many of those counted in are read with others of their recordings, or of their speakers where these are
        enough to tell (:data:`mmolre.evaluate.speaker.FEWEST`)."""
        of_speakers = [len(logits) for logits in self._logits.values()]
        return self._sums.with_others + sum(count for count in of_speakers if count >= FEWEST)

    def read(self, own: OnTheirOwn) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Some of those that were counted in, in the light of all: (n,) sentiment and (n, 6) probabilities.

        Both are shifted from values that are clipped first (:func:`mmolre.evaluate.context.values`), where nothing
        shifts them, too; sentiment may be out of its range after its shift. A speaker's utterances shift probabilities
        as :func:`mmolre.evaluate.speaker.logits_of` reads them.
        """
        within, by = self._of(own)
        alone = values(own.sentiment, own.probabilities)
        sentiment, read = outputs(self._context.apply(alone, self._sums.others(within, alone)))
        for i, key in enumerate(by):
            if key is not None and (shift := self._shift(key)).any():
                read[i] = probabilities_of(logits_of(own.probabilities[i : i + 1]) - shift)
        return sentiment, read

    def _of(self, own: OnTheirOwn) -> tuple[list[str | None], list[BySpeaker | None]]:
        within, by = companions(own, self._exclusive)
        return within, [key if key is not None and key[0] in self._speakers else None for key in by]

    def _shift(self, key: BySpeaker) -> NDArray[np.float64]:
        if key not in self._shifts:
            self._shifts[key] = self._speakers[key[0]].shift(np.concatenate(self._logits[key]))
        return self._shifts[key]
