"""What once was lost or mixed up without a word: features, labels, cues, files of other manifests."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmolre.data.cache import audio_key
from mmolre.data.export import export_datasets, export_mmsa, export_parquet
from mmolre.data.feature_file import FeatureFile, write_feature_file
from mmolre.data.importers import TableOptions, import_cmu_sdk, import_csv, import_folder
from mmolre.data.manifest import read_manifest, write_manifest
from mmolre.data.merge import merge_manifests
from mmolre.data.provenance import write_provenance
from mmolre.data.subtitles import subtitle_cues
from mmolre.errors import UserError
from mmolre.evaluate.context import Context
from mmolre.files import write_text
from mmolre.predict_file import predict_file
from mmolre.predictor import Predictor
from mmolre.schema import Utterance
from tiny_corpus import write_wave


def put(path: Path, rows: list[Utterance], **features: dict[str, float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, values in features.items():
        files[name] = path.parent / f"{name}.safetensors"
        write_feature_file(files[name], [(key, np.full((1, 2), value, np.float32)) for key, value in values.items()])
    write_manifest(path, [replace(row, features=files) for row in rows])
    return path


def said(manifest: Path, name: str) -> dict[str, float]:
    """Each row's first number of some features."""
    rows = read_manifest(manifest)
    file = FeatureFile(rows[0].features[name])
    found = {row.id: file.get(row.id) for row in rows}
    return {key: float(x[0, 0]) for key, x in found.items() if x is not None}


class TestMerge:
    def test_no_source_is_overwritten_by_another(self, tmp_path):
        a = put(tmp_path / "a/manifest.csv", [Utterance("1", text="x")], acoustic={"1": 1})
        b = put(tmp_path / "b/manifest.csv", [Utterance("1", text="x")], acoustic={"1": 7})
        with pytest.raises(UserError, match=r"acoustic\.safetensors: merge into another folder than that of .*b"):
            merge_manifests([a, b], tmp_path / "b/manifest.parquet")
        assert said(b, "acoustic") == {"1": 7}

    @pytest.mark.parametrize("rows", ["first", "common", "all"])
    def test_features_stay_with_their_utterance(self, tmp_path, rows):
        def at(key: str, start: float, text: str) -> Utterance:
            return Utterance(key, video_id="v", text=text, start=start, end=start + 1)

        a = put(tmp_path / "a/m.csv", [at("v_1", 0, "first"), at("v_2", 5, "second")])
        b = put(tmp_path / "b/m.csv", [at("w_1", 9, "ninth"), at("v_1", 5, "second")], acoustic={"w_1": 9, "v_1": 5})
        found = said(merge_manifests([a, b], tmp_path / "out", on="times", rows=rows).path, "acoustic")
        assert found == {"v_2": 5} | ({"w_1": 9} if rows == "all" else {})

    def test_who_fits_best_does_not_depend_on_the_order(self, tmp_path):
        def at(key: str, start: float, sentiment: float | None = None) -> Utterance:
            return Utterance(key, video_id="v", text="so", start=start, end=start + 1, sentiment=sentiment)

        a = put(tmp_path / "a/m.csv", [at("x", 0)])
        others = [at("near", 0.04, 3), at("exact", 0, -3)]
        for number, order in enumerate((others, others[::-1])):
            b = put(tmp_path / f"b{number}/m.csv", order)
            (row,) = read_manifest(merge_manifests([a, b], tmp_path / f"o{number}", on="times", rows="first").path)
            assert row.sentiment == -3

    def test_a_merge_that_fails_leaves_what_was_there(self, tmp_path, monkeypatch):
        a = put(tmp_path / "a/m.csv", [Utterance("1", text="x")], f={"1": 1})
        b = put(tmp_path / "b/m.csv", [Utterance("1", text="x"), Utterance("2", text="y")], g={"1": 2})
        first = merge_manifests([a, b], tmp_path / "out").path
        before = {path.name: path.read_bytes() for path in first.parent.iterdir()}
        put(a, [Utterance("1", text="x")], f={"1": 3})

        def fail(*_args, **_options):
            raise UserError("no more")

        monkeypatch.setattr("mmolre.data.merge.write_manifest", fail)
        with pytest.raises(UserError, match="no more"):
            merge_manifests([a, b], tmp_path / "out")
        assert {path.name: path.read_bytes() for path in first.parent.iterdir()} == before

    def test_features_of_other_rows_are_left_out(self, tmp_path):
        a = put(tmp_path / "a/m.csv", [Utterance("1", text="x"), Utterance("2", text="y")])
        b = put(tmp_path / "b/m.csv", [Utterance("2", text="y"), Utterance("3", text="z")], f={"3": 1})
        summary = merge_manifests([a, b], tmp_path / "out", rows="common")
        assert not read_manifest(summary.path)[0].features
        assert any(note.startswith("features f of") and "left out" in note for note in summary.notes)

    def test_one_file_of_several_sources_is_one_modality(self, tmp_path):
        row = [Utterance("1", text="x")]
        a = put(tmp_path / "a/m.csv", row, f={"1": 1})
        b, c = (put(tmp_path / name / "m.csv", row, f={"1": 2}) for name in "bc")
        rows = read_manifest(merge_manifests([a, b, c], tmp_path / "out").path)
        assert sorted(rows[0].features) == ["f", "f-2"]

    def test_times_that_differ_are_a_conflict(self, tmp_path):
        a = put(tmp_path / "a/m.csv", [Utterance("1", video_id="v", text="x", start=0, end=60)])
        b = put(tmp_path / "b/m.csv", [Utterance("1", video_id="v", text="x", start=50, end=60.04)])
        merge_manifests([a, b], tmp_path / "out")
        conflicts = json.loads((tmp_path / "out/provenance.json").read_text())["conflicts"]
        assert conflicts == [{"name": "1", "what": "start: 0 and 50"}]


