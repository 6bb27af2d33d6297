"""What importers share: how they end, whose emotions are which, how utterances are divided."""

import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmolre.data.manifest import write_manifest
from mmolre.data.manifest_rows import SUFFIXES
from mmolre.data.manifest_sidecar import check_feature_name, files_of_others, sidecar_path
from mmolre.data.provenance import provenance_path, write_provenance
from mmolre.errors import UserError
from mmolre.files import cannot_write, refuse_folders, refuse_inputs
from mmolre.schema import EMOTIONS, SENTIMENT_RANGE, SPLITS, Utterance

if TYPE_CHECKING:
    import numpy as np

    Arrays = Iterable[tuple[str, "np.ndarray"]]

MEDIA_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".mp4", ".mkv", ".mov", ".webm", ".avi")
"""Endings of files with sound, the first preferred where a clip is there in several."""

_SYNONYMS = {
    "happy": ("happiness", "joy", "joyful", "hap", "excited", "exc", "excitement"),
    "sad": ("sadness", "sorrow"),
    "anger": ("angry", "ang"),
    "surprise": ("surprised", "sur"),
    "disgust": ("disgusted", "dis"),
    "fear": ("fearful", "fea", "afraid"),
}
_NO_EMOTION = ("neutral", "neu", "calm", "none")
EMOTION_OF: dict[str, str | None] = {
    name: emotion for emotion, names in _SYNONYMS.items() for name in (emotion, *names)
} | dict.fromkeys(_NO_EMOTION)
"""One of :data:`EMOTIONS` by what corpora call it, in lower case; ``None``: neutral."""


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an importer did.

    Attributes:
        path: the manifest.
        n_rows: utterances in it.
        dropped: what was left out, as (name, reason).
        notes: sentences for the user.
    """

    path: Path
    n_rows: int
    dropped: list[tuple[str, str]]
    notes: list[str]


def check_source(source: Path, expected: str) -> Path:
    """The corpus's folder; a :class:`UserError` that says what is ``expected`` there if it is none."""
    source = Path(source)
    if not source.is_dir():
        raise UserError(f"{source}: {'not a folder' if source.exists() else 'no such folder'}: expected {expected}")
    return source


def finish(
    importer: str,
    rows: Sequence[Utterance],
    out: Path,
    *,
    audio_root: Path,
    dropped: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    inputs: Iterable[Path] = (),
    features: "Mapping[str, Arrays] | None" = None,
    options: Mapping[str, Any] | None = None,
) -> ImportSummary:
    """Write the feature files, the manifest and its provenance: all that an import leaves.

    Args:
        out: a folder, or the manifest.
        audio_root: where audio lies outside the manifest's folder, its sidecar names this folder.
        features: name -> (id, array) pairs, streamed into ``NAME.safetensors``. A row that has neither text nor audio
            nor features is dropped.
    """
    out = Path(out)
    path = out if out.suffix.lower() in SUFFIXES else out / "manifest.csv"
    inputs = list(inputs)
    refuse_inputs(path, inputs)
    made = [_feature_file(path, name) for name in features or {}]
    refuse_folders([path, sidecar_path(path), provenance_path(path), *made])
    others = files_of_others(path) if features else {}
    for name in features or {}:
        check_feature_name(name, str(path))
        file = _feature_file(path, name)
        refuse_inputs(file, inputs)
        if other := others.get(os.path.realpath(file)):
            raise UserError(f"{file} is of {other}, too, and would be overwritten: give another --out")
    dropped, notes = list(dropped), list(notes)
    if not features:
        return _finished(importer, rows, path, audio_root, dropped, notes, inputs, {}, None, options)
    try:
        near = next(folder for folder in path.absolute().parents if folder.is_dir())  # nothing new where it fails
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=near) as folder:
            beside = Path(folder)
            return _finished(importer, rows, path, audio_root, dropped, notes, inputs, features, beside, options)
    except OSError as error:
        raise cannot_write(path, error) from error


