"""From a manifest to what other software reads: MMSA's pickles, Parquet, Hugging Face ``datasets``."""

import itertools
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmolre.data.feature_file import FeatureFile
from mmolre.data.manifest import read_manifest, write_manifest
from mmolre.data.manifest_write import audio_folder
from mmolre.data.mmsa_layout import COLUMNS, ID_MARK, NAMES, OURS, UNSPLIT, is_no_features
from mmolre.errors import UserError
from mmolre.files import refuse_inputs, replacing, write_text
from mmolre.schema import EMOTIONS, SPLITS, Utterance

_CLASSES = ("Negative", "Neutral", "Positive")  # MMSA's annotations, in the order of its classification labels
_ROWS = 256

Padding = Literal["end", "front"]
"""Where the zeros stand beside a sequence that is shorter than others."""


def open_features(rows: Iterable[Utterance]) -> dict[str, FeatureFile]:
    """Every feature file that the rows name, opened; by name."""
    paths: dict[str, Path] = {}
    for row in rows:
        paths |= row.features
    return {name: FeatureFile(path) for name, path in paths.items()}


def export_mmsa(manifest: Path, out: Path, *, audio_root: Path | None = None, padding: Padding = "end") -> int:
    """Write a manifest as one pickle in MMSA's layout (:mod:`mmolre.data.mmsa_layout`); return the number of rows.

    ``mmolre import mmsa`` makes the same manifest of it. MMSA's models want ``text``, ``audio`` and ``vision``:
    features called words, acoustic and visual become these. Its ``text_bert`` (tokens of the model that it uses) is
    not written.

    Args:
        padding: where zeros fill a sequence up to the longest. MMSA-FET writes them at the end, but most of MMSA's
            models read no lengths and take the last position (of an LSTM in LF-DNN, MLF-DNN, LMF and TFN, of all in
            MulT and MFN): with zeros in front they see words there.

    Raises:
        UserError: a bad manifest or feature file, features too large for the memory.
    """
    refuse_inputs(out, [manifest])
    if out.suffix.lower() not in (".pkl", ".pickle"):
        raise UserError(f"{out}: MMSA's layout is a pickle: give an --out that ends in .pkl")
    rows = read_manifest(manifest, audio_root=audio_root)
    files = open_features(rows)
    keys = _keys(files)
    root = audio_folder(rows) or manifest.parent.absolute()
    content: dict[str, Any] = {}
    for split in (*SPLITS, None):
        chosen = [(order, row) for order, row in enumerate(rows) if row.split == split]
        if chosen or split is not None:
            content[split or UNSPLIT] = _split(chosen, files, keys, root, padding)
    content[OURS] = {"audio_root": str(root), "padding": padding, "features": {keys[name]: name for name in files}}
    with replacing(out) as beside, beside.open("wb") as file:
        pickle.dump(content, file, protocol=4)
    return len(rows)


def _keys(files: Mapping[str, FeatureFile]) -> dict[str, str]:
    """MMSA's key for each of our features."""
    theirs = {ours: key for key, ours in NAMES.items() if key not in files}
    for name in files:
        if is_no_features(name):
            raise UserError(
                f"features cannot be called {name!r} in MMSA's layout, which has other uses for it: rename them"
            )
    return {name: theirs.get(name, name) for name in files}


def _split(
    chosen: Sequence[tuple[int, Utterance]],
    files: Mapping[str, FeatureFile],
    keys: Mapping[str, str],
    root: Path,
    padding: Padding,
) -> dict[str, Any]:
    rows = [row for _, row in chosen]
    sentiment = [row.sentiment for row in rows]
    signs = [0 if value is None else int(np.sign(value)) for value in sentiment]
    content: dict[str, Any] = {
        "id": [_mmsa_id(row) for row in rows],
        "raw_text": [row.text or "" for row in rows],
        "regression_labels": np.array([np.nan if value is None else value for value in sentiment], np.float64),
        "classification_labels": np.array([sign + 1 for sign in signs], np.int64),
        "annotations": [_CLASSES[sign + 1] for sign in signs],
    }
    for name, file in files.items():
        content[keys[name]], content[f"{keys[name]}_lengths"] = _padded(rows, file, padding)
    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS if name not in ("order", "audio")}
    content[OURS] = columns | {
        "order": [order for order, _ in chosen],
        "audio": [None if row.audio is None else Path(os.path.relpath(row.audio, root)).as_posix() for row in rows],
        **{name: [row.emotions[i] for row in rows] for i, name in enumerate(EMOTIONS)},
    }
    return content