class TestImport:
    def features(self, path: Path, value: float) -> Path:
        np.savez(path, ids=np.array(["a"]), x=np.full((1, 3), value))
        return path

    def test_a_failed_import_leaves_what_was_there(self, tmp_path):
        table = tmp_path / "t.csv"
        table.write_text("id,text,audio\na,hello,\n")
        options = TableOptions(features={"f": self.features(tmp_path / "f1.npz", 1)})
        first = import_csv([table], tmp_path / "out", options).path
        table.write_text("id,text,audio\na,hello,../../x.wav\n")
        with pytest.raises(UserError):
            import_csv([table], tmp_path / "out", TableOptions(features={"f": self.features(tmp_path / "f2.npz", 2)}))
        assert said(first, "f") == {"a": 1}
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "f.safetensors", "manifest.csv", "manifest.csv.json", "provenance.json"
        ]  # fmt: skip

    def test_what_is_read_is_not_overwritten(self, tmp_path):
        table, file = tmp_path / "t.csv", tmp_path / "f.safetensors"
        table.write_text("id,text\na,hello\n")
        write_feature_file(file, [("a", np.full((1, 2), 1, np.float32))])
        with pytest.raises(UserError, match="would be overwritten"):
            import_csv([table], tmp_path, TableOptions(features={"f": file}))

    def test_nor_is_what_another_manifest_names(self, tmp_path):
        table = tmp_path / "t.csv"
        table.write_text("id,text\na,hello\n")
        options = TableOptions(features={"f": self.features(tmp_path / "f1.npz", 1)})
        first = import_csv([table], tmp_path / "out", options).path
        other = TableOptions(features={"f": self.features(tmp_path / "f2.npz", 2)})
        with pytest.raises(UserError, match=r"is of .*manifest\.csv, too"):
            import_csv([table], tmp_path / "out" / "manifest.jsonl", other)
        assert said(first, "f") == {"a": 1}
        import_csv([table], tmp_path / "out", other)  # the same manifest again
        assert said(first, "f") == {"a": 2}

    @pytest.mark.parametrize("name", ["manifest.csv", "manifest.csv.json", "provenance.json", "f.safetensors"])
    def test_a_folder_in_the_way_is_seen_before_anything_is_replaced(self, tmp_path, name):
        table = tmp_path / "t.csv"
        table.write_text("id,text\na,hello\n")
        (tmp_path / "out" / name).mkdir(parents=True)
        options = TableOptions(features={"f": self.features(tmp_path / "f1.npz", 1)})
        with pytest.raises(UserError, match=f"{name} is no file"):
            import_csv([table], tmp_path / "out", options)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [name]

    def test_a_name_left_out_that_is_no_utf8(self, tmp_path):
        name = os.fsdecode(b"caf\xe9.wav")
        (tmp_path / "manifest.csv").touch()
        path = write_provenance(
            tmp_path / "manifest.csv", source="x", inputs=(), features={}, rows=[], dropped=[(name, "why")]
        )
        assert json.loads(path.read_bytes())["dropped_rows"] == [{"name": name, "reason": "why"}]

    def test_somebodys_own_file_where_the_sidecar_would_be(self, tmp_path):
        table, own = tmp_path / "t.csv", tmp_path / "m.csv.json"
        table.write_text("id,text\na,hello\n")
        own.write_text('{"my": "own notes"}')
        with pytest.raises(UserError, match=r"m\.csv\.json: not of the form"):
            import_csv([table], tmp_path / "m.csv")
        assert own.read_text() == '{"my": "own notes"}'
        assert not (tmp_path / "m.csv").exists()

    def test_recordings_whose_names_look_like_cues(self, tmp_path):
        folder = tmp_path / "in"
        folder.mkdir()
        for name in ("a.wav", "a#2.wav", " b.wav"):
            (folder / name).touch()
        cues = "1\n00:00:00,000 --> 00:00:01,000\none\n\n2\n00:00:01,000 --> 00:00:02,000\ntwo\n"
        (folder / "a.srt").write_text(cues)
        (folder / "a#2.txt").write_text("other words")
        summary = import_folder([folder], tmp_path / "out")
        rows = {row.id: row.text for row in read_manifest(summary.path)}
        dropped = dict(summary.dropped)
        assert rows == {"a#2": "other words"}
        assert dropped["a.wav"] == "another recording has this name"
        assert "begins or ends with a space" in dropped["b"]

    def test_a_segments_second_row_is_not_the_next_segments(self, tmp_path):
        h5py = pytest.importorskip("h5py", reason="the extra `data` is not installed")
        with h5py.File(tmp_path / "labels.csd", "w") as file:
            group = file.create_group("Opinion Labels/data")
            for key, intervals, values in (
                ("V[0]", [[0, 1], [1, 1.02]], [[1.0], [2.0]]), ("V[1]", [[1, 2]], [[-3.0]])
            ):  # fmt: skip
                one = group.create_group(key)
                one["intervals"], one["features"] = np.array(intervals, float), np.array(values, np.float32)
        with h5py.File(tmp_path / "words.csd", "w") as file:
            group = file.create_group("words/data")
            for key, interval, word in (("V[0]", [[0, 1]], b"good"), ("V[1]", [[1, 2]], b"bad")):
                one = group.create_group(key)
                one["intervals"], one["features"] = np.array(interval, float), np.array([[word]], "S20")
        paths = [tmp_path / "labels.csd", tmp_path / "words.csd"]
        summary = import_cmu_sdk(paths, tmp_path / "out", label_names=["sentiment"])
        assert {row.text: row.sentiment for row in read_manifest(summary.path)} == {"good": 1, "bad": -3}
        assert any("V[0] has 2 rows of labels, of which the first counts" in note for note in summary.notes)


