"""Manifests, the one form that all else reads: a CSV, JSONL or Parquet file with one utterance a row.

Columns (all others are ignored; one that looks like a misspelt column is warned of):

- ``id``, or ``video_id`` and ``clip_id``, from which it is made: ``video_id_clip_id``. Always text, unique.
- ``text``, ``audio``: at least one of them in each row, unless there are ready-made features; blank is absent.
  ``audio`` is a path relative to the audio
  root: ``audio_root`` where given, else what the sidecar names, else the manifest's folder. It may not leave the root,
  by ``..``, as an absolute path or through a link. Whether the file is there is not looked at here, so that a row whose
  own file is missing stops no job.
- ``start``, ``end``: seconds. They cut the utterance out of ``audio`` where both are given and 0 <= start < end;
  beside no audio they are information only. Odd values are warned of once per file; with audio, a negative start is
  read as 0, and a pair that then is no interval cuts nothing (the whole file is the utterance).
- ``split``: train, valid or test (also training, val, dev, validation), or blank.
- ``sentiment`` in [-3, 3]; ``happy``, ``sad``, ``anger``, ``surprise``, ``disgust``, ``fear`` in [0, 3].
  Blank (also nan, null, none, na) is *not labelled*, never 0.
- ``speaker``: for grouping, and for reading a speaker's voices together.

The sidecar of ``m.csv`` is ``m.csv.json``, :mod:`mmolre.data.manifest_sidecar`: where the audio lies if elsewhere than
the manifest, and the files of ready-made features.
"""

import difflib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmolre.data.manifest_fields import as_label, as_seconds, as_split, as_string
from mmolre.data.manifest_rows import check_suffix, iter_rows
from mmolre.data.manifest_sidecar import Sidecar, read_sidecar
from mmolre.data.manifest_write import write_manifest
from mmolre.data.surroundings import surrounded
from mmolre.errors import UserError
from mmolre.schema import EMOTIONS, Utterance

__all__ = ["COLUMNS", "ManifestWarning", "iter_manifest", "read_manifest", "read_manifests", "write_manifest"]

COLUMNS = (
    *("id", "video_id", "clip_id", "split", "text", "audio", "start", "end", "speaker", "sentiment"),
    *EMOTIONS,
)


class ManifestWarning(UserWarning):
    """Something odd in a manifest that does not keep it from being read."""


def read_manifest(path: Path, *, audio_root: Path | None = None, require_splits: bool = False) -> list[Utterance]:
    """All utterances of a manifest, in its order; see :func:`iter_manifest`."""
    return list(iter_manifest(path, audio_root=audio_root, require_splits=require_splits))


def read_manifests(
    paths: Iterable[Path], *, audio_root: Path | None = None, require_splits: bool = False
) -> list[Utterance]:
    """All utterances of several manifests, one after the other, each with its surroundings.

    Raises:
        UserError: as :func:`iter_manifest`, and for an id that two of them hold.

    Warns:
        ManifestWarning: as there, and for a ``video_id`` that two of them hold.
    """
    utterances: list[Utterance] = []
    seen: dict[str, str] = {}
    videos: dict[str, Path] = {}
    common: dict[str, tuple[Path, Path]] = {}
    for path in map(Path, paths):
        for utterance in iter_manifest(path, audio_root=audio_root, require_splits=require_splits):
            row = str(path.parent / utterance.row)  # two manifests in two folders may bear the same name
            if utterance.id in seen:
                raise UserError(f"{row}: the id {utterance.id!r} is also that of {seen[utterance.id]}: ids must differ")
            seen[utterance.id] = row
            utterances.append(utterance)
            if utterance.video_id is not None and videos.setdefault(utterance.video_id, path) != path:
                common.setdefault(utterance.video_id, (videos[utterance.video_id], path))
    if common:
        (name, (first, second)), *_ = common.items()
        _warn(
            f"{len(common)} video_id(s), e.g. {name!r}, are in {first} and in {second}: each is read as one recording; "
            "where it is two, make them differ"
        )
    return surrounded(utterances)


def iter_manifest(path: Path, *, audio_root: Path | None = None, require_splits: bool = False) -> Iterator[Utterance]:
    """The utterances of a manifest one by one, in bounded memory (of each id only a hash is kept).

    Args:
        audio_root: the folder that ``audio`` is relative to; default: the sidecar's, else the manifest's own folder.
        require_splits: a row with a blank split is an error.

    Raises:
        UserError: at once for a file or audio root that is not there and an unknown format; while iterating, naming
            ``file:row``, for a missing column, a blank or duplicate id, a row without text and audio, a label out of
            range, an unknown split, what is not a number, an audio path that leaves its root, a damaged file, no rows.

    Warns:
        ManifestWarning: at the end, for odd start/end and for columns that look misspelt.
    """
    path = Path(path)
    check_suffix(path)
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such manifest'}")
    sidecar = read_sidecar(path)
    return _utterances(path, _audio_root(path, audio_root, sidecar), sidecar.features, require_splits)


