"""Damaged copies of the genuine files: a clear error or a right result; never a traceback, a hang, or code run.

``MMOLRE_FUZZ=1000 pytest -s tests/data/test_fuzz.py`` makes a thousand copies of each; by default a few. Each copy is
told by its number, so that one that failed can be made again.
"""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from csd_files import write_csd
from csd_forked import Forks

from mmolre.data.feature_file import FeatureFile
from mmolre.data.importers import csd, import_cmu_sdk, import_mag_bert, import_mmsa
from mmolre.data.manifest import ManifestWarning, read_manifest
from mmolre.errors import UserError

COPIES = int(os.environ.get("MMOLRE_FUZZ", "0"))

pytestmark = [pytest.mark.corpus, pytest.mark.filterwarnings(f"ignore::{ManifestWarning.__module__}.ManifestWarning")]

TYPES = (b"f4", b"f8", b"i8", b"U9", b"S4", b"O8", b"V8", b"M8", b"c8", b"f2", b"b1", b"u1")
NUMBERS = (b"\x00" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x01\x00\x00\x00")


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A copy that is cut, has bytes flipped, blocks moved or blanked, types renamed, or numbers made absurd."""
    copy = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(copy))
        # The structure is at the front and between the arrays; half of the damage goes there.
        at = chance.randrange(min(4096, len(copy))) if chance.random() < 0.5 else at
        kind = chance.randrange(8)
        if kind == 0:
            del copy[max(at, 1) :]
        elif kind <= 2:
            copy[at] ^= 1 << chance.randrange(8)
        elif kind == 3:
            copy[at] = chance.randrange(256)
        elif kind == 4:
            length = chance.randrange(1, 200)
            copy[at : at + length] = bytes(chance.randrange(256) for _ in range(length))
        elif kind == 5:
            length, source = chance.randrange(1, 2000), chance.randrange(len(copy))
            copy[at : at + length] = copy[source : source + length]
        elif kind == 6:
            copy[at : at + 4] = chance.choice(NUMBERS)
        else:
            found = copy.find(chance.choice(TYPES[:3]), at)
            copy[found : found + 2] = chance.choice(TYPES) if found >= 0 else copy[found : found + 2]
        if not copy:
            return b""
    return bytes(copy)


def tried(make) -> bool:
    """Whether it gave a manifest, which then is sound; else the error is one line that names the file."""
    try:
        summary = make()
    except UserError as error:
        message = str(error)
        if "\n" in message or not message.startswith("/"):
            raise AssertionError(message) from error
        return False
    rows = read_manifest(summary.path)
    assert len(rows) == summary.n_rows
    for file in map(FeatureFile, rows[0].features.values()):
        for name in file.ids[:5]:
            array = file.get(name)
            assert array is not None
            assert array.shape == (file.frames(name), file.width)
    return True


def each(copies: int, change: Callable[[random.Random, int], None], make: Callable[[], bool], name: str) -> int:
    """Try so many copies; how many of them were read."""
    read, slowest = 0, 0.0
    for number in range(copies):
        change(random.Random(number), number)
        start = time.perf_counter()
        try:
            read += make()
        except BaseException as error:
            error.add_note(f"copy {number} of {name}")
            raise
        slowest = max(slowest, time.perf_counter() - start)
        if number % 100 == 99 or number == copies - 1:
            tally = f"{number + 1} copies, {read} read, {number + 1 - read} refused"
            print(f"{name}: {tally}; the slowest took {slowest:.1f} s", flush=True)
    return read


def test_the_pickle(corpora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = (corpora / "mosi" / "covarep_facet_valid.pkl").read_bytes()
    path = tmp_path / "x.pkl"

    def make() -> bool:
        read = tried(lambda: import_mag_bert([path], tmp_path / "out"))
        tried(lambda: import_mmsa([path], tmp_path / "out"))
        return read

    copies = COPIES or 40
    read = each(copies, lambda chance, _: path.write_bytes(damaged(content, chance)) and None, make, "the pickle")
    assert 0 < read < copies
    assert {item.name for item in tmp_path.iterdir()} <= {"x.pkl", "out"}


@pytest.fixture
def forks(tmp_path, monkeypatch):
    forks = Forks(tmp_path)
    monkeypatch.setattr(csd, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": forks}))
    yield
    forks.close()


@pytest.mark.parametrize("name", ["CMU_MOSI_Opinion_Labels", "CMU_MOSI_ModifiedTimestampedWords"])
def test_the_computational_sequences(corpora, tmp_path, name, forks):
    source = corpora / "mosi" / f"{name}.csd"
    content = source.read_bytes()
    times, video = [[0, 50], [50, 100]], "03bSnISJMiM"
    if "Labels" in name:
        other = write_csd(tmp_path / "words.csd", "words", {video: (times, ["so", "good"])})
    else:
        other = write_csd(tmp_path / "labels.csd", "labels", {video: (times, [[1.0], [2.0]])}, ["sentiment"])
    path = tmp_path / f"x_{name}.csd"

    def change(chance: random.Random, number: int) -> None:
        if number % 4 == 3:
            shutil.copyfile(source, path)
            rewritten(path, chance)
        else:
            path.write_bytes(damaged(content, chance))

    each(COPIES or 8, change, lambda: tried(lambda: import_cmu_sdk([path, other], tmp_path / "out")), name)
    shutil.copyfile(source, path)
    assert tried(lambda: import_cmu_sdk([path, other], tmp_path / "out"))


def rewritten(path: Path, chance: random.Random) -> None:
    """Another type or shape for one of a video's data sets, in a file that is whole."""
    h5py = pytest.importorskip("h5py")
    path.chmod(0o644)
    with h5py.File(path, "a") as file:
        (root,) = file.values()
        video = chance.choice(list(root["data"].values()))
        part = chance.choice(("features", "intervals"))
        n = len(video[part])
        del video[part]
        shape = chance.choice(
            ((n, 2), (n, 1), (n,), (n + 1, 2), (0, 2), (), (1 << 40, 2), (n, 1 << 30), (n, 2, 2), (n, 0))
        )
        kind = chance.choice(("f8", "f4", "i8", "S9", "c16", "u1", "b1", h5py.string_dtype()))
        created = video.create_dataset(part, shape, kind, chunks=True if shape and 0 not in shape else None)
        if created.size and created.size < 1 << 20 and created.dtype.kind in "fc":
            created[...] = chance.choice((np.nan, np.inf, 1e30, -1.0))
