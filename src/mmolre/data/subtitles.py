"""Cues of SubRip (.srt) and WebVTT (.vtt) subtitles."""

import html
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from mmolre.errors import UserError

_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{2})(?:[.,:](\d{1,9}))?"
_CUE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>", re.IGNORECASE)
_TIMES = re.compile(r"\s*[\d:.,]+\s*-->")
_MOMENT = 0.05
"""Seconds; as long as rolling captions stand still."""
_MOOD = re.compile(r"<c\.mood>.*?</c>")
"""What we write into subtitles ourselves (:func:`mmolre.recordings.outputs.as_vtt`): nobody says it."""
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")


class SubtitleCue(NamedTuple):
    """Words and when they are said, in seconds; who says them, where WebVTT's ``<v Name>`` tells."""

    start: float
    end: float
    text: str
    speaker: str | None


def subtitle_cues(content: str, where: str = "") -> Iterator[SubtitleCue]:
    """The cues that have words, in their order; times to the millisecond. Damaged ones end no later than they begin.

    A cue ends where the next one's times stand, in WebVTT at an empty line, too: there are SubRip files without empty
    lines, and some with empty lines within a cue. Captions that roll, as YouTube's do, say each line again above the
    next, and alone for a moment: it is read once. A cue of several voices becomes one for each, by their lengths.

    Args:
        where: the file, for messages.

    Raises:
        UserError: a line of times that cannot be read, whose words would be lost.
    """
    for cue in _rolled(list(_raw_cues(content, where))):
        yield from _voices(cue)


class _Raw(NamedTuple):
    start: float
    end: float
    lines: list[str]


def _raw_cues(content: str, where: str) -> Iterator[_Raw]:
    content = content.lstrip("\ufeff")
    web = content.startswith("WEBVTT")
    times: tuple[float, float] | None = None
    lines: list[str] = []
    rows = re.split(r"\r\n|\n|\r", content)
    before_first = itertools.takewhile(lambda row: not _CUE.fullmatch(row), rows)
    numbered = "".join([row.strip() for row in before_first if row.strip()][-1:]).isdecimal()
    for i, line in enumerate([*rows, None]):
        match = None if line is None else _CUE.fullmatch(line)
        if line is not None and match is None and _TIMES.match(line):
            before = f"{where}: " if where else ""
            raise UserError(f"{before}{line.strip()[:60]!r} is no line of times such as 00:00:01,500 --> 00:00:03,000")
        if times is not None and (match or line is None or (web and not line)):
            # The number of the next cue is no word. A blank line before it says so, or that cues are numbered at all.
            if match and len(lines) > 1 and lines[-1].isdecimal():
                apart = bool(rows[i - 1].strip()) and not rows[i - 2].strip()
                if apart or numbered:
                    lines.pop()
            yield _Raw(*times, [text for text in lines if text])
            times = None
        if match:
            times, lines = (_seconds(match.groups()[:4]), _seconds(match.groups()[4:])), []
        elif line is not None and (line.strip() or lines == []):
            lines.append(line.strip())


def _rolled(cues: list[_Raw]) -> list[_Raw]:
    """Each line of captions that roll once. They do so where a cue says the last line again for a moment."""

    def again(before: _Raw, cue: _Raw) -> bool:
        near = abs(cue.start - before.end) <= _MOMENT
        return near and bool(before.lines and cue.lines) and _plain(before.lines[-1]) == _plain(cue.lines[0])

    repeats = [False, *(again(a, b) for a, b in itertools.pairwise(cues))]
    if not any(r and c.end - c.start <= _MOMENT and len(c.lines) == 1 for r, c in zip(repeats, cues, strict=False)):
        return cues
    return [c._replace(lines=c.lines[1:]) if r else c for r, c in zip(repeats, cues, strict=False)]


def _voices(cue: _Raw) -> Iterator[SubtitleCue]:
    first, *named = _VOICE.split(" ".join(cue.lines))
    parts: list[tuple[str, str | None]] = [(_plain(first), None)]
    parts += [(_plain(text), html.unescape(name).strip()) for name, text in zip(named[::2], named[1::2], strict=True)]
    if len(parts) > 1 and not any(map(str.isalnum, parts[0][0])):  # a dash
        (mark, _), (text, name) = parts[:2]
        parts[:2] = [(f"{mark} {text}".strip(), name)]
    parts = [part for part in parts if part[0]]
    whole = sum(len(text) for text, _ in parts)
    said = 0
    for text, name in parts:
        start, end = (round(cue.start + (cue.end - cue.start) * n / whole, 3) for n in (said, said + len(text)))
        said += len(text)
        yield SubtitleCue(start, end, text, name)


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", _MOOD.sub("", text))).split())


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, rest = parts
    whole = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
    return whole + round(float(f"0.{rest or 0}"), 3)