class TestExport:
    def test_features_that_are_read_are_not_overwritten(self, tmp_path):
        file = tmp_path / "f.parquet"
        pq.write_table(pa.table({"id": ["1"], "values": [[[1.0, 2.0]]]}), file)
        write_manifest(tmp_path / "m.csv", [Utterance("1", text="x", features={"f": file})])
        before = file.read_bytes()
        with pytest.raises(UserError, match="would be overwritten"):
            export_parquet(tmp_path / "m.csv", file)
        other = put(tmp_path / "b/m.csv", [Utterance("1", text="x")])
        (tmp_path / "f.parquet.json").unlink(missing_ok=True)
        with pytest.raises(UserError, match="would be overwritten"):
            merge_manifests([tmp_path / "m.csv", other], file)
        assert file.read_bytes() == before

    def test_nor_is_a_manifest_where_a_shard_would_be(self, tmp_path):
        manifest = put(tmp_path / "HF/data/train-00000-of-00001.parquet", [Utterance("1", text="x", split="train")])
        before = manifest.read_bytes()
        with pytest.raises(UserError, match="would be overwritten"):
            export_datasets(manifest, tmp_path / "HF")
        assert manifest.read_bytes() == before

    def test_features_that_bear_the_name_of_something_else(self, tmp_path):
        manifest = put(tmp_path / "m.csv", [Utterance("a", text="x", sentiment=1)], sentiment={"a": 7})
        with pytest.raises(UserError, match="cannot be called 'sentiment', the name of a column"):
            export_datasets(manifest, tmp_path / "ds")
        for name in ("text_bert", "au_labels", "x_lengths"):
            other = put(tmp_path / name / "m.csv", [Utterance("a", text="x", sentiment=1)], **{name: {"a": 7}})
            with pytest.raises(UserError, match=f"cannot be called '{name}'"):
                export_mmsa(other, tmp_path / "x.pkl")
        assert not (tmp_path / "x.pkl").exists()

    def test_a_readme_of_ones_own_stays(self, tmp_path):
        manifest = put(tmp_path / "m.csv", [Utterance("a", text="x", sentiment=1)])
        (tmp_path / "README.md").write_text("my project")
        with pytest.raises(UserError, match="no export's"):
            export_datasets(manifest, tmp_path)
        assert (tmp_path / "README.md").read_text() == "my project"
        export_datasets(manifest, tmp_path / "ds")
        export_datasets(manifest, tmp_path / "ds")  # its own is made anew

    def test_audio_that_is_a_link(self, tmp_path):
        (tmp_path / "store").mkdir()
        (tmp_path / "clips").mkdir()
        (tmp_path / "store/a.wav").touch()
        (tmp_path / "clips/a.wav").symlink_to("../store/a.wav")
        manifest = tmp_path / "m.csv"
        manifest.write_text("id,text,audio\na,x,clips/a.wav\n")
        export_parquet(manifest, tmp_path / "out/m.parquet")
        (row,) = read_manifest(tmp_path / "out/m.parquet")
        assert row.audio is not None
        assert os.path.realpath(row.audio) == os.path.realpath(tmp_path / "store/a.wav")
        other = tmp_path / "n.csv"
        other.write_text("id,text,sentiment\na,x,1\n")
        (row,) = read_manifest(merge_manifests([manifest, other], tmp_path / "merged").path)
        assert row.audio is not None
        assert os.path.realpath(row.audio) == os.path.realpath(tmp_path / "store/a.wav")


