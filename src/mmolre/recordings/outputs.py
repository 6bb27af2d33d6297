"""A timeline as files: JSON, CSV, and subtitles with the mood in each cue."""

import csv
import io
import json

from mmolre.recordings.summary import mood, signed
from mmolre.recordings.timeline import COLUMNS, Moment, Timeline


def as_json(timeline: Timeline) -> str:
    """``timeline.json``; :func:`mmolre.recordings.timeline.read_timeline` reads it back."""
    return json.dumps(timeline.to_json(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def as_csv(timeline: Timeline) -> str:
    """``timeline.csv``: a row per utterance. What a spreadsheet would run as a formula gets a ' before it."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for row in timeline.rows():
        writer.writerow({key: _harmless(value) if isinstance(value, str) else value for key, value in row.items()})
    return text.getvalue()


def as_vtt(timeline: Timeline) -> str:
    """WebVTT: the words of each utterance and, below, how they sound, which is not read back as words."""
    parts = ["WEBVTT" + (f"\nLanguage: {timeline.language}" if timeline.language else "")]
    for m in timeline.moments:
        voice = f"<v {_escaped(m.speaker)}>" if m.speaker else ""
        parts.append(f"{_stamp(m.start)} --> {_stamp(m.end)}\n{voice}{_escaped(m.text)}\n{_mood_of(m)}")
    return "\n\n".join(parts) + "\n"


def _mood_of(m: Moment) -> str:
    return f"<c.mood>{_escaped(mood_line(m))}</c>"


def mood_line(m: Moment) -> str:
    """E.g. ``[+1.2 slightly positive, happy 72%]``."""
    if not m.scored:
        return f"[{m.unscored}]"
    said = [] if m.sentiment is None else [f"{signed(m.sentiment)} {mood(m.sentiment)}"]
    return f"[{', '.join(said + [f'{name} {m.emotions[name]:.0%}' for name in m.present])}]"


def _harmless(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _escaped(text: str) -> str:
    text = " ".join(text.split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _stamp(seconds: float) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{thousandths:03}"
