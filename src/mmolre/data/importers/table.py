"""Any table with an utterance a row: CSV, JSONL or Parquet, its columns named by options (``mmolre import csv``)."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmolre.data.importers._common import (
    EMOTION_OF,
    ImportSummary,
    count_splits,
    finish,
    one_emotion,
    rescale,
    split_of,
)
from mmolre.data.manifest import COLUMNS, misspelt
from mmolre.data.manifest_fields import LABEL_RANGES, as_label, as_number, as_seconds, as_split, as_string
from mmolre.data.manifest_rows import iter_rows
from mmolre.errors import UserError
from mmolre.schema import EMOTIONS, Utterance

TARGETS = (*COLUMNS, "emotion")


@dataclass(frozen=True)
class TableOptions:
    """How a table is read.

    Attributes:
        columns: ours -> theirs, for those that are called otherwise. ``emotion`` is one column with an emotion's name.
        scales: a label's name, or ``emotions`` for all six -> its range in the table, mapped linearly to ours.
        delimiter, encoding: of a CSV file.
        audio_root: what the audio column is relative to; by default the table's folder.
        folds: fractions of train, valid and test, for a table without a split; None leaves them blank.
        group: the column of ours whose rows must share a split: video_id, speaker or id.
        features: name -> file of ready-made features by id: .safetensors, .parquet or .npz.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    audio_root: Path | None = None
    folds: tuple[float, float, float] | None = None
    group: str = "video_id"
    features: Mapping[str, Path] = field(default_factory=dict)


def import_csv(sources: Sequence[Path], out: Path, options: TableOptions | None = None) -> ImportSummary:
    """Write the manifest of one or several tables.

    A row without an id is called by its file and number. A label is rescaled by ``low + (value - a) / (b - a) x (high -
    low)`` from the table's [a, b] to ours.

    Raises:
        UserError: a table that cannot be read, a column that is not there, a value that does not fit (file and row).
    """
    options = options or TableOptions()
    _check(options)
    rows: list[Utterance] = []
    seen: dict[str, tuple[Path, int]] = {}
    notes = [
        "{} rescaled from [{:g}, {:g}] to [{:g}, {:g}]".format(name, *scale, *_own_range(name))
        for name, scale in options.scales.items()
    ]
    for path in map(Path, sources):
        for number, values in _rows(path, options, notes):
            where = f"{path}:{number}"
            row = _utterance(values, where, path, options)
            if row.id in seen:
                other, line = seen[row.id]
                first = f"row {line}" if other == path else f"{other}:{line}"
                raise UserError(f"{where}: the id {row.id!r} is also that of {first}: ids must differ")
            seen[row.id] = path, number
            rows.append(row)
    if uncut := [row.id for row in rows if row.audio and row.start is not None and row.end is not None and not row.cut]:
        notes.append(
            f"{len(uncut)} rows do not start before they end, e.g. {uncut[0]}: their recordings are read whole"
        )
    if any(row.split for row in rows):
        notes.append(f"splits: {count_splits(rows)}")
    root = options.audio_root or Path(sources[0]).parent
    return finish(
        "csv",
        rows,
        out,
        audio_root=root,
        notes=notes,
        inputs=[*map(Path, sources), *options.features.values()],
        features={name: read_arrays(path) for name, path in options.features.items()},
        options={"columns": options.columns, "scales": options.scales, "folds": options.folds, "group": options.group},
    )


def _check(options: TableOptions) -> None:
    for target in options.columns:
        if target not in TARGETS:
            raise UserError(f"--map {target}=…: there is no column {target!r}: choose from {', '.join(TARGETS)}")
    for name, (low, high) in options.scales.items():
        if name not in (*LABEL_RANGES, "emotions"):
            raise UserError(f"--scale {name}=…: choose from {', '.join(LABEL_RANGES)}, emotions")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"--scale {name}={low:g}..{high:g}: the first must be below the second")
    folds = options.folds
    if folds is not None and (min(folds) < 0 or not math.isclose(sum(folds), 1, abs_tol=1e-6)):
        raise UserError("--folds: the fractions of train, valid and test must add up to 1")
    if options.audio_root is not None and not options.audio_root.is_dir():
        raise UserError(f"--audio-root {options.audio_root}: not a folder")
    if options.group not in ("id", "video_id", "speaker"):
        raise UserError(f"--group {options.group}: choose from id, video_id, speaker")


def _own_range(name: str) -> tuple[float, float]:
    return LABEL_RANGES[EMOTIONS[0] if name == "emotions" else name]


