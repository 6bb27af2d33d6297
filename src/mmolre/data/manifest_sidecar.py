"""What a manifest's own columns cannot say: ``m.csv.json`` beside ``m.csv``.

``{"audio_root": "FOLDER", "features": {"covarep": "covarep.safetensors"}}``, both optional. The audio root is an
absolute path or one relative to the manifest's folder. Feature files (:mod:`mmolre.data.feature_file`) are relative to
that folder and may not leave it, so that it can be moved as a whole. Their names are those of modalities: letters,
digits, ``_`` and ``-``, a letter first; ``text`` and ``audio`` are taken.
"""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmolre.data.manifest_rows import SUFFIXES
from mmolre.errors import UserError

FEATURE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
RESERVED = ("text", "audio")
_FORM = '{"audio_root": "FOLDER", "features": {"NAME": "FILE"}}'


class Sidecar(NamedTuple):
    """What a sidecar says; paths resolved against the manifest's folder."""

    path: Path
    audio_root: Path | None
    features: dict[str, Path]


def sidecar_path(manifest: Path) -> Path:
    """``m.csv.json`` beside ``m.csv``."""
    return manifest.with_name(manifest.name + ".json")


def read_sidecar(manifest: Path) -> Sidecar:
    """The manifest's sidecar; without one, nothing is said.

    Raises:
        UserError: a sidecar of another form, a feature's name or file that is not allowed. Whether the files are there
            is not looked at.
    """
    path = sidecar_path(manifest)
    if not path.is_file():
        return Sidecar(path, None, {})
    malformed = UserError(f"{path}: not of the form {_FORM}: mend or remove it")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise malformed from None
    if not isinstance(content, dict):
        raise malformed
    audio_root, features = content.get("audio_root"), content.get("features", {})
    if not isinstance(audio_root, str | None) or not isinstance(features, dict) or not (content.keys() & _KEYS):
        raise malformed
    if not all(isinstance(file, str) for file in features.values()):
        raise malformed
    return Sidecar(
        path,
        None if audio_root is None else manifest.parent / audio_root,
        {name: _feature(manifest.parent, name, file, str(path)) for name, file in features.items()},
    )


_KEYS = {"audio_root", "features"}


def sidecar_text(manifest: Path, audio_root: str | None, features: Mapping[str, Path]) -> str | None:
    """The sidecar's content, or ``None`` where it has nothing to say.

    Raises:
        UserError: a feature file outside the manifest's folder, a name that is not allowed.
    """
    content: dict[str, object] = {} if audio_root is None else {"audio_root": audio_root}
    if features:
        folder = os.path.realpath(manifest.parent)
        files = {name: os.path.relpath(os.path.realpath(file), folder) for name, file in features.items()}
        for name, file in files.items():
            _feature(manifest.parent, name, file, str(manifest))
        content["features"] = {name: Path(file).as_posix() for name, file in files.items()}
    return json.dumps(content, ensure_ascii=False) + "\n" if content else None


def check_feature_name(name: str, where: str) -> None:
    """A :class:`UserError`, of ``where`` the name stands, where features cannot be called so."""
    if not FEATURE_NAME.fullmatch(name) or name in RESERVED:
        raise UserError(
            f"{where}: features cannot be called {name!r}: use letters, digits, _ and -, and neither text nor audio"
        )


def _feature(folder: Path, name: str, file: str, where: str) -> Path:
    check_feature_name(name, where)
    path = folder / file
    try:
        inside = Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents
    except ValueError:  # a NUL in the name
        inside = False
    if not inside:
        raise UserError(
            f"{where}: the feature file {file!r} is not in the manifest's folder: write the manifest there, or move it"
        )
    return path.absolute()


def files_of_others(manifest: Path) -> dict[str, Path]:
    """The feature files that other manifests in the folder name, as they really lie, and which one does: who writes
    files of this one must not replace them."""
    found: dict[str, Path] = {}
    for sidecar in sorted(manifest.parent.glob("*.json")) if manifest.parent.is_dir() else []:
        other = sidecar.with_suffix("")
        if other.suffix.lower() in SUFFIXES and other.name != manifest.name:
            with contextlib.suppress(UserError):
                found |= dict.fromkeys(map(os.path.realpath, read_sidecar(other).features.values()), other)
    return found
