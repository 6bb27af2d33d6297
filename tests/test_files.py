"""Nothing is half-written, and nothing but files is replaced."""

import json
import os
from pathlib import Path

import pytest

from mmolre.errors import UserError
from mmolre.files import read_json_lines, refuse_inputs, replacing, write_text


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_link_leads_to_what_is_replaced(tmp_path):
    target = tmp_path / "real" / "p.jsonl"
    target.parent.mkdir()
    link = tmp_path / "link.jsonl"
    link.symlink_to(target)
    for text in ("one", "two"):  # at first it leads to nothing
        write_text(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert names(target.parent) == {"p.jsonl"}
    assert names(tmp_path) == {"real", "link.jsonl"}


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_stays(tmp_path, make):
    path = tmp_path / "p"
    make(path)
    kind = path.stat().st_mode
    with pytest.raises(UserError, match="p is no file: name one"):
        write_text(path, "x")
    assert path.stat().st_mode == kind
    assert names(tmp_path) == {"p"}


def test_what_goes_wrong_leaves_it_as_it_was(tmp_path):
    path = tmp_path / "p"
    write_text(path, "before")

    def fail():
        with replacing(path) as beside:
            beside.write_text("after")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "before"
    assert names(tmp_path) == {"p"}


@pytest.mark.parametrize("beside_it", [True, False])
def test_another_file_that_cannot_be_read_is_named(tmp_path, beside_it):
    """What is written is often read from other files meanwhile."""
    source = tmp_path / "source" if beside_it else tmp_path / "a" / "source"
    source.mkdir(parents=True)  # a folder: not read, even by those who may read all

    def copy():
        with replacing(tmp_path / "b" / "p" if not beside_it else tmp_path / "p") as beside:
            beside.write_bytes(source.read_bytes())

    with pytest.raises(UserError, match=f"^cannot read {source}: Is a directory$"):
        copy()
    assert not list(tmp_path.rglob("*p"))


def test_a_folder_that_takes_no_file_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"^cannot write .*file/p: File exists$"):
        write_text(tmp_path / "file" / "p", "x")


def test_a_link_to_itself_is_none_of_the_files(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refuse_inputs(tmp_path / "p", [tmp_path / "loop"])
    with pytest.raises(UserError, match="would be overwritten"):
        refuse_inputs(tmp_path / "p", [tmp_path / "loop", tmp_path / "a" / ".." / "p"])


def test_only_a_line_feed_ends_a_line_of_json(tmp_path):
    values = [{"id": "a\u2028b\u0085c\x0b\x0cd\r\n"}, 2]
    path = tmp_path / "p.jsonl"
    path.write_bytes("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode())
    assert read_json_lines(path) == values
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")[:-2])
    assert read_json_lines(path) == values
    path.write_bytes(b'{"id": "cut')
    with pytest.raises(ValueError, match="Unterminated"):
        read_json_lines(path)
