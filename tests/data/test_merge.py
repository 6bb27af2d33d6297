import json

import numpy as np
import pytest

from mmolre.data.feature_file import FeatureFile, write_feature_file
from mmolre.data.manifest import read_manifest, write_manifest
from mmolre.data.merge import merge_manifests
from mmolre.errors import UserError
from mmolre.schema import Utterance

NONE = (None,) * 6


def put(folder, rows, **features):
    folder.mkdir(exist_ok=True)
    files = {}
    for name, arrays in features.items():
        files[name] = folder / f"{name}.safetensors"
        write_feature_file(files[name], arrays.items())
    write_manifest(folder / "m.csv", [row if not files else _with(row, files) for row in rows])
    return folder / "m.csv"


def _with(row, files):
    from dataclasses import replace

    return replace(row, features=files)


def test_sentiment_of_one_and_emotions_of_the_other(tmp_path):
    a = put(tmp_path / "a", [Utterance("1", text="x", sentiment=1, split="train"), Utterance("2", text="y")])
    b = put(tmp_path / "b", [Utterance("3", text="z"), Utterance("1", text="X.", emotions=(1, 0, 0, 0, 0, None))])
    summary = merge_manifests([a, b], tmp_path / "out")
    rows = {row.id: row for row in read_manifest(summary.path)}
    assert list(rows) == ["1", "2", "3"]
    assert (rows["1"].text, rows["1"].sentiment, rows["1"].split) == ("x", 1, "train")
    assert rows["1"].emotions == (1, 0, 0, 0, 0, None)
    assert [
        len(read_manifest(merge_manifests([a, b], tmp_path / "o", rows=which).path)) for which in ("first", "common")
    ] == [2, 1]
    assert not any("conflict" in note for note in summary.notes)


def test_neither_manifest_is_overwritten(tmp_path):
    a = put(tmp_path / "a", [Utterance("1", text="x")])
    b = put(tmp_path / "b", [Utterance("1", text="x")])
    before = b.read_text()
    with pytest.raises(UserError, match="would be overwritten"):
        merge_manifests([a, b], b)
    assert b.read_text() == before


def test_conflicts_are_listed_and_the_first_wins(tmp_path):
    a = put(tmp_path / "a", [Utterance("1", text="so good", sentiment=1, split="train", emotions=(1, *NONE[1:]))])
    b = put(tmp_path / "b", [Utterance("1", text="so bad", sentiment=1.0004, split="test", emotions=(2, *NONE[1:]))])
    summary = merge_manifests([a, b], tmp_path / "out")
    (row,) = read_manifest(summary.path)
    assert (row.text, row.sentiment, row.split, row.emotions[0]) == ("so good", 1, "train", 1)
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert [item["what"] for item in provenance["conflicts"]] == [
        "text: 'so good' and 'so bad'",
        "split: 'train' and 'test'",
        "happy: 1 and 2",
    ]
    assert sum("1 conflicts, e.g. 1, " in note for note in summary.notes) == 3


def test_audio_and_its_times_come_together(tmp_path):
    a = put(tmp_path / "a", [Utterance("1", text="x", start=5, end=6)])
    b = put(tmp_path / "b", [Utterance("1", audio=tmp_path / "b" / "deep" / "x.wav")])
    (tmp_path / "b" / "deep").mkdir()
    (row,) = read_manifest(merge_manifests([a, b], tmp_path / "out").path)
    assert (row.audio, row.start, row.cut, row.text) == (tmp_path / "b" / "deep" / "x.wav", None, False, "x")


@pytest.mark.parametrize(
    ("start", "end", "same"),
    [(1.024, 9, True), (0.9749, 9, True), (0.9747, 9, False), (1.0248, 9.1, False), (1.0248, None, True)],
)
def test_times_are_the_same_where_they_are_near(tmp_path, start, end, same):
    a = put(tmp_path / "a", [Utterance("1", text="x", video_id="v", start=1.0248, end=9.0)])
    b = put(tmp_path / "b", [Utterance("2", sentiment=1, text="x", video_id="v", start=start, end=end)])
    c = put(tmp_path / "c", [Utterance("3", text="x", video_id="v", start=1.03, end=9.0, speaker="s")])
    rows = read_manifest(merge_manifests([a, b, c], tmp_path / "out", on="times").path)
    assert [(row.id, row.sentiment, row.speaker) for row in rows] == (
        [("1", 1, "s")] if same else [("1", None, "s"), ("2", 1, None)]
    )


