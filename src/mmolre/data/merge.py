"""Several manifests of the same utterances into one: each row says what any of them says of it (ours)."""

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmolre.data.feature_file import FeatureFile, write_feature_file
from mmolre.data.importers import ImportSummary
from mmolre.data.manifest import read_manifest, write_manifest
from mmolre.data.manifest_rows import SUFFIXES
from mmolre.data.manifest_sidecar import files_of_others, sidecar_path
from mmolre.data.manifest_write import audio_folder
from mmolre.data.provenance import provenance_path, write_provenance
from mmolre.errors import UserError
from mmolre.files import cannot_write, refuse_folders, refuse_inputs
from mmolre.schema import EMOTIONS, Utterance

On = Literal["id", "times"]
_Interval = tuple[float, float | None]
Rows = Literal["all", "first", "common"]

_CLOSE = 1e-3  # labels that differ by less were rounded
_STEP = 0.05  # seconds: times of one segment in two sources
_TOGETHER = ("audio", "start", "end", "cut")  # of one source, or they mean nothing
_TIMES = ("start", "end")
_ALONE = ("text", "split", "speaker", "video_id", "sentiment")


def merge_manifests(paths: Sequence[Path], out: Path, *, on: On = "id", rows: Rows = "all") -> ImportSummary:
    """Merge manifests; of what two say differently, the first one's word is kept and the conflict listed.

    Labels that differ by less than 0.001 are the same, and so are texts that differ in capitals and signs, and times
    that differ by no more than 0.05 s. Audio and its times come from one source together; whether two sources' audio is
    the same is not looked at. Feature files are copied beside the new manifest; two that bear one name
    and differ are kept apart as NAME and NAME-2, for features of different sources are not the same features.

    Args:
        paths: the most trusted first.
        out: a folder, or the manifest.
        on: rows are the same where their ids are; or, ``times``, where video_id, start and end (as far as both say it)
            are, to 0.05 s. Then the id is the first one's.
        rows: those of any manifest, of the first one, or of all.

    Raises:
        UserError: fewer than two manifests, a bad one, no row in common, one id for rows of different times; a file
            that cannot be written. What was there before is then as it was.
    """
    paths = [Path(path) for path in paths]
    manifest = out if out.suffix.lower() in SUFFIXES else out / "manifest.csv"
    refuse_inputs(manifest, paths)
    if len(paths) < 2:
        raise UserError("merging needs two manifests or more")
    sources = [read_manifest(path) for path in paths]
    known: dict[str, list[_Interval]] = {}
    notes: list[str] = []
    keyed = [_keyed(path, source, on, known, notes) for path, source in zip(paths, sources, strict=True)]
    keys = _chosen(keyed, rows)
    if not any(key in other for key in keyed[0] for other in keyed[1:]):
        raise UserError(f"{paths[1]} has no row of {paths[0]}: is --on {on} right? Ids are, e.g., {_ids(sources)}")
    conflicts: list[tuple[str, str]] = []
    merged = [_merged([of[key] for of in keyed if key in of], conflicts) for key in keys]
    twice = [name for name, count in Counter(row.id for row in merged).items() if count > 1]
    if twice:
        raise UserError(f"the id {twice[0]!r} is that of two rows whose times differ: merge on ids, or --rows first")
    ids = {key: row.id for of in reversed(keyed) for key, row in of.items()}
    wanted = set(keys)
    renamed = [{row.id: ids[key] for key, row in of.items() if key in wanted} for of in keyed]
    counts = [sum(key in of for key in keys) for of in keyed]
    notes += [f"{count} of {len(keys)} rows are in {path}" for path, count in zip(paths, counts, strict=True)]
    notes += _told(conflicts, manifest)
    gathered = _gather(paths, sources, renamed, manifest, notes)
    files = {name: copy.target for name, copy in gathered.items()}
    refuse_inputs(manifest, [file for source in sources for file in _files(source)])
    refuse_folders([manifest, sidecar_path(manifest), provenance_path(manifest), *files.values()])
    merged = [replace(row, features=files) for row in merged]
    root = audio_folder(merged)
    inside = root is None or manifest.parent.absolute() in (root, *root.parents)
    try:
        near = next(folder for folder in manifest.absolute().parents if folder.is_dir())
        with tempfile.TemporaryDirectory(prefix=f".{manifest.name}.", dir=near) as folder:
            copied = {name: copy.write(Path(folder)) for name, copy in gathered.items()}
            write_manifest(manifest, merged, audio_root=None if inside else root)
            for name, file in copied.items():
                file.replace(files[name])
    except OSError as error:
        raise cannot_write(manifest, error) from error
    write_provenance(
        manifest,
        source="merge",
        inputs=paths,
        features=files,
        rows=merged,
        conflicts=conflicts,
        notes=notes,
        options={"on": on, "rows": rows},
    )
    return ImportSummary(manifest, len(merged), [], notes)


