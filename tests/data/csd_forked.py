"""Readers of .csd files as forks of one process that has h5py already: what a thousand of them cost is the import.

Each fork runs the very script that a reader of its own would run (``csd_child.py``). Run by its path, this file is that
one process: it takes lines ``SCRIPT\\tFILE\\tPIPE``, and answers each with the process id of the fork.
"""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO


class Forks:
    """Stands in for ``subprocess.Popen``, for the few things that the reader's parent does with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._zygote: subprocess.Popen[bytes] | None = None
        self._count = 0

    def __call__(self, command: list[str], *, env: dict[str, str], **_: object) -> "Fork":
        if self._zygote is None:
            self._zygote = subprocess.Popen(
                [sys.executable, "-I", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
            )
        assert self._zygote.stdin
        assert self._zygote.stdout
        self._count += 1
        pipe = self._folder / f"pipe-{self._count}"
        os.mkfifo(pipe)
        self._zygote.stdin.write("\t".join((*command[-2:], str(pipe))).encode() + b"\n")
        self._zygote.stdin.flush()
        number = int(self._zygote.stdout.readline())
        opened = pipe.open("rb")
        pipe.unlink()
        return Fork(number, opened)

    def close(self) -> None:
        if self._zygote is not None:
            self._zygote.communicate()


class Fork:
    def __init__(self, number: int, stdout: IO[bytes]) -> None:
        self._number, self.stdout = number, stdout

    def kill(self) -> None:
        # Nobody else takes that number: the process waits, ended or not, for its parent, which waits for no one.
        os.kill(self._number, signal.SIGKILL)

    def wait(self) -> None:
        pass


def main() -> None:
    import h5py  # noqa: F401
    import numpy  # noqa: F401

    for line in sys.stdin:
        script, file, pipe = line.rstrip("\n").split("\t")
        number = os.fork()
        if number:
            print(number, flush=True)
            continue
        os.dup2(os.open(pipe, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.argv = [script, file]
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
        runpy.run_path(script, run_name="__main__")
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
