"""Reads one computational sequence (.csd, HDF5) in a process of its own and writes it to stdout as a plain stream.

A damaged HDF5 file may crash or hang the library that reads it; here it takes down nothing else. Run by its path
(:mod:`mmolre.data.importers.csd` does), so it imports nothing of the package. The stream is lines of JSON, some with
raw bytes after them:

- ``{"root": str, "dimensions": str, "kind": "words" | "numbers"}``, once;
- ``{"key": str, "shape": [n, d]}``; then n x 2 float64 intervals; then for words ``{"words": [str, …]}``, for numbers
  n x d float32 in blocks of rows. Each block of numbers comes after ``{"bytes": int}``;
- ``{"end": true}``, or ``{"error": str}``.
"""

import json
import os
import sys
from typing import Any, BinaryIO

import h5py
import numpy as np

BLOCK = 4 << 20  # bytes that go to the parent at once
MEMORY = 16 << 30  # bytes of addresses, most of them not memory
RATIO = 200  # an array larger than so many times the file is not there, whatever its header says
ALWAYS = 16 << 20  # bytes that any file may claim


class Odd(Exception):  # noqa: N818
    """What no computational sequence holds."""


def say(**message: Any) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")


def member(group: Any, name: str, kind: type) -> Any:
    """The group's member: in this very file, not somewhere that a link points to."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise Odd(f"{name!r} is {'missing' if link is None else 'a link to elsewhere'}")
    found = group.get(name)
    if not isinstance(found, kind):
        raise Odd(f"{name!r} is no {kind.__name__.lower()}")
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise Odd(f"{name!r} lies in another file")
    return found


def dataset(group: Any, name: str, size: int) -> Any:
    """A data set of a believable size, with a chunk cache that holds its largest chunk."""
    found = member(group, name, h5py.Dataset)
    if found.shape is None or found.dtype.kind not in "biufSO":
        raise Odd(f"{name!r} is of type {found.dtype}")
    if found.size * found.dtype.itemsize > max(ALWAYS, RATIO * size):
        raise Odd(f"{name!r} claims the shape {found.shape}, far beyond the file's size")
    if found.chunks:
        chunk = int(np.prod(found.chunks)) * found.dtype.itemsize
        if chunk > max(ALWAYS, RATIO * size):
            raise Odd(f"{name!r} claims chunks of {found.chunks}, far beyond the file's size")
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        access.set_chunk_cache(521, chunk + (1 << 20), 1.0)
        found = h5py.Dataset(h5py.h5d.open(group.id, name.encode(), access))
    return found


def give(array: np.ndarray, out: BinaryIO) -> None:
    """Raw bytes, announced, so that an error between two blocks is not taken for one."""
    say(bytes=array.nbytes)
    out.write(array.tobytes())


def text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def metadata(root: Any, name: str, size: int) -> str:
    """A metadata entry as text; blank where there is none."""
    try:
        value = dataset(member(root, "metadata", h5py.Group), name, size)[()]
        return text(np.ravel(value)[0])[:10_000]
    except (Odd, OSError, ValueError, IndexError, TypeError, KeyError):
        return ""


def send(key: str, video: Any, words: bool, size: int, out: BinaryIO) -> None:
    intervals, features = (dataset(video, name, size) for name in ("intervals", "features"))
    if intervals.ndim != 2 or intervals.shape[1] != 2 or intervals.dtype.kind not in "iuf":
        raise Odd(f"intervals of shape {intervals.shape} and type {intervals.dtype}, not (n, 2) seconds")
    count = intervals.shape[0]
    if features.ndim == 0 or features.shape[0] != count:
        raise Odd(f"{count} intervals, but features of shape {features.shape}")
    if (features.dtype.kind in "SO") != words:
        raise Odd("words and numbers in one file")
    width = int(np.prod(features.shape[1:])) if features.ndim > 1 else 1
    if words and width != 1:
        raise Odd(f"{width} words at a time")
    times = np.ascontiguousarray(intervals[()], np.float64)
    say(key=key, shape=[count, width])
    give(times, out)
    if words:
        say(words=[text(word) for word in np.ravel(features[()])])
        return
    step = max(1, BLOCK // max(1, width * 4))
    for start in range(0, count, step):
        give(np.ascontiguousarray(features[start : start + step], np.float32), out)


def main(path: str) -> None:
    size = os.stat(path).st_size  # noqa: PTH116
    out = sys.stdout.buffer
    with h5py.File(path, "r") as file:
        names = list(file)
        if len(names) != 1:
            raise Odd(f"{len(names)} sequences in one file, expected one")
        root = member(file, names[0], h5py.Group)
        data = member(root, "data", h5py.Group)
        keys = sorted(data)
        if not keys:
            raise Odd("no videos in it")
        first = dataset(member(data, keys[0], h5py.Group), "features", size)
        words = first.dtype.kind in "SO"
        dimensions = metadata(root, "dimension names", size)
        say(root=names[0], dimensions=dimensions, kind="words" if words else "numbers")
        for key in keys:
            video = member(data, key, h5py.Group)
            send(key, video, words, size, out)
    say(end=True)


if __name__ == "__main__":
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # not on this system
        pass
    try:
        with np.errstate(all="ignore"):
            main(sys.argv[1])
    except BrokenPipeError:  # the parent has seen enough
        os._exit(0)
    except Exception as error:  # whatever the library raises for a damaged file
        say(error=" ".join(str(error).split())[:200] or type(error).__name__)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(0)