def _finished(
    importer: str,
    rows: Sequence[Utterance],
    path: Path,
    audio_root: Path,
    dropped: list[tuple[str, str]],
    notes: list[str],
    inputs: list[Path],
    features: "Mapping[str, Arrays]",
    beside: Path | None,
    options: Mapping[str, Any] | None,
) -> ImportSummary:
    """``beside``: where feature files are written, until the manifest is: a failure leaves what was there before."""
    made, held = _write_features(beside, features, notes) if beside else ({}, set())
    files = {name: _feature_file(path, name) for name in made}
    kept = []
    for row in rows:
        if row.audio is not None and _ends_in_space(row.audio, audio_root):
            dropped.append((row.id, "the name of its audio begins or ends with a space: rename it"))
        elif row.text is None and row.audio is None and row.id not in held:
            dropped.append((row.id, "neither text nor audio nor features"))
        else:
            kept.append(replace(row, features=files) if files else row)
    if not kept:
        source = ", ".join(map(str, inputs)) or audio_root
        raise UserError(f"{source}: no usable utterance: {dropped[0][1] if dropped else 'it is empty'}")
    folder = path.parent.resolve()
    at_hand = all(row.audio.resolve().is_relative_to(folder) for row in kept if row.audio is not None)
    if not at_hand:
        notes.append(
            f"the audio stays in {audio_root}, which {path.name}.json names: where that moves, pass --audio-root"
        )
    n_rows = write_manifest(path, kept, audio_root=None if at_hand else audio_root)
    for name, file in made.items():
        file.replace(files[name])
    write_provenance(
        path,
        source=importer,
        inputs=inputs,
        features=files,
        rows=kept,
        dropped=dropped,
        notes=notes,
        options=options,
    )
    return ImportSummary(path, n_rows, dropped, notes)


def _ends_in_space(audio: Path, root: Path) -> bool:
    """A manifest's cells are read without what stands around them."""
    name = os.path.relpath(os.path.realpath(audio), os.path.realpath(root))
    return name != name.strip()


def _write_features(
    folder: Path, features: "Mapping[str, Arrays]", notes: list[str]
) -> tuple[dict[str, Path], set[str]]:
    """Name -> file of those that hold anything, and all ids that are in one of them."""
    from mmolre.data.feature_file import FeatureFile, write_feature_file

    files: dict[str, Path] = {}
    held: set[str] = set()
    for name, arrays in features.items():
        stream = ((key, array) for key, array in arrays if array.size)
        first = next(stream, None)
        if first is None:
            notes.append(f"no utterance has features of {name}")
            continue
        file = folder / f"{name}.safetensors"
        count = write_feature_file(file, itertools.chain([first], stream))
        written = FeatureFile(file)
        notes.append(f"features {name}: {count} utterances, {written.width} wide")
        held.update(written.ids)
        files[name] = file
    return files, held


def _feature_file(manifest: Path, name: str) -> Path:
    prefix = "" if manifest.stem == "manifest" else f"{manifest.stem}."
    return (manifest.parent / f"{prefix}{name}.safetensors").absolute()


def few_numbers(label: Any, most: int = 16) -> list[float] | None:
    """The numbers of a pickle's label, however they are nested; ``None`` where they are more than ``most``.

    Counted before they are unfolded: lists that hold one another many times over fill the memory from a few bytes.

    Raises:
        TypeError, ValueError: something in it is no number.
    """
    import numpy as np

    found: list[float] = []
    left = [label]
    for _ in range(4 * most):  # a list may hold itself
        if not left:
            return found
        value = left.pop()
        if isinstance(value, np.ndarray):
            value = value.ravel().tolist() if value.size <= most else [0] * (most + 1)
        if isinstance(value, list | tuple):
            left += value[: most + 1][::-1]
        else:
            found.append(float("nan") if value is None else float(value))
        if len(found) + len(left) > most:
            return None
    return None


def one_emotion(name: str | None, intensity: float = 1.0) -> tuple[float, ...]:
    """Six intensities with one above 0, or none where ``name`` is ``None`` (neutral)."""
    return tuple(intensity if other == name else 0.0 for other in EMOTIONS)


def rescale(value: float, low: float, high: float) -> float:
    """A sentiment in [low, high] to [-3, 3], linearly; what passes an end by rounding is cut there."""
    bottom, top = SENTIMENT_RANGE
    if (low, high) == SENTIMENT_RANGE:  # exactly as it is
        return min(max(value, bottom), top)
    return min(max(bottom + (value - low) / (high - low) * (top - bottom), bottom), top)


def split_of(group: str, fractions: Sequence[float]) -> str:
    """The split of a group (a video, a speaker, a document): by the sha256 of its name, so the same everywhere.

    Args:
        fractions: of train, valid and test; their sum is 1.
    """
    place = int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    train, valid = fractions[0], fractions[0] + fractions[1]
    return SPLITS[0] if place < train else SPLITS[1] if place < valid else SPLITS[2]


def count_splits(rows: Iterable[Utterance]) -> str:
    """For a note: ``train 3, valid 1, test 1``."""
    rows = list(rows)
    return ", ".join(f"{split} {sum(row.split == split for row in rows)}" for split in SPLITS)


def clip_file(folder: Path, stem: str) -> Path | None:
    """The file ``folder/stem.ENDING`` with sound, if there is one."""
    for suffix in MEDIA_SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    return None
