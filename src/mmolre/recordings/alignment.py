"""Plain text and a transcription of the same speech: the words of the one, the times of the other."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

from mmolre.data.text_file import read_text
from mmolre.errors import UserError
from mmolre.recordings.words import Passage, Transcript, Word, name_of

_LONGEST_STEP = 0.5  # seconds a word
_LEAST_MATCH = 0.3  # of the text's words; a tiny transcriber hears more than that even in poor sound


def align_text(path: Path, heard: Transcript) -> Transcript:
    """Give each word of a text the time at which it was heard; words that were misheard share the time between.

    Args:
        path: a plain text in UTF-8, all that is said and nothing else.
        heard: a transcription of the recording.

    Raises:
        UserError: the text cannot be read, is empty, or is not what is said.
    """
    words = read_text(path).split()
    if not words:
        raise UserError(f"{path}: no words in it")
    times = [word for passage in heard.passages for word in passage.words]
    plain = [_plain(w) for w in words], [_plain(w.text) for w in times]
    matcher = SequenceMatcher(None, *plain, autojunk=False)  # else from 200 words on the frequent ones match nothing
    blocks = [block for block in matcher.get_matching_blocks() if block.size]
    matched = sum(block.size for block in blocks)
    if matched < _LEAST_MATCH * len(words):
        raise UserError(
            f"{path}: only {matched} of its {len(words)} words were heard in the recording: is it another one's text?"
        )
    timed: list[Word] = []
    at_text = at_heard = 0
    for block in blocks:
        timed += _between(words[at_text : block.a], times, at_heard, block.b)
        timed += [
            Word(t.start, t.end, w)
            for w, t in zip(words[block.a : block.a + block.size], times[block.b : block.b + block.size], strict=True)
        ]
        at_text, at_heard = block.a + block.size, block.b + block.size
    timed += _between(words[at_text:], times, at_heard, len(times))
    note = "The text has no times: they are those at which its words were heard by the automatic transcription."
    return Transcript(
        (Passage(tuple(timed)),),
        f"the text {name_of(path)}",
        heard.language,
        heard.language_source,
        (*heard.notes, note),
    )


def _plain(word: str) -> str:
    return "".join(char for char in word.lower() if char.isalnum())


def _between(words: Sequence[str], times: Sequence[Word], first: int, last: int) -> list[Word]:
    """Words that were misheard, evenly over the time of what was heard instead, or of the gap."""
    if not words:
        return []
    if first < last:
        start, end = times[first].start, times[last - 1].end
    else:
        start = times[first - 1].end if first else times[0].start
        end = times[last].start if last < len(times) else start
    step = max(end - start, 0.0) / len(words)
    if first >= last:  # nothing was heard: a word does not last as long as a silence
        step = min(step, _LONGEST_STEP)
    return [Word(start + i * step, start + (i + 1) * step, word) for i, word in enumerate(words)]