def test_rows_of_one_start_or_one_interval(tmp_path):
    """CMU-MOSI has both: they are told apart by their ends, or else not merged."""
    times = {"a": (1.0, 2.0), "b": (1.0, 3.0), "c": (5.0, 6.0), "d": (5.0, 6.0)}
    rows = [Utterance(name, text=name, video_id="v", start=s, end=e) for name, (s, e) in times.items()]
    others = [Utterance(f"{row.id}2", text=row.text, sentiment=i, video_id="v", start=row.start, end=row.end)
              for i, row in enumerate(rows)]  # fmt: skip
    summary = merge_manifests([put(tmp_path / "a", rows), put(tmp_path / "b", others)], tmp_path / "o", on="times")
    assert [(row.id, row.sentiment) for row in read_manifest(summary.path)] == [
        ("a", 0), ("b", 1), ("c", 2), ("d", None), ("d2", 3)
    ]  # fmt: skip
    assert f"1 rows of {tmp_path / 'a' / 'm.csv'} have the times of another: not merged, e.g. d as c" in summary.notes


def test_one_id_for_rows_of_different_times(tmp_path):
    a = put(tmp_path / "a", [Utterance(str(s), text="x", video_id="v", start=s, end=9.0) for s in (1.0, 2.0)])
    b = put(tmp_path / "b", [Utterance("1.0", text="x", video_id="v", start=s, end=9.0) for s in (2.0,)] + [
        Utterance("2.0", text="x", video_id="v", start=4.0, end=9.0)])  # fmt: skip
    with pytest.raises(UserError, match=r"the id '2.0' is that of two rows whose times differ"):
        merge_manifests([a, b], tmp_path / "out", on="times")
    assert not (tmp_path / "out" / "manifest.csv").exists()


def test_on_times(tmp_path):
    a = put(
        tmp_path / "a",
        [
            Utterance("v[0]", text="x", video_id="v", start=1.01, end=2),
            Utterance("v[1]", text="y", video_id="v", start=2, end=3),
        ],
    )
    b = put(
        tmp_path / "b",
        [Utterance("v_1", text="x", sentiment=2, video_id="v", start=1.0, end=2)],
        f={"v_1": np.ones((2, 3))},
    )
    rows = read_manifest(merge_manifests([a, b], tmp_path / "out", on="times").path)
    assert [(row.id, row.sentiment) for row in rows] == [("v[0]", 2), ("v[1]", None)]
    assert FeatureFile(rows[0].features["f"]).ids == ("v[0]",)
    c = put(tmp_path / "c", [Utterance("1", text="x")])
    with pytest.raises(UserError, match="--on times needs video_id and start"):
        merge_manifests([a, c], tmp_path / "o", on="times")


def test_features_are_copied_and_never_mixed(tmp_path):
    one, two = {"1": np.ones((2, 3))}, {"1": np.zeros((1, 3))}
    a = put(tmp_path / "a", [Utterance("1", text="x")], audio45=one, same=one)
    b = put(tmp_path / "b", [Utterance("1", text="x")], audio45=two, same=one, covarep=two)
    summary = merge_manifests([a, b], tmp_path / "out")
    (row,) = read_manifest(summary.path)
    assert sorted(row.features) == ["audio45", "audio45-2", "covarep", "same"]
    np.testing.assert_array_equal(FeatureFile(row.features["audio45"]).get("1"), one["1"])
    np.testing.assert_array_equal(FeatureFile(row.features["audio45-2"]).get("1"), two["1"])
    assert any("audio45-2 here" in note for note in summary.notes)
    with pytest.raises(UserError, match="merge into another folder"):
        merge_manifests([a, b], tmp_path / "a")


def test_what_cannot_be_merged(tmp_path):
    a, b = put(tmp_path / "a", [Utterance("1", text="x")]), put(tmp_path / "b", [Utterance("2", text="x")])
    with pytest.raises(UserError, match="needs two manifests"):
        merge_manifests([a], tmp_path / "out")
    with pytest.raises(UserError, match=r"has no row of .*is --on id right\? Ids are, e.g., '1' and '2'"):
        merge_manifests([a, b], tmp_path / "out")
    assert not (tmp_path / "out").exists()
