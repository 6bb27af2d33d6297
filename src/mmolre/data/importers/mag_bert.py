"""The word-aligned pickles that most repositories of the field exchange (MAG-BERT, MISA, MMIM, ...):
``((words, visual, acoustic), label, id)`` per utterance, in a list, or in a dict of such lists by split.

``words`` are strings, or numbers of somebody's vocabulary beside a fourth member with the strings. Whose features they
are, the file does not say. Read by :mod:`mmolre.data.unpickle`, which runs nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmolre.data.importers._common import ImportSummary, count_splits, few_numbers, finish
from mmolre.data.manifest_fields import LABEL_RANGES, SPLIT_ALIASES
from mmolre.data.unpickle import Unpickled, unpickle
from mmolre.errors import UserError
from mmolre.schema import EMOTIONS, SPLITS, Utterance

_EXPECTED = "((words, visual, acoustic), label, id) per utterance"
_SEGMENT = re.compile(r"(?P<video>.+)\[(?P<number>\d+)\]")
_PAUSE = "sp"
_LABELS = ("sentiment", *EMOTIONS)

Item = tuple[str, np.ndarray, np.ndarray]


def import_mag_bert(
    sources: Sequence[Path], out: Path, *, split: str | None = None, ids: Literal["sdk", "clip"] = "sdk"
) -> ImportSummary:
    """Write the manifest: text, labels, and the features ``visual`` and ``acoustic``, a frame a word.

    A label of one number is the sentiment; of seven, sentiment and the six emotions in CMU-MOSEI's order. An utterance
    with a label out of range, without an id, or with an id seen before is dropped.

    Args:
        sources: pickles; several may each hold one split.
        split: of the lists that do not say theirs; by default, what the file's name says (``..._valid.pkl``).
        ids: ``sdk``: as they are; ``clip``: ``VIDEO[k]`` becomes ``VIDEO_CLIP`` with CLIP = k + 1.

    Raises:
        UserError: a pickle that is none, is refused, or is of another layout.
    """
    rows: dict[str, Utterance] = {}
    arrays: list[tuple[Unpickled, list[Item]]] = []
    dropped: list[tuple[str, str]] = []
    for path in map(Path, sources):
        pickled = unpickle(path)
        kept: list[Item] = []
        for name, items in _lists(pickled.value, path).items():
            for number, item in enumerate(items):
                where = f"{path.name}, {name or 'item'} {number}"
                row = _utterance(item, where, _split(name, split, path), ids, dropped)
                if row is None:
                    continue
                if row.id in rows:
                    dropped.append((row.id, "the id was there before"))
                    continue
                rows[row.id] = row
                kept.append((row.id, item[0][1], item[0][2]))
        arrays.append((pickled, kept))
    notes = [f"splits: {count_splits(rows.values())}"]
    return finish(
        "mag-bert",
        list(rows.values()),
        out,
        audio_root=Path(sources[0]).parent,
        dropped=dropped,
        notes=notes,
        inputs=map(Path, sources),
        features={"visual": _features(arrays, 0), "acoustic": _features(arrays, 1)},
        options={"split": split, "ids": ids},
    )


def _lists(value: Any, path: Path) -> Mapping[str, Sequence[Any]]:
    """The lists of utterances by what the pickle calls their split; blank where it does not."""
    lists = value if isinstance(value, dict) else {"": value}
    lists = {str(name): items for name, items in lists.items() if isinstance(items, list | tuple)}
    if not any(lists.values()):
        raise UserError(f"{path}: not of this layout: expected a list, or lists by split, of {_EXPECTED}")
    if not any(_is_item(item) for items in lists.values() for item in items):
        raise UserError(f"{path}: not of this layout: expected {_EXPECTED}")
    return lists


def _is_item(item: Any) -> bool:
    """Whether it is of the layout."""
    if not isinstance(item, list | tuple) or len(item) != 3 or not isinstance(item[0], list | tuple):
        return False
    if len(item[0]) not in (3, 4):
        return False
    return all(
        isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind in "fiu" for array in item[0][1:3]
    )


def _split(name: str, given: str | None, path: Path) -> str | None:
    for word in [name.lower(), *([given] if given else re.split(r"[^a-z]+", path.stem.lower())[::-1])]:
        word = SPLIT_ALIASES.get(word, word)
        if word in SPLITS:
            return word
    return None


def _utterance(item: Any, where: str, split: str | None, ids: str, dropped: list[tuple[str, str]]) -> Utterance | None:
    if not _is_item(item):
        dropped.append((where, f"not of the form {_EXPECTED}"))
        return None
    parts, label, name = item
    key = _text(name)
    if not key:
        dropped.append((where, "no id"))
        return None
    labels = _labels(label)
    if labels is None:
        dropped.append((key, "a label that is no number, or out of range"))
        return None
    cut = _SEGMENT.fullmatch(key)
    if cut and ids == "clip":
        key = f"{cut['video']}_{int(cut['number']) + 1}"
    return Utterance(
        id=key,
        text=_words(parts[3] if len(parts) == 4 else parts[0]),
        split=split,
        video_id=cut["video"] if cut else None,
        sentiment=labels.get("sentiment"),
        emotions=tuple(labels.get(emotion) for emotion in EMOTIONS),
    )


def _text(name: Any) -> str:
    if isinstance(name, np.ndarray) and name.size == 1:
        name = name.item()
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    text = name.strip() if isinstance(name, str) else ""
    return text.encode("utf-8", "replace").decode()  # no half characters


def _words(words: Any) -> str | None:
    """The words as text, without pauses; ``None`` where they are numbers."""
    if isinstance(words, np.ndarray):
        words = words.ravel().tolist() if words.dtype.kind in "USO" else []
    if isinstance(words, str):
        words = [words]
    said = [_text(word) for word in words] if isinstance(words, list | tuple) else []
    return " ".join(word for word in said if word and word != _PAUSE) or None


def _labels(label: Any) -> dict[str, float | None] | None:
    """Labels by name; ``None`` where one is no number or out of range. A NaN is not labelled."""
    try:
        values = few_numbers(label)
    except (TypeError, ValueError):
        return None
    if values is None or len(values) not in (1, len(_LABELS)):
        return None
    labels: dict[str, float | None] = {}
    for name, value in zip(_LABELS, values, strict=False):
        low, high = LABEL_RANGES[name]
        if not (np.isnan(value) or low - 1e-4 <= value <= high + 1e-4):
            return None
        labels[name] = None if np.isnan(value) else min(max(value, low), high)
    return labels


def _features(arrays: list[tuple[Unpickled, list[Item]]], place: int) -> Iterator[tuple[str, np.ndarray]]:
    for pickled, items in arrays:
        for number, (key, *both) in enumerate(items):
            yield key, both[place]
            if number % 1000 == 0:
                pickled.forget_pages()