def _rows(path: Path, options: TableOptions, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with our columns' names, those that the options do not rename included; notes on columns not read."""
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    theirs = {target: options.columns.get(target, target) for target in TARGETS}
    first, blank_left_out = True, path.suffix.lower() == ".jsonl"
    there: dict[str, None] = {}
    for number, values in iter_rows(path, set(theirs.values()), options.delimiter, options.encoding):
        there |= dict.fromkeys(values)
        if first:
            if not blank_left_out:
                _check_columns(path, there, theirs, options)
            if not any(theirs[name] in values for name in ("text", "audio")) and not options.features:
                raise UserError(
                    f"{path}: which column holds the text? --map text=COLUMN; there are: {', '.join(values)[:200]}"
                )
            read = set(theirs.values())
            ours = [target for target, column in theirs.items() if column in values]
            notes += [
                f"{path.name}: the column {column!r} is not read: if it is {meant!r}, give --map {meant}={column}"
                for column, meant in misspelt([*ours, *(name for name in values if name and name not in read)])
            ]
            first = False
        yield number, {target: values.get(column) for target, column in theirs.items()}
    if there and blank_left_out:
        _check_columns(path, there, theirs, options)


def _check_columns(path: Path, there: Collection[str], theirs: Mapping[str, str], options: TableOptions) -> None:
    """A :class:`UserError` where a column that an option is about is not there."""
    if absent := [column for column in options.columns.values() if column not in there]:
        raise UserError(f"{path}: no column {absent[0]!r}; there are: {', '.join(there)[:200]}")
    found = {target for target, column in theirs.items() if column in there}
    if options.folds is not None and options.group == "speaker" and "speaker" not in found:
        raise UserError(f"{path}: --group speaker: no column 'speaker': give --map speaker=COLUMN")
    for name in options.scales:
        if found.isdisjoint(EMOTIONS if name == "emotions" else (name,)):
            target = "EMOTION" if name == "emotions" else name
            raise UserError(f"{path}: --scale {name}: no such column: give --map {target}=COLUMN")


def _utterance(values: dict[str, Any], where: str, path: Path, options: TableOptions) -> Utterance:
    get = values.get
    key = as_string(get("id"), "id", where)
    video = as_string(get("video_id"), "video_id", where)
    clip = as_string(get("clip_id"), "clip_id", where)
    key = key or (f"{video}_{clip}" if video and clip else f"{path.stem}-{where.rpartition(':')[2]}")
    audio = as_string(get("audio"), "audio", where)
    if audio is not None and "\0" in audio:
        raise UserError(f"{where}: audio holds a NUL character, which no file's name does")
    start, end = as_seconds(get("start"), "start", where), as_seconds(get("end"), "end", where)
    if audio is not None and start is not None and end is not None:
        start = max(start, 0.0)
    speaker = as_string(get("speaker"), "speaker", where)
    emotions = tuple(_scaled(get(name), name, where, options) for name in EMOTIONS)
    named = as_string(get("emotion"), "emotion", where)
    if named is not None:
        if named.lower() not in EMOTION_OF:
            known = ", ".join(name for name in EMOTION_OF)
            raise UserError(f"{where}: the emotion {named!r} is unknown: leave it blank, or use one of {known}")
        emotions = one_emotion(EMOTION_OF[named.lower()])
    split = as_split(get("split"), where)
    if split is None and options.folds is not None:
        # Pieces of one sound stay together, as those of a video do: they share its speaker and its room.
        whole = video or (audio if start is not None and end is not None else None) or key
        group = {"id": key, "video_id": whole, "speaker": speaker or whole}[options.group]
        split = split_of(group, options.folds)
    return Utterance(
        id=key,
        text=as_string(get("text"), "text", where),
        audio=None if audio is None else (options.audio_root or path.parent).absolute() / audio,
        start=start,
        end=end,
        cut=audio is not None and start is not None and end is not None and start < end,
        split=split,
        speaker=speaker,
        video_id=video,
        sentiment=_scaled(get("sentiment"), "sentiment", where, options),
        emotions=emotions,
    )


def _scaled(value: Any, name: str, where: str, options: TableOptions) -> float | None:
    scale = options.scales.get(name) or (options.scales.get("emotions") if name in EMOTIONS else None)
    if scale is None:
        return as_label(value, name, where)
    number = as_number(value, name, where)
    if number is None:
        return None
    low, high = scale
    if not low <= number <= high:
        raise UserError(f"{where}: {name} is {number:g}, outside the [{low:g}, {high:g}] of --scale")
    if name == "sentiment":
        return rescale(number, low, high)
    bottom, top = LABEL_RANGES[name]
    return bottom + (number - low) / (high - low) * (top - bottom)


def read_arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays by id from a feature file, or from an .npz with an array of n ids and one of numbers, (n, d) or (n, T, d).

    Raises:
        UserError: neither; an .npz without such arrays, or with several of one kind.
    """
    from mmolre.data.feature_file import SUFFIXES, FeatureFile, iter_features

    if path.suffix.lower() not in (".npz", *SUFFIXES):
        raise UserError(f"{path}: features are read from {', '.join(SUFFIXES)} or .npz: convert them")
    if path.suffix.lower() != ".npz":
        file = FeatureFile(path)
        yield from iter_features(file, file.ids)
        return
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
            for array in arrays.values():
                if array.dtype.kind == "U":
                    array.tolist()  # damaged text is found out here
    except (OSError, ValueError, KeyError, EOFError, MemoryError) as error:
        reason = " ".join(str(error).split())[:100]
        if "allow_pickle" in reason:
            reason = "it holds Python objects, which are never read: save ids as text, ids.astype(str)"
        raise UserError(f"{path}: not a readable .npz ({reason})") from None
    except Exception as error:  # zipfile has errors of its own
        raise UserError(f"{path}: not a readable .npz ({type(error).__name__})") from None
    numeric = [name for name, array in arrays.items() if array.dtype.kind in "fiu" and array.ndim in (2, 3)]
    if len(numeric) != 1:
        raise UserError(f"{path}: expected one array (n, d) or (n, T, d) of numbers, found {len(numeric)}")
    values = arrays[numeric[0]]
    texts = [array for array in arrays.values() if array.dtype.kind in "US" and array.shape == values.shape[:1]]
    named = [ids for ids in texts if len(np.unique(ids)) == len(ids)]
    if len(named) != 1:
        raise UserError(f"{path}: expected one array of {len(values)} different ids, found {len(named)}")
    for key, array in zip(named[0].tolist(), values, strict=True):
        yield (key.decode("utf-8", "replace") if isinstance(key, bytes) else key), array