class TestManifest:
    def test_a_column_that_is_there_twice(self, tmp_path):
        values = [pa.array(["a"]), pa.array(["x"]), pa.array([1.0]), pa.array([-2.0])]
        pq.write_table(pa.Table.from_arrays(values, ["id", "text", "sentiment", "sentiment"]), tmp_path / "m.parquet")
        with pytest.raises(UserError, match="the column 'sentiment' occurs twice"):
            read_manifest(tmp_path / "m.parquet")
        (tmp_path / "m.jsonl").write_text('{"id": "a", "text": "x", "sentiment": 1, "sentiment": -2}\n')
        with pytest.raises(UserError, match=r"m\.jsonl:1: .*the key 'sentiment' occurs twice"):
            read_manifest(tmp_path / "m.jsonl")

    def test_many_words_are_read_again(self, tmp_path):
        words = "so good " * 50_000
        write_manifest(tmp_path / "m.csv", [Utterance("a", text=words.strip())])
        assert read_manifest(tmp_path / "m.csv")[0].text == words.strip()

    def test_a_name_that_is_no_text(self, tmp_path):
        with pytest.raises(UserError, match="is no text that can be written in UTF-8"):
            write_text(tmp_path / "a.txt", "caf\udce9.wav")
        assert list(tmp_path.iterdir()) == []

    def test_a_device_is_no_recording(self):
        with pytest.raises(OSError, match="no regular file"):
            audio_key(Path("/dev/zero"))


