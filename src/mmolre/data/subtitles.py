"""Cues of SubRip (.srt) and WebVTT (.vtt) subtitles."""

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

from mmolre.errors import UserError

_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{2})(?:[.,:](\d{1,9}))?"
_CUE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>", re.IGNORECASE)
_TIMES = re.compile(r"\s*[\d:.,]+\s*-->")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")


class SubtitleCue(NamedTuple):
    """Words and when they are said, in seconds; who says them, where WebVTT's ``<v Name>`` tells."""

    start: float
    end: float
    text: str
    speaker: str | None


def subtitle_cues(content: str, where: str = "") -> Iterator[SubtitleCue]:
    """The cues that have words and last, in their order; times to the millisecond.

    A cue ends where the next one's times stand, in WebVTT at a blank line, too: there are SubRip files without blank
    lines, and some with blank lines within a cue.

    Args:
        where: the file, for messages.

    Raises:
        UserError: a line of times that cannot be read, whose words would be lost.
    """
    web = content.lstrip("\ufeff").startswith("WEBVTT")
    times: tuple[float, float] | None = None
    lines: list[str] = []
    for line in [*re.split(r"\r\n|\n|\r", content), None]:
        match = None if line is None else _CUE.fullmatch(line)
        if line is not None and match is None and _TIMES.match(line):
            before = f"{where}: " if where else ""
            raise UserError(f"{before}{line.strip()[:60]!r} is no line of times such as 00:00:01,500 --> 00:00:03,000")
        if times is not None and (match or line is None or (web and not line.strip())):
            # The number of the next cue is no word; where it stands alone, a blank line before it says so.
            if match and lines and lines[-1].isdecimal() and (len(lines) > 1 or not lines[0]):
                lines.pop()
            yield from _cue(*times, " ".join(lines))
            times = None
        if match:
            times, lines = (_seconds(match.groups()[:4]), _seconds(match.groups()[4:])), []
        elif line is not None and (line.strip() or lines == []):
            lines.append(line.strip())


def _cue(start: float, end: float, text: str) -> Iterator[SubtitleCue]:
    speaker = _VOICE.search(text)
    text = " ".join(html.unescape(_TAG.sub("", text)).split())
    if text and start < end:
        yield SubtitleCue(start, end, text, html.unescape(speaker[1]).strip() if speaker else None)


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, rest = parts
    whole = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
    return whole + round(float(f"0.{rest or 0}"), 3)
