"""Words with times to utterances: at the ends of sentences, at pauses, and never longer than an encoder's window."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mmolre.recordings.words import Passage, Word, joined

LONGEST_SECONDS = 20.0
"""Of an utterance; Whisper's window is 30 s, and what the models learned from lasts 7 s in the mean."""

PAUSE_SECONDS = 0.7
_SHORT_SECONDS = 0.8
_SHORT_WORDS = 3
_JOIN_SECONDS = 1.0  # a scrap is joined to a neighbour that is no farther away

_SENTENCE_END = re.compile(r""".*[.!?…。！？]["'”’»)\]]*""", re.DOTALL)
_ABBREVIATION = re.compile(r"(?:mr|mrs|ms|dr|st|prof|vs|etc|e\.g|i\.e|no|[a-z])\.", re.IGNORECASE)
_CLAUSE_END = re.compile(r""".*[,;:–—]["'”’»)\]]*""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Cut:
    """An utterance: what was said from ``start`` to ``end`` (seconds), by whom."""

    start: float
    end: float
    text: str
    speaker: str | None = None


def cut(
    passages: Sequence[Passage],
    *,
    longest: float = LONGEST_SECONDS,
    fits: Callable[[str], bool] = lambda _: True,
) -> list[Cut]:
    """Cut passages into utterances, by their start.

    Args:
        passages: of the whole recording.
        longest: seconds.
        fits: whether a text fits the text encoder's window; a single word is never cut.
    """
    cuts = []
    for passage in passages:
        for piece in _joined_scraps(list(_sentences(passage.words)), longest):
            for words in _short_enough(piece, longest, fits):
                end = min(words[-1].end, words[0].start + longest)  # only a lone word can still be longer
                cuts.append(Cut(round(words[0].start, 3), round(end, 3), joined(words), passage.speaker))
    return sorted(cuts, key=lambda c: (c.start, c.end))


def _sentences(words: Sequence[Word]) -> Iterator[list[Word]]:
    piece: list[Word] = []
    for i, word in enumerate(words):
        piece.append(word)
        following = words[i + 1] if i + 1 < len(words) else None
        ends = _SENTENCE_END.fullmatch(word.text) and not _ABBREVIATION.fullmatch(word.text)
        if following is None or ends or following.start - word.end >= PAUSE_SECONDS:
            yield piece
            piece = []


def _joined_scraps(pieces: list[list[Word]], longest: float) -> list[list[Word]]:
    """One or two words alone say little: they go to the nearer neighbour, if one is near."""
    done: list[list[Word]] = []
    for piece in pieces:
        if done and (_is_scrap(piece) or _is_scrap(done[-1])):
            near = piece[0].start - done[-1][-1].end <= _JOIN_SECONDS
            if near and piece[-1].end - done[-1][0].start <= longest:
                done[-1] += piece
                continue
        done.append(list(piece))
    return done


def _is_scrap(piece: Sequence[Word]) -> bool:
    return len(piece) < _SHORT_WORDS or piece[-1].end - piece[0].start < _SHORT_SECONDS


def _short_enough(words: list[Word], longest: float, fits: Callable[[str], bool]) -> Iterator[list[Word]]:
    if len(words) == 1 or (words[-1].end - words[0].start <= longest and fits(joined(words))):
        yield words
        return
    length = words[-1].end - words[0].start or 1.0

    def worth(i: int) -> float:
        """Of cutting before word i: a pause or a clause's end, not far from the middle."""
        before, after = words[i - 1], words[i]
        off_middle = abs((after.start + before.end) / 2 - (words[0].start + words[-1].end) / 2) / length
        return (after.start - before.end) + 0.3 * bool(_CLAUSE_END.fullmatch(before.text)) - off_middle

    # Of equally good places that in the middle: words that share one time are cut in half, and in half again.
    best = max(range(1, len(words)), key=lambda i: (worth(i), -abs(2 * i - len(words))))
    yield from _short_enough(words[:best], longest, fits)
    yield from _short_enough(words[best:], longest, fits)
