import json

import numpy as np
import pytest

from mmolre.data.feature_file import write_feature_file
from mmolre.data.inspect import inspect_manifest, report_lines
from mmolre.data.manifest import ManifestWarning, write_manifest
from mmolre.errors import UserError
from mmolre.schema import SPLITS, Utterance
from tiny_corpus import write_wave

rng = np.random.default_rng(0)


def split(i: int) -> str:
    return SPLITS[min(i * 4 // 400, 3) // 2 if i < 300 else 2]


def corpus(folder, features=None, n=400, **more):
    """Rows with sentiment and one emotion; ``features``: a function of the labels."""
    labels = np.clip(rng.normal(size=n), -3, 3)
    files = {}
    if features is not None:
        files = {"f": folder / "f.safetensors"}
        write_feature_file(files["f"], ((f"r{i}", features(labels[i])) for i in range(n)))
    rows = [
        Utterance(
            f"r{i}",
            text=f"this is the text of row {i}",
            split=split(i),
            sentiment=labels[i],
            emotions=(float(labels[i] > 1), *[None] * 5),
            features=files,
            **more,
        )
        for i in range(n)
    ]
    write_manifest(folder / "m.csv", rows)
    return inspect_manifest(folder / "m.csv")


def test_counts_and_histograms(tmp_path):
    rows = [
        Utterance("a", text="one two", split="train", sentiment=-3, emotions=(0, 1, *[None] * 4)),
        Utterance("b", text="ONE", split="train", sentiment=2.6),
        Utterance("c", text="x y z", split="valid"),
        Utterance("d", text="w"),
    ]
    rows.reverse()  # splits are told in their own order
    write_manifest(tmp_path / "m.csv", rows)
    report = inspect_manifest(tmp_path / "m.csv")
    assert (report["rows"], report["splits"]) == (4, {"train": 2, "valid": 1, "test": 0, "none": 1})
    assert report["labels"]["sentiment"]["train"] == {"labelled": 2, "histogram": [1, 0, 0, 0, 0, 0, 1]}
    assert report["labels"]["emotions"]["sad"]["train"] == {"labelled": 1, "present": 1}
    assert report["text"]["words"] == {"min": 1, "median": 1.5, "p95": pytest.approx(2.85), "max": 3}
    assert (report["text"]["upper_case"], report["warnings"]) == (1, [])
    lines = report_lines(report)
    assert lines[0] == "rows       4: train 2, valid 1, test 0, none 1"
    assert any(line.endswith(" 1 0 0 0 0 0 1") for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("with")] == ["train", "valid", "none"]
    json.dumps(report)


def test_audio_missing_lengths_and_longer_than_the_window(tmp_path):
    write_wave(tmp_path / "a.wav", 440, seconds=1.5)
    (tmp_path / "bad.wav").write_bytes(b"x")
    rows = [
        Utterance("a", audio=tmp_path / "a.wav", split="train"),
        Utterance("b", audio=tmp_path / "a.wav", start=0.0, end=61.0, cut=True, split="valid"),
        Utterance("c", audio=tmp_path / "none.wav"),
        Utterance("d", audio=tmp_path / "bad.wav"),
    ]
    write_manifest(tmp_path / "m.csv", rows)
    report = inspect_manifest(tmp_path / "m.csv")
    assert (report["audio"]["rows"], report["audio"]["missing"], report["audio"]["measured"]) == (4, 1, 2)
    assert report["audio"]["seconds"]["min"] == pytest.approx(1.5, abs=0.01)
    text = "\n".join(report["warnings"])
    assert "1 of 4 audio files are not there" in text
    assert "1 of 2 audio files tried have no sound" in text
    assert "1 of 2 sounds measured are longer than 60 s" in text
    assert "nothing is labelled" in text


def test_times_beyond_the_recording(tmp_path):
    write_wave(tmp_path / "a.wav", 440, seconds=1.5)
    times = {"a": (0.0, 1.5), "rounded": (1.0, 1.9), "b": (1.0, 4.0), "c": (9.0, 12.0)}
    rows = [Utterance(k, audio=tmp_path / "a.wav", start=s, end=e, cut=True) for k, (s, e) in times.items()]
    write_manifest(tmp_path / "m.csv", rows)
    told = "2 rows end after their recording does, e.g. b at 4 s of 1.5"
    assert any(line.startswith(told) for line in inspect_manifest(tmp_path / "m.csv")["warnings"])
    write_manifest(tmp_path / "m.csv", rows[:2])
    assert not any("end after" in line for line in inspect_manifest(tmp_path / "m.csv")["warnings"])


def test_leaks(tmp_path):
    said = "exactly the same five words"
    rows = [
        Utterance("a", text=said, split="train", video_id="v", speaker="s", sentiment=1),
        Utterance("b", text=f" {said.upper()}!", split="test", video_id="w", speaker="s"),
        Utterance("c", text="yes", split="train", video_id="x"),
        Utterance("d", text="yes", split="valid", video_id="x"),
        Utterance("e", audio=tmp_path / "a.wav", split="train"),
        Utterance("f", audio=tmp_path / "a.wav", split="test"),
        Utterance("g", audio=tmp_path / "a.wav", start=1, end=2, cut=True, split="test"),
    ]
    write_manifest(tmp_path / "m.csv", rows)
    report = inspect_manifest(tmp_path / "m.csv")
    assert {name: of["across_splits"] for name, of in report["leaks"].items()} == {
        "texts": 1,
        "recordings": 1,
        "videos": 1,
        "speakers": 1,
    }
    assert report["leaks"]["texts"]["examples"] == [["a", "b"]]
    assert any("1 texts are in more than one split, e.g. a (train) and b (test)" in line for line in report["warnings"])


def test_honest_features_pass(tmp_path):
    report = corpus(tmp_path, lambda label: rng.normal(size=(3, 5)))
    (of,) = report["features"].values()
    assert (of["utterances"], of["width"], of["missing"], of["nan"], of["inf"], of["constant"]) == (400, 5, 0, 0, 0, 0)
    assert of["frames"] == {"min": 3, "median": 3, "p95": 3, "max": 3}
    assert abs(of["predicts"]["polarity"] - 0.5) < 0.15
    assert not [line for line in report["warnings"] if line.startswith("features")]


def test_features_that_carry_the_labels_are_found(tmp_path):
    mixing = rng.normal(size=(9, 9))

    def carries(label):  # in no single column
        hidden = rng.normal(size=9)
        hidden[0] = label * 3
        return hidden @ mixing

    report = corpus(tmp_path, carries)
    assert report["features"]["f"]["predicts"]["polarity"] > 0.85
    assert any("they alone tell the polarity of" in line and "carry the labels" in line for line in report["warnings"])
    assert any("they alone tell an emotion with an AUC of" in line for line in report["warnings"])


def test_a_column_that_is_the_label(tmp_path):
    report = corpus(tmp_path, lambda label: np.array([rng.normal(), -label + 0.1 * rng.normal()]))
    assert any(
        "one column correlates 0.99" in line or "one column correlates 1.00" in line for line in report["warnings"]
    )


def test_faults_of_features(tmp_path):
    def faulty(label):
        array = rng.normal(size=(2, 4))
        array[0, 0], array[1, 1], array[:, 2] = np.nan, -np.inf, 7
        array[:, 3] = np.nan
        return array

    report = corpus(tmp_path, faulty)
    of = report["features"]["f"]
    assert (of["nan"], of["inf"], of["constant"]) == (3 * 400, 400, 2)
    text = "\n".join(report["warnings"])
    assert "features f: 1200 numbers are NaN: they will be masked" in text
    assert "features f: 400 numbers are infinite" in text
    assert "features f: 2 of 4 columns never change" in text


def test_features_of_other_ids_or_damaged(tmp_path):
    write_feature_file(tmp_path / "f.safetensors", [("x", np.ones(3))])
    features = {"f": tmp_path / "f.safetensors"}
    write_manifest(tmp_path / "m.csv", [Utterance("a", text="x", features=features)])
    report = inspect_manifest(tmp_path / "m.csv")
    assert any("no id of the file is in the manifest" in line for line in report["warnings"])
    assert report["modalities"] == {"none": {"text": 1}}
    assert any("frames" in line for line in report_lines(report))
    (tmp_path / "f.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        inspect_manifest(tmp_path / "m.csv")


@pytest.mark.corpus
def test_genuine_mosei(corpora):
    with pytest.warns(ManifestWarning, match="odd start/end"):
        report = inspect_manifest(corpora / "mosei" / "segments.csv")
    assert report["splits"] == {"train": 16326, "valid": 1871, "test": 4659}
    assert sum(report["labels"]["sentiment"]["test"]["histogram"]) == 4659
    assert report["leaks"]["videos"]["across_splits"] == 0


def test_pieces_of_one_sound_in_two_splits_are_a_leak(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("id,text,audio,start,end,split\na,x,s.wav,0,1,train\nb,y,s.wav,1,2,test\nc,z,t.wav,0,1,test\n")
    warnings = inspect_manifest(path)["warnings"]
    assert [w for w in warnings if w.startswith("1 videos are in more than one split, e.g. a (train) and b (test)")]


def test_a_split_of_one_label_is_told_of(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("id,text,split,sentiment\na,x,train,1\nb,y,valid,2\nc,z,valid,2\nd,w,test,1\ne,v,test,2\n")
    told = [w for w in inspect_manifest(path)["warnings"] if "undefined" in w]
    assert told == ["the sentiment of all 2 labelled rows of valid is 2: a correlation is undefined there"]


def test_a_column_of_texts_as_audio(tmp_path):
    write_manifest(tmp_path / "m.csv", [Utterance("1", text="x", audio=tmp_path / ("word " * 100 + "x.wav"))])
    assert "1 of 1 audio files are not there" in " ".join(inspect_manifest(tmp_path / "m.csv")["warnings"])
