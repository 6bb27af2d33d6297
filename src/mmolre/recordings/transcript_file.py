"""Reading transcripts: SubRip (.srt), WebVTT (.vtt), JSON as transcribers write it, plain text (.txt).

Times are read to the millisecond. A speaker is read from VTT's ``<v Name>``, JSON's ``speaker``, or ``[NAME]`` or
``NAME:`` where at least two cues begin with it.
"""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmolre.data import language as languages
from mmolre.data.subtitles import subtitle_cues
from mmolre.data.text_file import read_text
from mmolre.errors import UserError
from mmolre.recordings.words import Passage, Transcript, Word, clock, joined, name_of, spread

FORMATS = (".srt", ".vtt", ".json", ".txt")

_SLACK_SECONDS = 2.0  # subtitles often stay a little longer than the sound
_LEAST_SECONDS = 0.01  # before the end, so that a word that comes after it is still one of the recording's
_OVERLAP_SECONDS = 0.5  # cues that follow each other are often let overlap a little
_BRACKETED = re.compile(r"\[([^\[\]]{1,40})\]:?\s+(?=\S)")
_NAMED = re.compile(r"[-–]?\s*([^\W\d_][\w .'’-]{0,30}):\s+(?=\S)")
_SENTENCE_END = re.compile(r"[.!?…。！？]")
_FEWEST_ENDS = 0.1  # of the cues; with fewer the transcript has no punctuation
_FOR_THE_DEAF = ("hi", "cc", "sdh", "forced")
"""What may follow a language in a file's name; ``hi`` alone is Hindi."""
_LANGUAGE_NAMES = {"english": "en", "german": "de", "french": "fr", "spanish": "es", "italian": "it", "chinese": "zh"}


@dataclass(frozen=True, slots=True)
class _Cue:
    start: float
    end: float
    text: str
    speaker: str | None = None
    words: tuple[Word, ...] = ()


def read_transcript(path: Path, seconds: float) -> Transcript:
    """A transcript with times.

    Args:
        path: a file that ends in .srt, .vtt or .json.
        seconds: how long the recording is; words beyond its end mean that it is another one's.

    Raises:
        UserError: not readable, no such format, nothing in it, or it does not fit the recording's length.
    """
    kind = path.suffix.lower()
    if kind not in (".srt", ".vtt", ".json"):
        raise UserError(f"{path}: not a transcript that can be read: use one of {', '.join(FORMATS)}")
    content = read_text(path)
    if kind == ".json":
        cues, language = _json_cues(path, content)
    else:
        cues = [_Cue(*cue) for cue in subtitle_cues(content, str(path))]
        language = _language_of_header(content) if kind == ".vtt" else None
    lost = [cue for cue in cues if cue.start >= cue.end]
    cues = [cue for cue in cues if cue.start < cue.end]
    if not cues:
        raise UserError(f"{path}: no words with times in it; is it really {kind}?")
    named = None if language else _language_of_name(path)
    if named and (named == "en" or languages.detect(" ".join(cue.text for cue in cues)) != "en"):
        language = named  # of "talk.am.srt" the letters may be the morning's
    cues.sort(key=lambda cue: cue.start)
    last = max(cues, key=lambda cue: cue.end)
    if last.end > seconds + _SLACK_SECONDS:
        raise UserError(
            f"{path}: its words go on until {clock(last.end)}, but the recording lasts {clock(seconds)}: "
            "is it the transcript of another one?"
        )
    return Transcript(
        tuple(_passages(_with_speakers(cues), seconds)),
        f"the transcript {name_of(path)}",
        language,
        "named by the transcript" if language else "not checked",
        (_told(lost),) if lost else (),
    )


def within(transcript: Transcript, seconds: float) -> Transcript:
    """What is said in the part of a recording that could be read.

    Words up to 2 s after its end are its last ones; those after that are left out, which a note tells.

    Args:
        seconds: how much could be read.
    """
    latest = max(0.0, seconds - _LEAST_SECONDS)
    passages: list[Passage] = []
    lost: list[Word] = []
    for passage in transcript.passages:
        lost += (w for w in passage.words if w.start >= seconds + _SLACK_SECONDS)
        kept = tuple(
            Word(start := min(w.start, latest), max(min(w.end, seconds), start), w.text)
            for w in passage.words
            if w.start < seconds + _SLACK_SECONDS
        )
        if kept:
            passages.append(replace(passage, words=kept))
    if not lost:
        return replace(transcript, passages=tuple(passages))
    many = f"{len(lost)} words" if len(lost) > 1 else "a word"
    first = min(word.start for word in lost)
    note = f"Left out, as the sound that could be read ends before: {many} of the transcript, from {clock(first)} on."
    return replace(transcript, passages=tuple(passages), notes=(*transcript.notes, note))


