"""Write a manifest: whole or not at all."""

import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmolre.data.manifest_rows import check_suffix
from mmolre.data.manifest_sidecar import read_sidecar, sidecar_path, sidecar_text
from mmolre.errors import UserError
from mmolre.files import replacing, write_text
from mmolre.schema import EMOTIONS, Utterance

_STRINGS = ("id", "video_id", "split", "text", "audio", "speaker")
_NUMBERS = ("start", "end", "sentiment", *EMOTIONS)
_WRITTEN = ("id", "video_id", "split", "text", "audio", "start", "end", "speaker", "sentiment", *EMOTIONS)
_PARQUET_BATCH = 1024


def write_manifest(path: Path, rows: Iterable[Utterance], *, audio_root: Path | None = None) -> int:
    """Write utterances as CSV, JSONL or Parquet, by the ending of ``path``; return how many.

    What :func:`~mmolre.data.manifest.read_manifest` reads back equals what was written, but for ``row``, and but for
    start and end beside an audio file that they do not cut, which are left out (there, they would cut it).

    Their feature files must lie in the manifest's folder; the sidecar names them all.

    Args:
        rows: streamed; never all in memory.
        audio_root: the folder that the ``audio`` column is relative to, recorded in the sidecar; default: the
            manifest's folder, without a sidecar.

    Raises:
        UserError: audio outside its root, features outside the folder or two files of one name, an unknown ending,
            a file that cannot be written, or one that is no sidecar where the sidecar would be. Nothing half-written
            stays.
    """
    path = Path(path)
    read_sidecar(path)  # what is there and none is somebody's own, and is not to be replaced
    write = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}[check_suffix(path)]
    root = os.path.realpath(path.parent if audio_root is None else audio_root)
    count = 0
    features: dict[str, Path] = {}
    latest: Mapping[str, Path] | None = None

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal count, latest
        for utterance in rows:
            if utterance.features is not latest:  # a manifest's rows share one mapping
                latest = utterance.features
                _add_features(features, latest, path)
            yield _row(utterance, root)
            count += 1

    with replacing(path) as beside:
        write(beside, counted())
        sidecar, text = sidecar_path(path), sidecar_text(path, None if audio_root is None else root, features)
        if text is not None:
            write_text(sidecar, text)
        else:
            sidecar.unlink(missing_ok=True)
    return count


def audio_folder(rows: Iterable[Utterance]) -> Path | None:
    """The folder below which all their audio lies, and what of it are links to; ``None`` without any."""
    files = [row.audio for row in rows if row.audio is not None]
    folders = {folder for file in files for folder in (file.absolute().parent, Path(os.path.realpath(file)).parent)}
    return Path(os.path.commonpath(folders)) if folders else None


def _add_features(features: dict[str, Path], more: Mapping[str, Path], path: Path) -> None:
    for name, file in more.items():
        other = features.setdefault(name, file)
        if other != file:
            raise UserError(f"{path}: two files of features are called {name!r}: {other} and {file}")


def _row(utterance: Utterance, root: str) -> dict[str, Any]:
    row = {name: getattr(utterance, name) for name in _WRITTEN if name not in ("audio", *EMOTIONS)}
    row |= zip(EMOTIONS, utterance.emotions, strict=True)
    if utterance.audio is not None:
        try:
            audio = Path(os.path.realpath(utterance.audio)).relative_to(root)
        except ValueError:
            raise UserError(f"{utterance.id}: the audio {utterance.audio} lies outside the audio root {root}") from None
        row["audio"] = name = audio.as_posix()
        if name != name.strip():
            raise UserError(f"{utterance.id}: {name!r} begins or ends with a space, which is lost: rename the audio")
        if not utterance.cut:
            row["start"] = row["end"] = None
    return row


def _write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_WRITTEN)
        writer.writerows([row.get(name) for name in _WRITTEN] for row in rows)


def _write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            present = {name: row[name] for name in _WRITTEN if row.get(name) is not None}
            file.write(json.dumps(present, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(_STRINGS, pa.string()) | dict.fromkeys(_NUMBERS, pa.float64())
    schema = pa.schema([(name, types[name]) for name in _WRITTEN])
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(itertools.islice(rows, _PARQUET_BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
