"""Pickles of MMSA and MMSA-FET, aligned and unaligned, and those of MulT, which are much alike.

See :mod:`mmolre.data.mmsa_layout`. Read by :mod:`mmolre.data.unpickle`, which runs nothing.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmolre.data.importers._common import ImportSummary, count_splits, few_numbers, finish, rescale
from mmolre.data.manifest_fields import LABEL_RANGES, SPLIT_ALIASES, as_label, as_seconds, as_string
from mmolre.data.manifest_sidecar import FEATURE_NAME, RESERVED
from mmolre.data.mmsa_layout import ID_MARK, NAMES, OURS, SPLIT_KEYS, UNSPLIT, is_no_features
from mmolre.data.unpickle import Unpickled, unpickle
from mmolre.errors import UserError
from mmolre.schema import EMOTIONS, Utterance

_EXPECTED = "a dict of train, valid and test with id, raw_text, regression_labels and arrays, as MMSA writes it"

Part = tuple[Unpickled, list[str | None], Any, Any, bool]
"""A split's features: the file, the ids of its rows (None: dropped), the arrays, their lengths, is padding in front."""


def import_mmsa(
    sources: Sequence[Path],
    out: Path,
    *,
    label_range: tuple[float, float] | None = None,
    audio_root: Path | None = None,
) -> ImportSummary:
    """Write the manifest: text, sentiment, and features: ``words`` (text), ``acoustic`` (audio), ``visual`` (vision).

    An id ``VIDEO$_$CLIP`` becomes ``VIDEO_CLIP``. Frames beyond ``audio_lengths`` (and so on) are padding and go (those
    before the last so many, where our export put the padding in front); where there are no lengths, frames of zeros at
    either end do. ``text_bert`` (another model's tokens) is not taken.

    Args:
        sources: pickles; several may each hold one split.
        label_range: what the labels lie in, rescaled linearly to [-3, 3]; by default [-1, 1] where there are labels of
            single modalities (CH-SIMS), else [-3, 3].
        audio_root: where the audio lies that an exported manifest had.

    Raises:
        UserError: a pickle that is none, is refused, or is of another layout; an ``audio_root`` that is no folder.
    """
    if audio_root is not None and not audio_root.is_dir():
        raise UserError(f"--audio-root {audio_root}: not a folder")
    rows: list[tuple[int, Utterance]] = []
    seen: set[str] = set()
    features: dict[str, list[Part]] = {}
    dropped: list[tuple[str, str]] = []
    notes: list[str] = []
    root = audio_root
    for path in map(Path, sources):
        pickled = unpickle(path)
        whole = pickled.value
        splits = _splits(whole, path)
        ours = whole.get(OURS)
        stored_root = ours.get("audio_root") if isinstance(ours, dict) else None
        if root is None and isinstance(stored_root, str):
            root = Path(stored_root) if "\0" not in stored_root and Path(stored_root).is_dir() else None
            if root is None:
                notes.append("the audio is not where it was when this was exported: name its folder by --audio-root")
        names = ours.get("features") if isinstance(ours, dict) else None
        in_front = isinstance(ours, dict) and ours.get("padding") == "front"
        for split, content in splits.items():
            limits = label_range or _label_range(content, notes, path)
            read = _rows(content, split, limits, root, f"{path.name}, {split}", dropped)
            ids: list[str | None] = []
            for order, row in read:
                if row is None or row.id in seen:
                    if row is not None:
                        dropped.append((row.id, "the id was there before"))
                    ids.append(None)
                    continue
                seen.add(row.id)
                ids.append(row.id)
                rows.append((len(rows) if order is None else order, row))
            for key in content:
                if _is_features(key, content[key], len(ids)):
                    name = _name(key, names if isinstance(names, dict) else {})
                    part = (pickled, ids, content[key], content.get(f"{key}_lengths"), in_front)
                    features.setdefault(name, []).append(part)
    utterances = [row for _, row in sorted(rows, key=lambda item: item[0])]
    notes.append(f"splits: {count_splits(utterances)}")
    return finish(
        "mmsa",
        utterances,
        out,
        audio_root=root or Path(sources[0]).parent,
        dropped=dropped,
        notes=list(dict.fromkeys(notes)),
        inputs=map(Path, sources),
        features={name: _arrays(name, parts) for name, parts in features.items()},
        options={"label_range": label_range},
    )