def _mmsa_id(row: Utterance) -> str:
    video, clip = row.video_id, row.id
    if video and clip.startswith(f"{video}_"):
        return f"{video}{ID_MARK}{clip[len(video) + 1 :]}"
    return row.id


def _padded(rows: Sequence[Utterance], file: FeatureFile, padding: Padding) -> tuple[np.ndarray, list[int]]:
    lengths = [file.frames(row.id) for row in rows]
    try:
        array = np.zeros((len(rows), max(lengths, default=0), file.width), np.float32)
    except MemoryError:
        raise UserError(f"{file.path}: too large to be padded in memory: export fewer features") from None
    for number, row in enumerate(rows):
        features = file.get(row.id)
        if features is not None:
            start = array.shape[1] - lengths[number] if padding == "front" else 0
            array[number, start : start + lengths[number]] = features
    return array, lengths


def export_parquet(manifest: Path, out: Path, *, audio_root: Path | None = None) -> int:
    """Write a manifest as one Parquet file, itself a manifest; return the number of rows.

    Feature files are not copied: their names stay in the sidecar, so ``out`` must lie in the manifest's folder if it
    has any.

    Raises:
        UserError: a bad manifest; ``out`` is that very manifest or one of its feature files, or does not end in
            .parquet.
    """
    if out.suffix.lower() != ".parquet":
        raise UserError(f"{out}: name a file that ends in .parquet")
    refuse_inputs(out, [manifest])
    rows = read_manifest(manifest, audio_root=audio_root)
    refuse_inputs(out, rows[0].features.values() if rows else ())
    return write_manifest(out, rows, audio_root=audio_folder(rows))


def export_datasets(manifest: Path, out: Path, *, audio_root: Path | None = None) -> int:
    """Write a folder that Hugging Face ``datasets.load_dataset(FOLDER)`` reads; return the number of rows.

    One Parquet file a split (rows without one: ``unsplit``), features as columns of list<list<float>>, audio as paths.

    Raises:
        UserError: a bad manifest, features of a column's name, a README.md there that is no export's, or a split's file
            that is the manifest itself or its features.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = read_manifest(manifest, audio_root=audio_root)
    files = open_features(rows)
    numbers = ("start", "end", "sentiment", *EMOTIONS)
    strings = ("id", "text", "audio", "speaker", "video_id")
    types = dict.fromkeys(strings, pa.string()) | dict.fromkeys(numbers, pa.float64())
    if taken := sorted(set(types) & set(files)):
        raise UserError(f"features cannot be called {taken[0]!r}, the name of a column: rename them")
    card = out / "README.md"
    if card.exists() and not card.read_bytes().startswith(_CARD.encode()):
        raise UserError(f"{card} is there already and no export's: give another --out")
    types |= dict.fromkeys(files, pa.list_(pa.list_(pa.float32())))
    schema = pa.schema(types.items())
    by_split = {split or UNSPLIT: [row for row in rows if row.split == split] for split in (*SPLITS, None)}
    shards = {name: f"data/{name}-00000-of-00001.parquet" for name, chosen in by_split.items() if chosen}
    for shard in shards.values():
        refuse_inputs(out / shard, [manifest, *(file.path for file in files.values())])
    for name, shard in shards.items():
        with replacing(out / shard) as beside, pq.ParquetWriter(beside, schema) as writer:
            for batch in _batches(by_split[name]):
                writer.write_table(pa.Table.from_pylist([_record(row, files) for row in batch], schema=schema))
    write_text(card, _card(shards))
    return len(rows)


def _batches(rows: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, _ROWS)):
        yield batch


def _record(row: Utterance, files: Mapping[str, FeatureFile]) -> dict[str, Any]:
    record: dict[str, Any] = {name: getattr(row, name) for name in ("id", "text", "speaker", "video_id", "sentiment")}
    record |= {"audio": None if row.audio is None else str(row.audio), "start": row.start, "end": row.end}
    record |= zip(EMOTIONS, row.emotions, strict=True)
    for name, file in files.items():
        features = file.get(row.id)
        record[name] = None if features is None else list(features)
    return record


_CARD = "---\nconfigs:\n"


def _card(shards: Mapping[str, str]) -> str:
    lines = [*_CARD.splitlines(), "- config_name: default", "  data_files:"]
    for split, path in shards.items():
        lines += [f"  - split: {split}", f"    path: {path}"]
    return "\n".join([*lines, "---", ""])