def _told(conflicts: Sequence[tuple[str, str]], manifest: Path) -> list[str]:
    """The conflicts by column, the first of each in words."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for key, what in conflicts:
        kinds.setdefault(what.partition(":")[0], []).append((key, what))
    return [
        f"{len(of)} conflicts, e.g. {of[0][0]}, {of[0][1]}: the first is kept; all in {provenance_path(manifest).name}"
        for of in kinds.values()
    ]


def _ids(sources: Sequence[Sequence[Utterance]]) -> str:
    return " and ".join(repr(source[0].id) for source in sources[:2])


def _keyed(
    path: Path, rows: Sequence[Utterance], on: On, known: dict[str, list[_Interval]], notes: list[str]
) -> dict[Any, Utterance]:
    """The rows by what they are the same by; ``known``: the intervals of each video in those before, added to."""
    if on == "id":
        return {row.id: row for row in rows}
    near: list[tuple[float, int, Any]] = []
    for number, row in enumerate(rows):
        if row.video_id is None or row.start is None:
            raise UserError(f"{path.parent / row.row}: --on times needs video_id and start in each row")
        distance, interval = _nearest(known.get(row.video_id, []), (row.start, row.end))
        near.append((distance, number, (row.video_id, interval)))
    taken: dict[Any, int] = {}
    own: dict[int, Any] = {}
    alike: list[str] = []
    for _, number, key in sorted(near, key=lambda of: of[:2]):  # who fits best is the same, whatever the order of rows
        if key in taken:
            alike.append(f"{rows[number].id} as {rows[taken[key]].id}")
            own[number] = (path, rows[number].id)
        else:
            taken[key], own[number] = number, key
    found: dict[Any, Utterance] = {own[number]: row for number, row in enumerate(rows)}
    for video, interval in (key for key in found if isinstance(key[0], str)):
        if interval not in known.setdefault(video, []):
            known[video].append(interval)
    if alike:
        notes.append(f"{len(alike)} rows of {path} have the times of another: not merged, e.g. {alike[0]}")
    return found


def _nearest(intervals: Sequence[_Interval], own: _Interval) -> tuple[float, _Interval]:
    """How far that of ``intervals`` is which is nearest, and it, if it is near enough to be the same; else ``own``."""

    def distance(other: _Interval) -> float:
        ends = 0.0 if own[1] is None or other[1] is None else abs(other[1] - own[1])
        return max(abs(other[0] - own[0]), ends)

    nearest = min(intervals, key=distance, default=own)
    return (distance(nearest), nearest) if distance(nearest) <= _STEP else (0.0, own)


def _chosen(keyed: Sequence[Mapping[Any, Utterance]], rows: Rows) -> list[Any]:
    if rows == "first":
        return list(keyed[0])
    every = dict.fromkeys(key for of in keyed for key in of)
    return [key for key in every if rows == "all" or all(key in of for of in keyed)]


def _merged(rows: Sequence[Utterance], conflicts: list[tuple[str, str]]) -> Utterance:
    first = rows[0]
    values: dict[str, Any] = {}
    for name in _ALONE:
        said = [getattr(row, name) for row in rows if getattr(row, name) is not None]
        values[name] = _agreed(first.id, name, said, conflicts)
    emotions = []
    for place, name in enumerate(EMOTIONS):
        said = [row.emotions[place] for row in rows if row.emotions[place] is not None]
        emotions.append(_agreed(first.id, name, said, conflicts))
    voiced = next((row for row in rows if row.audio is not None), None)
    timed = voiced or next((row for row in rows if row.start is not None), first)
    values |= {name: getattr(timed, name) for name in _TOGETHER}
    for name in _TIMES:
        said = [getattr(row, name) for row in (timed, *rows) if getattr(row, name) is not None]
        conflicts += [(first.id, f"{name}: {said[0]:g} and {x:g}") for x in said if abs(x - said[0]) > _STEP]
    return replace(first, **values, emotions=tuple(emotions))


def _agreed(key: str, name: str, said: Sequence[Any], conflicts: list[tuple[str, str]]) -> Any:
    for other in said[1:]:
        if name == "text":
            same = "".join(filter(str.isalnum, other.lower())) == "".join(filter(str.isalnum, said[0].lower()))
        elif isinstance(other, float):
            same = abs(other - said[0]) < _CLOSE
        else:
            same = other == said[0]
        if not same:
            conflicts.append((key, f"{name}: {_short(said[0])} and {_short(other)}"))
    return said[0] if said else None


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value[:60])


class _Copy(NamedTuple):
    """A feature file that is to lie beside the new manifest; ``ids``: the merged rows' by its own, if they differ."""

    source: Path
    target: Path
    ids: Mapping[str, str] | None

    def write(self, folder: Path) -> Path:
        """Write it into ``folder`` for the time being."""
        beside = folder / self.target.name
        if self.ids is None:
            shutil.copyfile(self.source, beside)
        else:
            opened = FeatureFile(self.source)
            found = ((self.ids[old], opened.get(old)) for old in opened.ids if old in self.ids)
            write_feature_file(beside, ((new, array) for new, array in found if array is not None))
        return beside


