"""Cues of SubRip (.srt) and WebVTT (.vtt) subtitles."""

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_CUE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^>]*>|<\d[\d:.]*>|\{\\[^}]*\}")


class SubtitleCue(NamedTuple):
    """Words and when they are said, in seconds; who says them, where WebVTT's ``<v Name>`` tells."""

    start: float
    end: float
    text: str
    speaker: str | None


def subtitle_cues(content: str) -> Iterator[SubtitleCue]:
    """The cues that have words and last, in their order; times to the millisecond.

    A cue ends at a blank line, or where the next one's times stand: there are files without blank lines.
    """
    times: tuple[float, float] | None = None
    lines: list[str] = []
    for line in [*content.splitlines(), ""]:
        match = _CUE.fullmatch(line)
        if times is not None and (match or not line.strip()):
            if match and len(lines) > 1 and lines[-1].isdecimal():
                lines.pop()  # the number of the next cue
            yield from _cue(*times, " ".join(lines))
            times = None
        if match:
            times, lines = (_seconds(match.groups()[:4]), _seconds(match.groups()[4:])), []
        elif line.strip():
            lines.append(line.strip())


def _cue(start: float, end: float, text: str) -> Iterator[SubtitleCue]:
    speaker = _VOICE.search(text)
    text = " ".join(html.unescape(_TAG.sub("", text)).split())
    if text and start < end:
        yield SubtitleCue(start, end, text, html.unescape(speaker[1]).strip() if speaker else None)


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, rest = parts
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + int((rest or "0").ljust(3, "0")) / 1000