def _utterances(path: Path, root: Path, features: dict[str, Path], require_splits: bool) -> Iterator[Utterance]:
    real_root = os.path.realpath(root)
    ids: set[int] = set()
    columns: dict[str, None] = {}
    keys = None
    n_odd = first_odd = 0
    for number, row in iter_rows(path, COLUMNS):
        where = f"{path.name}:{number}"
        if row.keys() != keys:
            keys = row.keys()
            _check_columns(path, number, list(keys), bool(features))
            columns |= dict.fromkeys(keys)
        utterance, odd = _utterance(row, where, root, real_root, features)
        if require_splits and utterance.split is None:
            raise UserError(f"{where}: no split: give train, valid or test in the column 'split'")
        if hash(utterance.id) in ids:  # a set of hashes is small; the rare hit is looked up in the file itself
            first = next(n for n, other in iter_rows(path, COLUMNS) if _id(other, f"{path.name}:{n}") == utterance.id)
            if first != number:
                raise UserError(f"{where}: the id {utterance.id!r} is also that of row {first}: ids must differ")
        ids.add(hash(utterance.id))
        if odd:
            n_odd, first_odd = n_odd + 1, first_odd or number
        yield utterance
    if not ids:
        raise UserError(f"{path}: the manifest is empty: it needs one row for each utterance")
    if n_odd:
        _warn(
            f"{path.name}: odd start/end (negative, start >= end, or one alone beside audio) in {n_odd} row(s), first "
            f"row {first_odd}: ignored where there is no audio, else a negative start is 0 and no interval is no cut"
        )
    _warn_of_misspelt(path, list(columns))


def _utterance(
    row: dict[str, Any], where: str, root: Path, real_root: str, features: dict[str, Path]
) -> tuple[Utterance, bool]:
    """The row's utterance, and whether its start and end are odd."""
    get = row.get
    text = as_string(get("text"), "text", where)
    audio = as_string(get("audio"), "audio", where)
    if text is None and audio is None and not features:
        raise UserError(f"{where}: neither text nor audio: fill in one, or remove the row")
    start = as_seconds(get("start"), "start", where)
    end = as_seconds(get("end"), "end", where)
    odd = any(time is not None and time < 0 for time in (start, end))
    odd |= start is not None and end is not None and start >= end
    cut = False
    if audio is not None:
        odd |= (start is None) != (end is None)
        if start is not None and end is not None:
            start = max(start, 0.0)
            cut = start < end
    utterance = Utterance(
        id=_id(row, where),
        text=text,
        audio=None if audio is None else _inside(audio, root, real_root, where),
        start=start,
        end=end,
        cut=cut,
        split=as_split(get("split"), where),
        speaker=as_string(get("speaker"), "speaker", where),
        video_id=as_string(get("video_id"), "video_id", where),
        sentiment=as_label(get("sentiment"), "sentiment", where),
        emotions=tuple(as_label(get(name), name, where) for name in EMOTIONS),
        features=features,
        row=where,
    )
    return utterance, odd


def _id(row: dict[str, Any], where: str) -> str:
    parts = [as_string(row.get("id"), "id", where)]
    if parts[0] is None:
        parts = [as_string(row.get(name), name, where) for name in ("video_id", "clip_id")]
    if None in parts:
        raise UserError(f"{where}: the id is blank: give each row an id of its own")
    return "_".join(part for part in parts if part is not None)


def _inside(audio: str, root: Path, real_root: str, where: str) -> Path:
    path = root / audio
    try:
        real = os.path.realpath(path)
        if os.path.commonpath((real, real_root)) == real_root:
            return path
    except ValueError:  # a NUL in the name
        pass
    raise UserError(f"{where}: the audio path {audio!r} leaves its root {root}: set --audio-root to a folder above it")


def _audio_root(manifest: Path, given: Path | None, sidecar: Sidecar) -> Path:
    """The absolute folder that ``audio`` is relative to."""
    if given is not None:
        root, source = Path(given), "--audio-root"
    elif sidecar.audio_root is not None:
        root, source = sidecar.audio_root, f"{sidecar.path.name}; pass --audio-root"
    else:
        root, source = manifest.parent, "the manifest's folder"
    if not root.is_dir():
        raise UserError(f"{root}: the audio root is not a folder (from {source})")
    return root.absolute()


def _check_columns(path: Path, row: int, columns: list[str], has_features: bool) -> None:
    has = set(columns).__contains__
    if not has("id") and not (has("video_id") and has("clip_id")):
        missing = "'id' (or 'video_id' and 'clip_id')"
    elif not has("text") and not has("audio") and not has_features:
        missing = "'text' or 'audio'"
    else:
        return
    where = f"{path}:{row}" if path.suffix.lower() == ".jsonl" else str(path)
    raise UserError(f"{where}: no column {missing}; there are: {', '.join(columns)[:200] or 'none'}")


def misspelt(columns: Sequence[str]) -> list[tuple[str, str]]:
    """Columns that are none of ours, and which of ours, not there, each is like."""
    absent = [name for name in COLUMNS if name not in columns]
    found = []
    for column in columns:
        near = difflib.get_close_matches(column.lower(), absent, 1, cutoff=0.75) if column not in COLUMNS else []
        found += [(column, near[0])] if near else []
    return found


def _warn_of_misspelt(path: Path, columns: list[str]) -> None:
    for column, meant in misspelt(columns):
        _warn(f"{path.name}: the column {column!r} is ignored: is {meant!r} meant?")


def _warn(message: str) -> None:
    warnings.warn(message, ManifestWarning, stacklevel=2)
