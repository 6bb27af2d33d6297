"""Writing files so that nothing is ever half-written: beside, then renamed; and reading JSON lines."""

import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmolre.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file's path beside ``path`` to write to; renamed to ``path`` at the end, removed if anything went wrong.

    Where ``path`` is a link, what it leads to is replaced.

    Raises:
        UserError: the disk is full or the folder cannot be written to, or ``path`` is a folder, a device or a pipe. It
            is then as it was.
    """
    beside = None
    target = Path(os.path.realpath(path))
    try:
        refuse_folders([path])
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(handle)
        beside = Path(name)
        yield beside
        beside.chmod(0o666 & ~_umask())  # a temporary file is its owner's alone; the finished one is not
        beside.replace(target)
    except OSError as error:
        if name := _another_file(error, beside, target):  # what is written is often read from other files meanwhile
            raise UserError(f"cannot read {name}: {error.strerror}") from error
        raise cannot_write(path, error) from error
    except UnicodeEncodeError as error:  # half a character: a file's name that is no UTF-8, mostly
        raise UserError(f"{os.fsencode(path).decode(errors='replace')}: {_no_text(error)}") from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def refuse_folders(outputs: Iterable[Path]) -> None:
    """A :class:`UserError` where one of these is there and no file (a folder, a device): it cannot be replaced."""
    for path in outputs:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            raise UserError(f"{path} is no file: name one, which would be replaced")


def refuse_inputs(out: Path, inputs: Iterable[Path]) -> None:
    """A :class:`UserError` where ``out`` is one of the files that are read, and would be overwritten."""
    target = os.path.realpath(out)
    if any(target == os.path.realpath(path) for path in inputs):
        raise UserError(f"{out} is to be read, and would be overwritten: give another --out")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def read_json_lines(path: Path) -> list[Any]:
    """The values of a file that holds one a line, in JSON and UTF-8.

    Only a line feed ends a line: strings may hold what else Unicode breaks lines at.

    Raises:
        OSError, ValueError: there is no such file, or it is damaged.
    """
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def cannot_write(path: Path, error: OSError) -> UserError:
    """The one line that says why ``path`` was not written."""
    if error.errno == errno.ENOSPC:
        return UserError(f"the disk that holds {path.parent} is full: free some space and run the same command again")
    return UserError(f"cannot write {path}: {error.strerror or error}")


def _another_file(error: OSError, beside: Path | None, target: Path) -> str | None:
    """The file that an error speaks of, where it is neither the one written nor beside it nor a folder above it."""
    if not isinstance(error.filename, str | bytes) or error.filename2 is not None or beside is None:
        return None
    name = Path(os.path.realpath(os.fsdecode(error.filename)))
    ours = name in (beside, target, *target.parents) or (name.parent == target.parent and not name.exists())
    return None if ours else os.fsdecode(error.filename)


def _no_text(error: UnicodeEncodeError) -> str:
    around = error.object[max(0, error.start - 20) : error.end + 20].encode(errors="replace").decode()
    return f"{around!r} is no text that can be written in UTF-8: is a file's name in another encoding? Rename it"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
