"""What was said and when, whoever wrote it down. Standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its punctuation; ``start`` and ``end`` in seconds of the recording."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """Words that follow each other, of one speaker (``None``: not named)."""

    words: tuple[Word, ...]
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """A transcript of a whole recording.

    Attributes:
        passages: by their start.
        origin: where it is from, in words for people.
        language: an ISO 639-1 code where it is named or was detected, else ``None``.
        language_source: how it is known, in words for people.
        notes: what a reader should know of it.
    """

    passages: tuple[Passage, ...]
    origin: str
    language: str | None = None
    language_source: str = "not checked"
    notes: tuple[str, ...] = field(default=())


def spread(text: str, start: float, end: float) -> tuple[Word, ...]:
    """The words of a text whose own times are not known, over its time by their lengths."""
    parts = text.split()
    total = sum(len(part) + 1 for part in parts)
    words, at = [], 0
    for part in parts:
        begin = start + (end - start) * at / total
        at += len(part) + 1
        words.append(Word(begin, start + (end - start) * at / total, part))
    return tuple(words)


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` within the first hour."""
    whole = int(seconds)
    minutes = f"{whole // 60 % 60}:{whole % 60:02}"
    return f"{whole // 3600}:{minutes:0>5}" if whole >= 3600 else minutes


def name_of(path: Path) -> str:
    """A file's name as text, whatever bytes it is made of."""
    return path.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def joined(words: Sequence[Word]) -> str:
    """The words as a text."""
    return " ".join(word.text for word in words)
