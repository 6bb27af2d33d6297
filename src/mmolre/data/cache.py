"""Features on disk: what an encoder made of a text or a recording, kept so that it is never computed twice.

A cache is a folder with one sub-folder per encoder fingerprint, which holds *shards*: safetensors files, one float16
tensor per utterance, named by the content it was made from. No padding is stored. A shard is written beside its place
under a name of its own and then renamed, so a killed process, a full disk or a second process at work in the same
folder never leaves a half-written shard to be read.
"""

import errno
import functools
import hashlib
import json
import math
import os
import time
import uuid
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import numpy as np

from mmolre.errors import UserError

_OPEN_SHARDS = 256  # each mapped shard holds a file descriptor, and 1024 of those is a usual limit
_STALE_SECONDS = 24 * 3600


class Features(NamedTuple):
    """What an encoder gives for one utterance.

    Attributes:
        values: (T, L, d) float16: time steps (tokens or frames), chosen layers, width. Read-only where memory-mapped.
        truncated: whether the input was longer than the encoder's window, so that its end is not in ``values``.
    """

    values: np.ndarray
    truncated: bool


class _Place(NamedTuple):
    shard: Path
    offset: int
    shape: tuple[int, ...]
    truncated: bool


def text_key(text: str) -> str:
    """The content key of a text: the SHA-256 of its UTF-8 bytes, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def audio_key(path: Path, start: float | None = None, end: float | None = None) -> str:
    """The content key of a recording, or of the piece of it from ``start`` to ``end`` seconds.

    Made from the file's bytes and not from its name, so that moving a corpus does not lose its features.

    Raises:
        OSError: the file cannot be read.
    """
    stat = path.stat()
    if not S_ISREG(stat.st_mode):  # a device or a pipe may have no end
        raise FileNotFoundError(errno.ENOENT, "no regular file", str(path))
    digest = _file_digest(path, stat.st_size, stat.st_mtime_ns)
    return digest if start is None and end is None else f"{digest}:{start}:{end}"


@functools.lru_cache(maxsize=65536)  # one long recording is cut into many utterances
def _file_digest(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FeatureCache:
    """Features by encoder fingerprint and content key (see the module's docstring for what lies on disk).

    Args:
        root: the folder; made when first written to.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self._index: dict[str, dict[str, _Place]] = {}
        self._seen: dict[str, set[str]] = {}
        self._map = functools.lru_cache(maxsize=_OPEN_SHARDS)(_map_shard)

    def get(self, fingerprint: str, key: str) -> Features | None:
        """The features kept under ``key``, as a read-only view of the shard's memory map; ``None`` where not kept.

        Raises:
            UserError: they were kept, and somebody has removed them since.
        """
        place = self._places(fingerprint).get(key)
        if place is None:
            return None
        try:
            mapped = self._map(place.shard)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"features kept in {place.shard} have gone ({reason}): run the same again") from None
        values = np.frombuffer(mapped, "<f2", math.prod(place.shape), place.offset).reshape(place.shape)
        return Features(values, place.truncated)

    def missing(self, fingerprint: str, keys: Iterable[str]) -> list[str]:
        """Those of ``keys`` that are not kept, each once, in their order. Sees what other processes have finished."""
        self._scan(fingerprint)
        places = self._index[fingerprint]
        return [key for key in dict.fromkeys(keys) if key not in places]

    def put_many(self, fingerprint: str, items: Sequence[tuple[str, Features]]) -> None:
        """Keep ``items`` (key, features) as one new shard.

        Raises:
            UserError: the folder cannot be written, or the disk is full. Shards finished before are kept.
        """
        if not items:
            return
        from safetensors.numpy import save

        arrays = {key: np.ascontiguousarray(features.values, dtype="<f2") for key, features in items}
        truncated = json.dumps([key for key, features in items if features.truncated])
        folder = self.root / fingerprint
        shard = folder / f"{uuid.uuid4().hex}.safetensors"
        beside = shard.with_suffix(".tmp")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                beside.write_bytes(save(arrays, {"truncated": truncated}))
                beside.replace(shard)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "the disk is full" if full else (error.strerror or str(error))
            raise UserError(
                f"cannot keep features in {self.root}: {what}; what was finished before is kept, "
                f"so {'free some space' if full else 'mend it'} (or choose another folder) and run the same again"
            ) from error
        self._scan(fingerprint)

    def _places(self, fingerprint: str) -> dict[str, _Place]:
        if fingerprint not in self._index:
            self._scan(fingerprint)
        return self._index[fingerprint]

    def _scan(self, fingerprint: str) -> None:
        places = self._index.setdefault(fingerprint, {})
        seen = self._seen.setdefault(fingerprint, set())
        folder = self.root / fingerprint
        if not folder.is_dir():
            return
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.endswith(".tmp"):
                _drop_if_stale(Path(entry.path))
            elif entry.name.endswith(".safetensors") and entry.name not in seen:
                seen.add(entry.name)
                try:
                    places.update(_read_index(Path(entry.path)))
                except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                    warnings.warn(
                        f"feature shard {entry.path} is damaged ({error}): ignored, its features are computed again",
                        stacklevel=3,
                    )


def _drop_if_stale(path: Path) -> None:
    """Remove what a killed process left; a young one may belong to a process that is writing it now."""
    try:
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            path.unlink()
    except OSError:
        pass  # its writer has just renamed it; or it is not ours to remove, and in nobody's way


def _map_shard(path: Path) -> np.memmap:
    return np.memmap(path, dtype=np.uint8, mode="r")


def _read_index(path: Path) -> dict[str, _Place]:
    """The places of all tensors in a shard.

    The file must be exactly as long as its header says, which a file cut off in the middle is not.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError("cut off in its header")
        header: dict[str, Any] = json.loads(file.read(length))
    truncated = set(json.loads(header.pop("__metadata__")["truncated"]))
    places = {}
    end_of_data = 0
    for key, entry in header.items():
        begin, end = map(int, entry["data_offsets"])
        shape = tuple(map(int, entry["shape"]))
        sound = entry["dtype"] == "F16" and len(shape) == 3 and min(shape) >= 0 and begin >= 0
        if not sound or end - begin != 2 * math.prod(shape):
            raise ValueError(f"tensor {key} is not what the cache writes")
        places[key] = _Place(path, 8 + length + begin, shape, key in truncated)
        end_of_data = max(end_of_data, end)
    if 8 + length + end_of_data != size:
        raise ValueError(f"{size} bytes long instead of {8 + length + end_of_data}")
    return places