def _splits(whole: Any, path: Path) -> dict[str, dict[str, Any]]:
    """The members of each split, by its name."""
    found = {key: whole[key] for key in (*SPLIT_KEYS, UNSPLIT) if key in whole} if isinstance(whole, dict) else {}
    for key, content in found.items():
        if not isinstance(content, dict) or _length(content.get("id")) is None:
            raise UserError(f"{path}: {key!r} is not of this layout: expected {_EXPECTED}")
    if not found:
        raise UserError(f"{path}: not of this layout: expected {_EXPECTED}")
    return {SPLIT_ALIASES.get(key, key): {str(name): part for name, part in found[key].items()} for key in found}


def _length(value: Any) -> int | None:
    if isinstance(value, np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def _label_range(content: Mapping[str, Any], notes: list[str], path: Path) -> tuple[float, float]:
    if "regression_labels_T" not in content:
        return LABEL_RANGES["sentiment"]
    notes.append(f"{path.name}: labels of single modalities, so CH-SIMS's: rescaled from [-1, 1] to [-3, 3]")
    return (-1.0, 1.0)


def _rows(
    content: Mapping[str, Any],
    split: str,
    limits: tuple[float, float],
    root: Path | None,
    where: str,
    dropped: list[tuple[str, str]],
) -> Iterator[tuple[int | None, Utterance | None]]:
    """Each row with its place among all (``None``: not said); ``None`` for a row that is dropped."""
    count = _length(content["id"]) or 0
    labels = _column(content, "regression_labels", count)
    labels = _column(content, "labels", count) if labels is None else labels
    texts = _column(content, "raw_text", count)
    ours = content.get(OURS)
    for number in range(count):
        at = f"{where} {number}"
        try:
            row = Utterance("", split=None if split == UNSPLIT else split)
            if labels is not None:
                row = _labelled(row, labels[number], limits, at, dropped)
            if texts is not None:
                row = replace(row, text=as_string(_item(texts[number]), "raw_text", at))
            if isinstance(ours, dict):
                yield _extended(row, ours, number, root, at)
            else:
                yield None, _named(row, content["id"][number], at)
        except UserError as error:
            dropped.append((at, str(error).removeprefix(f"{at}: ")))
            yield None, None
        except (LookupError, ValueError, TypeError, OverflowError):
            dropped.append((at, "damaged"))
            yield None, None


def _column(content: Mapping[str, Any], key: str, count: int) -> Any:
    value = content.get(key)
    return value if _length(value) == count else None


def _item(value: Any) -> Any:
    """A plain value of what an array or list holds."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.ravel().tolist() if value.size != 1 else value.item()
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _labelled(
    row: Utterance, label: Any, limits: tuple[float, float], at: str, dropped: list[tuple[str, str]]
) -> Utterance:
    """With the sentiment, or with sentiment and emotions where the label has seven numbers."""
    values = few_numbers(label)
    if values is None or len(values) not in (1, 1 + len(EMOTIONS)):
        raise UserError(f"{at}: a label of {'many' if values is None else len(values)} numbers")
    low, high = limits
    sentiment, emotions = values[0], values[1:]
    if not (np.isnan(sentiment) or low - 1e-4 <= sentiment <= high + 1e-4):
        dropped.append((at, f"sentiment outside [{low:g}, {high:g}]: left blank"))
        sentiment = np.nan
    if not np.isnan(sentiment):
        sentiment = sentiment if limits == LABEL_RANGES["sentiment"] else rescale(sentiment, low, high)
        row = replace(row, sentiment=min(max(sentiment, -3.0), 3.0))
    if emotions:
        named = zip(EMOTIONS, emotions, strict=True)
        row = replace(row, emotions=tuple(as_label(value, name, at) for name, value in named))
    return row


def _named(row: Utterance, name: Any, at: str) -> Utterance:
    """With MMSA's id, ``VIDEO$_$CLIP``, or MulT's, which is video, start and end."""
    name = _item(name)
    if isinstance(name, list) and len(name) == 3:
        video, *times = (as_string(_item(part), "id", at) for part in name)
        start, end = (as_seconds(time, "id", at) for time in times)
        return replace(row, id=f"{video}_{times[0]}_{times[1]}", video_id=video, start=start, end=end)
    key = as_string(name, "id", at)
    if key is None:
        raise UserError(f"{at}: no id")
    video, mark, clip = key.rpartition(ID_MARK)
    return replace(row, id=f"{video}_{clip}" if mark else key, video_id=video or None)


def _extended(
    row: Utterance, ours: Mapping[str, Any], number: int, root: Path | None, at: str
) -> tuple[int, Utterance]:
    """With all that an exported manifest said."""
    get = {name: column[number] for name, column in ours.items() if isinstance(column, list) and len(column) > number}
    audio = as_string(get.get("audio"), "audio", at)
    path = None
    if audio is not None and root is not None:
        path = root / audio
        if Path(os.path.realpath(root)) not in Path(os.path.realpath(path)).parents:
            raise UserError(f"{at}: the audio path leaves its root")
    key = as_string(get.get("id"), "id", at)
    if key is None:
        raise UserError(f"{at}: no id")
    return int(get["order"]), replace(
        row,
        id=key,
        text=as_string(get.get("text"), "text", at),
        audio=path,
        start=as_seconds(get.get("start"), "start", at),
        end=as_seconds(get.get("end"), "end", at),
        cut=get.get("cut") is True,
        speaker=as_string(get.get("speaker"), "speaker", at),
        video_id=as_string(get.get("video_id"), "video_id", at),
        sentiment=as_label(get.get("sentiment"), "sentiment", at),
        emotions=tuple(as_label(get.get(name), name, at) for name in EMOTIONS),
    )


def _is_features(key: str, value: Any, count: int) -> bool:
    if is_no_features(key) or _length(value) != count or not count:
        return False
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return value.ndim in (2, 3) and value.dtype.kind in "fiu"
    return all(isinstance(item, np.ndarray) and item.ndim == 2 and item.dtype.kind in "fiu" for item in value)


def _name(key: str, names: Mapping[Any, Any]) -> str:
    name = names.get(key, NAMES.get(key, key))
    if isinstance(name, str) and FEATURE_NAME.fullmatch(name) and name not in RESERVED:
        return name
    return "features_" + (re.sub(r"[^A-Za-z0-9_-]+", "_", key)[:40] or "unnamed")


def _arrays(name: str, parts: list[Part]) -> Iterator[tuple[str, np.ndarray]]:
    for pickled, ids, arrays, lengths, in_front in parts:
        if _length(lengths) != len(ids):
            lengths = None
        for number, key in enumerate(ids):
            if key is None:
                continue
            array = arrays[number]
            if array.ndim == 1:
                yield key, array
            elif lengths is None:
                yield key, _trimmed(array)
            else:
                length = _item(lengths[number])
                if isinstance(length, bool) or not isinstance(length, int | float) or not 0 <= length <= len(array):
                    shown = f"{length:g}" if isinstance(length, int | float) else f"a {type(length).__name__}"
                    raise UserError(f"{name}: the length of {key!r} is {shown}, of {len(array)} frames")
                yield key, array[len(array) - int(length) :] if in_front else array[: int(length)]
            if number % 500 == 0:
                pickled.forget_pages()


def _trimmed(array: np.ndarray) -> np.ndarray:
    """Without the frames of zeros at either end."""
    rows = np.flatnonzero(array.any(axis=1))
    return array[rows[0] : rows[-1] + 1] if len(rows) else array[:0]
