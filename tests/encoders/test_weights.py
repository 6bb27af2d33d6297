"""Where weights are found, and that their bytes are checked."""

import hashlib
import json
import sys

import pytest

from mmolre.encoders import weights
from mmolre.encoders.weights import SOURCES, WeightSource, digest, find, home, locate, status
from mmolre.errors import UserError

CONTENT = {"model.bin": b"weights", "config.json": b"{}"}


@pytest.fixture
def tiny_role(tmp_path, monkeypatch) -> WeightSource:
    """A role of two small files, nothing of it installed, in a home of its own."""
    monkeypatch.setenv("MMOLRE_HOME", str(tmp_path / "home"))
    files = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    source = WeightSource("tiny", "audio", "for tests", "MIT", 4, files, (("tiny==1",),), ("tiny_weights_pkg/inside",))
    monkeypatch.setitem(SOURCES, "tiny", source)
    return source


def install(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**CONTENT, **changes}.items():
        (folder / name).write_bytes(content)
    return folder


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("MMOLRE_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("MMOLRE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".cache" / "mmolre"


def test_every_role_is_complete():
    for role, source in SOURCES.items():
        assert source.role == role
        assert all(len(sha) == 64 and set(sha) <= set("0123456789abcdef") for sha in source.files.values())
        assert all(pin.count("==") == 1 for pins in source.packages for pin in pins)
    assert {SOURCES[role].modality: role for role in weights.DEFAULTS.values()} == weights.DEFAULTS


def test_a_role_that_is_not_installed_says_how_to_get_it(tiny_role):
    assert find(tiny_role) is None
    with pytest.raises(UserError, match=r"'tiny' are not installed: run `mmolre encoders fetch tiny`"):
        locate("tiny")


def test_a_fetched_role_is_found(tiny_role):
    folder = install(home() / "encoders" / "tiny")
    assert locate("tiny") == folder


def test_an_installed_package_is_found_and_never_run(tiny_role, tmp_path, monkeypatch):
    package = tmp_path / "site" / "tiny_weights_pkg"
    folder = install(package / "inside")
    (package / "__init__.py").write_text("raise AssertionError('was run')")
    monkeypatch.syspath_prepend(package.parent)
    assert locate("tiny") == folder
    assert "tiny_weights_pkg" not in sys.modules


def test_a_wrong_hash_names_the_file_and_both_hashes(tiny_role):
    folder = install(home() / "encoders" / "tiny")
    locate("tiny")
    install(folder, **{"model.bin": b"WEIGHTS"})
    with pytest.raises(UserError) as caught:
        locate("tiny")
    message = str(caught.value)
    for part in ("model.bin", tiny_role.files["model.bin"], hashlib.sha256(b"WEIGHTS").hexdigest(), "fetch tiny"):
        assert part in message


def test_a_missing_file_is_named(tiny_role):
    (install(home() / "encoders" / "tiny") / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        locate("tiny")


def test_a_verified_file_is_not_read_again(tiny_role, monkeypatch):
    install(home() / "encoders" / "tiny")
    locate("tiny")

    def refuse(path):
        raise AssertionError(f"read {path} again")

    monkeypatch.setattr(weights, "sha256", refuse)
    locate("tiny")


@pytest.mark.parametrize("memory", ["", "[]", "{not json", '{"x": 3}'])
def test_a_damaged_memory_of_digests_is_replaced(tiny_role, tmp_path, memory):
    home().mkdir()
    (home() / "digests.json").write_text(memory)
    file = tmp_path / "file"
    file.write_bytes(b"content")
    assert digest(file) == hashlib.sha256(b"content").hexdigest()
    assert str(file) in json.loads((home() / "digests.json").read_text())


def test_a_home_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    monkeypatch.setenv("MMOLRE_HOME", str(file / "below"))
    assert digest(file) == hashlib.sha256(b"content").hexdigest()


def test_a_folder_is_itself(tmp_path):
    assert locate(str(tmp_path)) == tmp_path


def test_a_hub_id_is_fetched_without_pickles(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert locate("facebook/data2vec-audio-base@refs/pr/3") == tmp_path
    assert (asked["name"], asked["revision"]) == ("facebook/data2vec-audio-base", "refs/pr/3")
    assert not any(pattern.endswith((".bin", ".pt", ".h5")) for pattern in asked["allow_patterns"])
    assert locate("roberta-base") == tmp_path
    assert asked["revision"] is None


def test_a_hub_that_fails_says_what_else_it_could_have_been(monkeypatch):
    def fail(name, **options):
        raise OSError("no network\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match=r"'minilmm' is not a folder or a role \(minilm, .*no network$"):
        locate("minilmm")


@pytest.mark.parametrize("source", ["/no/such/folder", "./here", "", "a b", "a/b/c"])
def test_what_cannot_be_an_id_does_not_reach_the_hub(source, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="is not a folder, a role"):
        locate(source)


def test_status(tiny_role):
    assert {row.role: row.state for row in status()}["tiny"] == "not installed"
    folder = install(home() / "encoders" / "tiny")
    assert {row.role: (row.state, row.path) for row in status()}["tiny"] == ("installed", folder)
    install(folder, **{"config.json": b"{ }"})
    assert {row.role: row.state for row in status()}["tiny"].startswith("damaged: ")
