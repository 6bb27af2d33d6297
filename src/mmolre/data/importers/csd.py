"""Computational sequences (.csd) of the CMU Multimodal SDK, read by a child process (see ``csd_child.py``)."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmolre.errors import UserError

_CHILD = Path(__file__).with_name("csd_child.py")
_PATIENCE = 20.0  # seconds without a word from the child
_LINE = 1 << 26
_BLOCK = 4 << 20


@dataclass(frozen=True, slots=True)
class Sequence:
    """One video's part of a computational sequence.

    Attributes:
        key: the video, or the segment (``VIDEO[k]``) where the file is cut into segments already.
        intervals: (n, 2), seconds.
        words: n strings; empty where the file holds numbers.
        width: d of numbers.
    """

    key: str
    intervals: np.ndarray
    words: list[str]
    width: int
    _blocks: Iterator[np.ndarray]

    def blocks(self) -> Iterator[np.ndarray]:
        """The n x d float32 numbers in blocks of rows; once."""
        return self._blocks


class CsdFile:
    """A computational sequence, streamed; to be used in a ``with`` block.

    Attributes:
        root: its root name, such as ``CMU_MOSI_COVAREP``.
        dimensions: the names of its columns, as far as it says.
        holds_words: words rather than numbers.

    Raises:
        UserError: here and while iterating: a file that cannot be read, is none, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        if importlib.util.find_spec("h5py") is None:
            raise UserError(".csd files need h5py: pip install 'mmolre[data]'")
        self.path = path
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        # Plug-ins are code: none is loaded for a stranger's file.
        environment = os.environ | {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", str(_CHILD), str(path.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self._process.stdout is not None
        self._out: IO[bytes] = self._process.stdout
        self._stalled = False
        self._until: float | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            head = self._message()
            self.root, self.holds_words = str(head["root"]).strip('"'), head["kind"] == "words"
            self.dimensions = _names(head["dimensions"])
        except KeyError:
            self.close()
            raise UserError(f"{path}: not a computational sequence") from None
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Sequence]:
        """Each video in turn; what is left of its blocks is passed over. Once."""
        while "end" not in (head := self._message()):
            count, width = head["shape"]
            intervals = np.frombuffer(self._bytes(count * 16), np.float64).reshape(count, 2)
            words = self._message()["words"] if self.holds_words else []
            blocks = self._blocks(0 if self.holds_words else count, width)
            yield Sequence(head["key"], intervals, words, width, blocks)
            for _ in blocks:
                pass

    def _blocks(self, count: int, width: int) -> Iterator[np.ndarray]:
        step = max(1, _BLOCK // max(1, width * 4))
        for start in range(0, count, step):
            rows = min(step, count - start)
            yield np.frombuffer(self._bytes(rows * width * 4), np.float32).reshape(rows, width)

    def __enter__(self) -> "CsdFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if it still runs."""
        self._closed.set()
        self._out.close()
        self._process.kill()
        self._process.wait()

    def _message(self) -> dict[str, Any]:
        with self._patience():
            line = self._out.readline(_LINE)
        if not line.endswith(b"\n"):
            raise self._gone()
        message = json.loads(line)
        if "error" in message:
            raise UserError(f"{self.path}: not a readable computational sequence: {message['error']}")
        return message

    def _bytes(self, count: int) -> bytes:
        announced = self._message().get("bytes")
        with self._patience():
            content = self._out.read(count)
        if announced != count or len(content) < count:
            raise self._gone()
        return content

    def _gone(self) -> UserError:
        reason = f"no answer for {_PATIENCE:.0f} s" if self._stalled else "the HDF5 library crashed on it"
        return UserError(f"{self.path}: not a readable computational sequence: {reason}: the file is damaged")

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """While the parent waits, the child has so many seconds."""
        self._until = time.monotonic() + _PATIENCE
        try:
            yield
        finally:
            self._until = None

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, _PATIENCE / 4)):
            until = self._until
            if until is not None and time.monotonic() > until:
                self._stalled = True
                self._process.kill()
                return


def _names(text: str) -> list[str]:
    try:
        names = json.loads(text.replace("'", '"'))
    except ValueError:
        return []
    if isinstance(names, dict):
        names = list(names)
    return [str(name) for name in names] if isinstance(names, list) else []
