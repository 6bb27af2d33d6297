"""Ready-made features that a manifest's sidecar names."""

import json

import pytest

from mmolre.data.manifest import read_manifest, write_manifest
from mmolre.errors import UserError
from mmolre.schema import Utterance


def put(folder, features, rows="id,text\n1,a\n2,b\n"):
    (folder / "m.csv").write_text(rows)
    (folder / "m.csv.json").write_text(json.dumps({"features": features}))
    return folder / "m.csv"


def test_all_rows_share_one_mapping_of_names_to_files(tmp_path):
    rows = read_manifest(put(tmp_path, {"covarep": "f/covarep.safetensors", "open-face_2": "o.parquet"}))
    assert rows[0].features == {
        "covarep": tmp_path / "f" / "covarep.safetensors",
        "open-face_2": tmp_path / "o.parquet",
    }
    assert rows[0].features is rows[1].features
    assert Utterance("a").features == {}
    hash(rows[0])


def test_features_alone_make_an_utterance(tmp_path):
    path = put(tmp_path, {"covarep": "c.safetensors"}, "id,sentiment\n1,2\n")
    assert read_manifest(path)[0].text is None
    path = put(tmp_path, {"covarep": "c.safetensors"}, "id,text\n1,\n")
    assert read_manifest(path)[0].text is None
    path.with_name("m.csv.json").unlink()
    with pytest.raises(UserError, match="neither text nor audio"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("text", "a.safetensors", "cannot be called 'text'"),
        ("audio", "a.safetensors", "cannot be called 'audio'"),
        ("a.b", "a.safetensors", "cannot be called 'a.b'"),
        ("a", "../a.safetensors", "not in the manifest's folder"),
        ("a", "/etc/passwd", "not in the manifest's folder"),
        ("a", "link/a.safetensors", "not in the manifest's folder"),
        ("a", "\0", "not in the manifest's folder"),
        ("a", "", "not in the manifest's folder"),
        ("a", 1, "not of the form"),
    ],
)
def test_what_a_sidecar_may_not_say(tmp_path, name, file, message):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match=message):
        read_manifest(put(folder, {name: file}))


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
def test_round_trip(tmp_path, name):
    features = {"a": tmp_path / "a.safetensors", "b": tmp_path / "deep" / "b.parquet"}
    rows = [Utterance("1", features=features), Utterance("2", text="x", features=features)]
    write_manifest(tmp_path / name, rows)
    assert [(row.id, row.features) for row in read_manifest(tmp_path / name)] == [("1", features), ("2", features)]
    assert json.loads((tmp_path / f"{name}.json").read_text()) == {
        "features": {"a": "a.safetensors", "b": "deep/b.parquet"}
    }
    write_manifest(tmp_path / name, [Utterance("1", text="x")])
    assert not (tmp_path / f"{name}.json").exists()


def test_the_features_of_all_rows_are_named_and_must_not_clash(tmp_path):
    a, b = {"a": tmp_path / "a.safetensors"}, {"b": tmp_path / "b.safetensors"}
    write_manifest(tmp_path / "m.csv", [Utterance("1", features=a), Utterance("2", features=b)])
    assert read_manifest(tmp_path / "m.csv")[0].features == a | b
    before = (tmp_path / "m.csv").read_bytes()
    with pytest.raises(UserError, match="two files of features are called 'a'"):
        write_manifest(tmp_path / "m.csv", [Utterance("3", features=a), Utterance("4", features={"a": tmp_path / "x"})])
    with pytest.raises(UserError, match="not in the manifest's folder"):
        write_manifest(tmp_path / "m.csv", [Utterance("3", features={"a": tmp_path.parent / "x.safetensors"})])
    assert (tmp_path / "m.csv").read_bytes() == before
