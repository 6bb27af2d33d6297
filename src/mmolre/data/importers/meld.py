"""MELD: dialogues of a TV series, with seven emotions and three sentiments (Poria et al., ACL 2019).

Expected is a folder with ``train_sent_emo.csv``, ``dev_sent_emo.csv`` and ``test_sent_emo.csv``, as many as there are,
and the clips ``diaD_uttU.mp4`` (or with another ending) in folders whose names tell the split, as the corpus has them.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mmolre.data.importers._common import (
    EMOTION_OF,
    MEDIA_SUFFIXES,
    ImportSummary,
    check_source,
    count_splits,
    finish,
    one_emotion,
)
from mmolre.data.manifest_fields import as_string
from mmolre.data.manifest_rows import iter_rows
from mmolre.errors import UserError
from mmolre.schema import Utterance

_EXPECTED = "train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv"
_SPLITS = {"train": "train", "dev": "valid", "test": "test"}
_CLIP = re.compile(r"dia\d+_utt\d+")
_TIME = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d+)")
_POLARITY = {"negative": -1.0, "neutral": 0.0, "positive": 1.0}
# The files were once saved with the wrong encoding: Windows' quotes and dashes are control characters in them.
_CONTROLS = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}


def import_meld(
    sources: Sequence[Path], out: Path, *, sentiment: Literal["polarity", "none"] = "polarity"
) -> ImportSummary:
    """Write the manifest: text, speaker, emotions, and audio where the clip is there.

    The named emotion gets intensity 1 (joy is happy) and the others 0; neutral is six zeros. The three sentiments
    become -1, 0 and 1 with ``polarity``, for they have no intensity; with ``none`` they are left out. A clip is the
    whole utterance, so rows with audio get no start and end; in the others these are times in the episode.

    Raises:
        UserError: none of the files, or one that is damaged.
    """
    folder = check_source(Path(sources[0]), _EXPECTED)
    files = {name: folder / f"{name}_sent_emo.csv" for name in _SPLITS}
    files = {name: path for name, path in files.items() if path.is_file()}
    if not files:
        raise UserError(f"{folder}: nothing of MELD there: expected {_EXPECTED}")
    clips = _clips(folder)
    rows: dict[str, Utterance] = {}
    dropped: list[tuple[str, str]] = []
    for name, path in files.items():
        for number, values in iter_rows(path, ()):
            row = _utterance(values, name, f"{path.name}:{number}", sentiment)
            clip = clips.get((name, row.id.removeprefix(f"{name}_")))
            if clip is not None:
                row = replace(row, audio=clip, start=None, end=None)
            if row.id in rows:
                dropped.append((row.id, "the id was there before"))
            else:
                rows[row.id] = row
    utterances = list(rows.values())
    notes = [f"splits: {count_splits(utterances)}"]
    notes.append(f"{sum(row.audio is not None for row in utterances)} of {len(utterances)} utterances have audio")
    if sentiment == "polarity":
        notes.append("sentiment: negative, neutral, positive are -1, 0, 1")
    return finish(
        "meld",
        utterances,
        out,
        audio_root=folder,
        dropped=dropped,
        notes=notes,
        inputs=files.values(),
        options={"sentiment": sentiment},
    )


def _utterance(values: dict[str, Any], name: str, where: str, sentiment: str) -> Utterance:
    def get(column: str) -> str | None:
        if column not in values:
            raise UserError(f"{where}: no column {column!r}: expected MELD's own files ({_EXPECTED})")
        return as_string(values[column], column, where)

    dialogue, utterance = get("Dialogue_ID"), get("Utterance_ID")
    emotion, polarity = (get("Emotion") or "").lower(), (get("Sentiment") or "").lower()
    for column, value, known in (("Emotion", emotion, EMOTION_OF), ("Sentiment", polarity, _POLARITY)):
        if value and value not in known:
            raise UserError(f"{where}: {column} is {value!r}, not one of {', '.join(known)}")
    return Utterance(
        id=f"{name}_dia{dialogue}_utt{utterance}",
        text=(get("Utterance") or "").translate(_CONTROLS).strip() or None,
        start=_seconds(get("StartTime")),
        end=_seconds(get("EndTime")),
        split=_SPLITS[name],
        speaker=get("Speaker"),
        video_id=f"{name}_dia{dialogue}",
        sentiment=_POLARITY[polarity] if polarity and sentiment == "polarity" else None,
        emotions=one_emotion(EMOTION_OF[emotion]) if emotion else (None,) * 6,
    )


def _seconds(time: str | None) -> float | None:
    match = _TIME.fullmatch(time or "")
    if match is None:
        return None
    hours, minutes, seconds = map(int, match.groups()[:3])
    return hours * 3600 + minutes * 60 + seconds + float(f"0.{match[4]}")


def _clips(folder: Path) -> dict[tuple[str, str], Path]:
    """Clips by split and name; the split is what a folder above the clip is called by."""
    clips: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.rglob("dia*_utt*.*"), key=lambda path: (_preference(path), path)):
        if _CLIP.fullmatch(path.stem) and path.suffix.lower() in MEDIA_SUFFIXES:
            words = set(re.split(r"[^a-z]+", str(path.parent.relative_to(folder)).lower()))
            for name in _SPLITS:
                if name in words:
                    clips.setdefault((name, path.stem), path)
    return clips


def _preference(path: Path) -> int:
    suffix = path.suffix.lower()
    return MEDIA_SUFFIXES.index(suffix) if suffix in MEDIA_SUFFIXES else len(MEDIA_SUFFIXES)
