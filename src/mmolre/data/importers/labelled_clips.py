"""A table of labels beside folders of clips, one folder a video: MMML's data and MMSA's raw data, CH-SIMS.

Expected is a folder with ``label.csv`` (or ``meta.csv``): video_id, clip_id, text, label, mode; and the clips
``VIDEO/CLIP.wav`` (or with another ending) in ``wav``, ``Raw`` or other folders of the usual names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmolre.data.importers._common import ImportSummary, check_source, clip_file, count_splits, finish, rescale
from mmolre.data.manifest_fields import LABEL_RANGES, as_number, as_split, as_string
from mmolre.data.manifest_rows import iter_rows
from mmolre.errors import UserError
from mmolre.schema import Utterance

_TABLES = ("label.csv", "labels.csv", "meta.csv")
_EXPECTED = (
    "label.csv (video_id, clip_id, text, label, mode), and the clips as wav/VIDEO/CLIP.wav or Raw/VIDEO/CLIP.mp4"
)
_FOLDERS = ("wav", "audio", "Raw", "raw", "video", ".")
_COLUMNS = ("video_id", "clip_id", "text", "label", "mode")


def import_mmml(sources: Sequence[Path], out: Path) -> ImportSummary:
    """Write the manifest of CMU-MOSI or CMU-MOSEI as MMML and MMSA lay them out: text, sentiment, split, audio.

    Raises:
        UserError: no table of labels, or one of another form.
    """
    return _import("mmml", sources, out, LABEL_RANGES["sentiment"])


def import_ch_sims(sources: Sequence[Path], out: Path) -> ImportSummary:
    """Write the manifest of CH-SIMS (Yu et al., ACL 2020; Chinese): text, sentiment times 3 (it is in [-1, 1]), audio.

    Raises:
        UserError: no table of labels, or one of another form.
    """
    return _import("ch-sims", sources, out, (-1.0, 1.0))


def _import(name: str, sources: Sequence[Path], out: Path, limits: tuple[float, float]) -> ImportSummary:
    folder = check_source(Path(sources[0]), _EXPECTED)
    table = next((folder / table for table in _TABLES if (folder / table).is_file()), None)
    if table is None:
        raise UserError(f"{folder}: no label.csv: expected {_EXPECTED}")
    rows: list[Utterance] = []
    dropped: list[tuple[str, str]] = []
    seen: set[str] = set()
    for number, values in iter_rows(table, ()):
        row = _utterance(values, f"{table.name}:{number}", folder, limits)
        if row.id in seen:
            dropped.append((row.id, "the id was there before"))
        else:
            seen.add(row.id)
            rows.append(row)
    notes = [f"splits: {count_splits(rows)}"]
    notes.append(f"{sum(row.audio is not None for row in rows)} of {len(rows)} utterances have audio")
    if limits != LABEL_RANGES["sentiment"]:
        notes.append(f"sentiment rescaled from [{limits[0]:g}, {limits[1]:g}] to [-3, 3]")
    return finish(name, rows, out, audio_root=folder, dropped=dropped, notes=notes, inputs=[table])


def _utterance(values: dict[str, Any], where: str, folder: Path, limits: tuple[float, float]) -> Utterance:
    absent = [column for column in _COLUMNS if column not in values]
    if absent:
        raise UserError(f"{where}: no column {absent[0]!r}; there are: {', '.join(values)[:200]}")
    video, clip = (as_string(values[column], column, where) for column in ("video_id", "clip_id"))
    if video is None or clip is None:
        raise UserError(f"{where}: a blank video_id or clip_id")
    label = as_number(values["label"], "label", where)
    low, high = limits
    if label is not None and not low - 1e-6 <= label <= high + 1e-6:
        raise UserError(f"{where}: label is {label:g}, outside [{low:g}, {high:g}]")
    return Utterance(
        id=f"{video}_{clip}",
        text=as_string(values["text"], "text", where),
        audio=_clip(folder, video, clip),
        split=as_split(values["mode"], where),
        video_id=video,
        sentiment=None if label is None else rescale(label, low, high),
    )


def _clip(folder: Path, video: str, clip: str) -> Path | None:
    """The clip's file; a spreadsheet may have taken the zeros off its number."""
    if {"/", "\\", "\0"} & set(video + clip):
        return None
    for place in _FOLDERS:
        for stem in dict.fromkeys((clip, clip.zfill(4))):
            found = clip_file(folder / place / video, stem)
            if found is not None:
                return found
    return None