def test_a_reason_that_names_no_text_does_not_stop_all(tiny_run, tmp_path):
    import mmolre

    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "m.csv").write_text("id,text,audio\na,so good,\nb,,gone.wav\n")
    counts = predict_file(mmolre.load(tiny_run.folder), [folder / "m.csv"], tmp_path / "out.jsonl")
    assert (counts.written, counts.failed) == (1, 1)
    assert json.loads(counts.errors.read_text())["id"] == "b"


def test_recordings_whose_names_are_no_text_are_read_in_context(tiny_run, tmp_path):
    import mmolre

    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    write_wave(folder / "a.wav", 220, 2.0)
    rows = "".join(f"{i},so good,a.wav,{i},{i + 1}\n" for i in range(2))
    (folder / "m.csv").write_text(f"id,text,audio,start,end\n{rows}")
    bundle = mmolre.load(tiny_run.folder).bundle
    context = Context(((0.3, -0.4, 0.9),) * 7)
    decision = replace(bundle.decision, context=context, context_thresholds=bundle.decision.thresholds)
    counts = predict_file(Predictor(replace(bundle, decision=decision)), [folder / "m.csv"], tmp_path / "out.jsonl")
    assert (counts.written, counts.together) == (2, 2)


def times(*rows: str) -> str:
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (times("00:00:01 --> 00:00:02", "whole seconds"), [(1.0, 2.0, "whole seconds")]),
        (times("00:00:01,0004 --> 00:00:02:250", "odd ones"), [(1.0, 2.25, "odd ones")]),
        (times("1", "00:01,000 --> 00:02,000", "Hello there", "", "is lost"), [(1.0, 2.0, "Hello there is lost")]),
        (
            times("1", "00:01,000 --> 00:02,000", "", "2", "00:02,000 --> 00:03,000", "words"),
            [(2.0, 3.0, "words")],
        ),
        (
            times("1", "00:01,000 --> 00:02,000", "42", "", "2", "00:02,000 --> 00:03,000", "7"),
            [(1.0, 2.0, "42"), (2.0, 3.0, "7")],
        ),
        (times("1", "00:01,000 --> 00:02,000", "one\u2028two\u2028\u2028three"), [(1.0, 2.0, "one two three")]),
        (times("WEBVTT", "", "00:01.000 --> 00:02.000", "one", "", "NOTE two"), [(1.0, 2.0, "one")]),
    ],
)
def test_cues_are_kept(content, expected):
    assert [cue[:3] for cue in subtitle_cues(content)] == expected


def test_times_that_cannot_be_read_are_said():
    with pytest.raises(UserError, match="'00:00:01,000 --> soon' is no line of times"):
        list(subtitle_cues(times("1", "00:00:01,000 --> soon", "words")))
    with pytest.raises(UserError, match="no line of times"):
        list(subtitle_cues(times("1", f"{'9' * 5000}:00:01,000 --> 00:00:02,000", "words")))
    assert len(list(subtitle_cues(times("00:01,000 --> 00:02,000", "<a" * 40_000)))) == 1  # and at once


def test_merging_replaces_no_features_of_another_manifest(tmp_path):
    for name, width in (("a", 3), ("b", 3), ("out", 7)):
        folder = tmp_path / name
        folder.mkdir()
        manifest = folder / ("other.csv" if name == "out" else "m.csv")
        manifest.write_text("id,text\nx,hello\n")
        write_feature_file(folder / "cov.safetensors", [("x", np.ones((1, width), np.float32))])
        manifest.with_name(f"{manifest.name}.json").write_text('{"features": {"cov": "cov.safetensors"}}')
    with pytest.raises(UserError, match=r"cov\.safetensors: merge into another folder than that of .*other\.csv"):
        merge_manifests([tmp_path / "a/m.csv", tmp_path / "b/m.csv"], tmp_path / "out")
    assert FeatureFile(tmp_path / "out/cov.safetensors").width == 7