def _gather(
    paths: Sequence[Path],
    sources: Sequence[Sequence[Utterance]],
    renamed: Sequence[Mapping[str, str]],
    manifest: Path,
    notes: list[str],
) -> dict[str, _Copy]:
    """All feature files that have anything of the merged rows, by the name that they get."""
    prefix = "" if manifest.stem == "manifest" else f"{manifest.stem}."
    gathered: dict[str, _Copy] = {}
    known: set[tuple[str, str]] = set()
    read = {os.path.realpath(file): path for path, of in zip(paths, sources, strict=True) for file in _files(of)}
    read |= files_of_others(manifest)
    for path, rows, ids in zip(paths, sources, renamed, strict=True):
        for name, file in rows[0].features.items() if rows else ():
            digest = _hash(file)
            if (name, digest) in known:
                continue
            known.add((name, digest))
            held = FeatureFile(file).ids
            if ids.keys().isdisjoint(held):
                notes.append(f"features {name} of {path} are left out: no row here has any")
                continue
            number, free = 2, name
            while free in gathered:
                free, number = f"{name}-{number}", number + 1
            if free != name:
                notes.append(f"features {name} of {path} differ from those before: they are {free} here")
            same = all(ids.get(old) == old for old in held)
            suffix = file.suffix.lower() if same else ".safetensors"
            target = (manifest.parent / f"{prefix}{free}{suffix}").absolute()
            if other := read.get(os.path.realpath(target)):
                raise UserError(f"{target}: merge into another folder than that of {other}")
            gathered[free] = _Copy(file, target, None if same else ids)
    return gathered


def _files(rows: Sequence[Utterance]) -> list[Path]:
    return list(rows[0].features.values()) if rows else []


def _hash(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None


_OTHER = {"id", "emotions", "features", "row", "surroundings"}
assert {*_ALONE, *_TOGETHER, *_OTHER} == {field.name for field in fields(Utterance)}