def _told(lost: list[_Cue]) -> str:
    """That there are words without a time of theirs."""
    first = f"{lost[0].text[:60]!r} at {clock(lost[0].start)}"
    if len(lost) == 1:
        return f"A passage of the transcript ends before it lasts, and is left out: {first}."
    return f"{len(lost)} passages of the transcript end before they last, and are left out, e.g. {first}."


def _json_cues(path: Path, content: str) -> tuple[list[_Cue], str | None]:
    """Segments of Whisper and its kin, our own timelines, or a bare list of segments."""
    try:
        data = json.loads(content)
        language = None
        if isinstance(data, dict):
            language = _language_code(data.get("language"))
            data = data.get("segments", data.get("utterances", data.get("moments")))
        if not isinstance(data, list):
            raise UserError(f'{path}: expected {{"segments": [{{"start": 0.0, "end": 1.5, "text": "..."}}, ...]}}')
        return [cue for i, item in enumerate(data) if (cue := _json_cue(path, i, item))], language
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not JSON: {reason}") from None


def _json_cue(path: Path, number: int, item: Any) -> _Cue | None:
    try:
        start, end, text = _time(item["start"]), _time(item["end"]), " ".join(_text(item["text"]).split())
        speaker = _text(item.get("speaker")).strip() or None
        words = tuple(
            Word(_time(w["start"]), _time(w["end"]), _text(w.get("word", w.get("text", ""))).strip())
            for w in item.get("words") or []
            if "start" in w and "end" in w
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: segment {number + 1} needs start and end in seconds and text ({type(error).__name__} {error})"
        ) from None
    rising = all(a.start <= b.start and a.start <= a.end for a, b in itertools.pairwise((*words, *words[-1:])))
    if joined(words) != text or not rising:  # some words without times, or odd ones: then all are spread
        words = ()
    return _Cue(start, end, text, speaker, words) if text else None


def _text(value: Any) -> str:
    """JSON may hold half of a surrogate pair, which no file can."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode()


def _time(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"a time of {value}")
    return number


def _language_code(name: Any) -> str | None:
    if not isinstance(name, str):
        return None
    name = name.strip().lower()
    return _LANGUAGE_NAMES.get(name) or (name[:2] if re.fullmatch(r"[a-z]{2}([-_]\w+)?", name) else None)


def _language_of_header(content: str) -> str | None:
    header = re.split(r"\r\n\r\n|\n\n|\r\r", content[:2000], maxsplit=1)[0]
    found = re.search(r"^Language:\s*([A-Za-z]{2})\b", header, re.MULTILINE)
    return found[1].lower() if found else None


def _language_of_name(path: Path) -> str | None:
    """``talk.en.srt`` names it, as players expect."""
    parts = path.name.lower().split(".")[:-1]
    if len(parts) > 2 and parts[-1] in _FOR_THE_DEAF:
        parts.pop()
    return parts[-1] if len(parts) > 1 and re.fullmatch(r"[a-z]{2}", parts[-1]) and parts[-1] != "cc" else None


def _with_speakers(cues: list[_Cue]) -> list[_Cue]:
    """Names at the beginning of cues become speakers."""
    if any(cue.speaker for cue in cues):
        return cues
    found = [_BRACKETED.match(cue.text) or _NAMED.match(cue.text) for cue in cues]
    found = [match if match and not match[1][0].islower() else None for match in found]  # [laughs], "note: "
    count = Counter(match[1] for match in found if match)
    named = []
    for cue, match in zip(cues, found, strict=True):
        if match and count[match[1]] > 1:
            cue = _Cue(cue.start, cue.end, cue.text[match.end() :], match[1].strip())
        named.append(cue)
    return named


def _passages(cues: list[_Cue], seconds: float) -> Iterator[Passage]:
    """Cues joined as long as the speaker stays the same, so that sentences may run over several of them.

    Without punctuation nothing says where a sentence ends but the cues themselves: then each is a passage. A cue that
    begins well before the last one's end is another voice's, named or not, and a passage, too.
    """
    ends = sum(bool(_SENTENCE_END.search(cue.text)) for cue in cues)
    alone = ends < _FEWEST_ENDS * len(cues)
    latest = max(0.0, seconds - _LEAST_SECONDS)
    words: list[Word] = []
    speaker: str | None = None
    for cue in cues:
        if words and (alone or cue.speaker != speaker or cue.start < words[-1].end - _OVERLAP_SECONDS):
            yield Passage(tuple(words), speaker)
            words = []
        speaker = cue.speaker
        own = cue.words or spread(cue.text, min(cue.start, latest), min(cue.end, seconds))
        for word in own:
            start = max(min(word.start, latest), words[-1].start if words else 0.0)
            words.append(Word(start, max(min(word.end, seconds), start), word.text))
    if words:
        yield Passage(tuple(words), speaker)
