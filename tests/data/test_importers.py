from pathlib import Path

import numpy as np
import pytest

from mmolre.data.importers import import_mosi, import_ravdess
from mmolre.data.importers._common import few_numbers
from mmolre.data.manifest import ManifestWarning, read_manifest
from mmolre.data.surroundings import surrounded
from mmolre.errors import UserError

MOSI = """video_id,clip_id,start,end,split,text,sentiment
-v,1,10.5,12.0,train,SO GOOD,2.6
-v,2,12.0,13.0,valid,NOT SO GOOD,-1.0
_w,3,1.0,2.0,test,WHO KNOWS,
"""


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


class TestRavdess:
    def test_labels_speaker_and_split_come_from_the_name(self, tmp_path):
        touch(
            tmp_path / "Actor_01" / "03-01-01-01-01-01-01.wav",  # neutral
            tmp_path / "Actor_01" / "03-01-05-02-02-01-01.wav",  # angry, strong
            tmp_path / "Actor_16" / "03-01-06-01-01-01-16.WAV",
            tmp_path / "deep" / "er" / "03-01-08-01-01-02-17.flac",
        )
        summary = import_ravdess(tmp_path, tmp_path)
        assert (summary.path, summary.n_rows, summary.dropped) == (tmp_path / "manifest.csv", 4, [])
        assert summary.notes == ["split by actor: train 2, valid 1, test 1"]
        rows = read_manifest(summary.path)
        assert [(row.id, row.speaker, row.split, row.emotions) for row in rows] == [
            ("03-01-01-01-01-01-01", "ravdess-01", "train", (0, 0, 0, 0, 0, 0)),
            ("03-01-05-02-02-01-01", "ravdess-01", "train", (0, 0, 2, 0, 0, 0)),
            ("03-01-06-01-01-01-16", "ravdess-16", "valid", (0, 0, 0, 0, 0, 1)),
            ("03-01-08-01-01-02-17", "ravdess-17", "test", (0, 0, 0, 1, 0, 0)),
        ]
        assert all(row.text is None and row.sentiment is None and not row.cut for row in rows)
        assert all(row.audio is not None and row.audio.is_file() for row in rows)

    @pytest.mark.parametrize(
        ("emotion", "present"),
        [("02", []), ("03", [0]), ("04", [1]), ("05", [2]), ("08", [3]), ("07", [4]), ("06", [5])],
    )
    def test_each_emotion(self, tmp_path, emotion, present):
        touch(tmp_path / f"03-01-{emotion}-01-01-01-01.wav")
        (row,) = read_manifest(import_ravdess(tmp_path, tmp_path).path)
        assert [i for i, intensity in enumerate(row.emotions) if intensity] == present

    def test_what_is_dropped_and_why(self, tmp_path):
        touch(
            tmp_path / "03-01-03-01-01-01-01.wav",
            tmp_path / "01-01-03-01-01-01-01.mp4",
            tmp_path / "copy" / "03-01-03-01-01-01-01.wav",
            tmp_path / "02-01-03-01-01-01-02.mp4",
            tmp_path / "03-02-03-01-01-01-01.wav",
            tmp_path / "03-01-09-01-01-01-01.wav",
            tmp_path / "hello.wav",
            tmp_path / "README.txt",
        )
        summary = import_ravdess(tmp_path, tmp_path / "out")
        assert summary.n_rows == 1
        named = "not named modality-channel-emotion-intensity-statement-repetition-actor"
        assert dict(summary.dropped) == {
            "01-01-03-01-01-01-01.mp4": "the same recording as 03-01-03-01-01-01-01",
            "copy/03-01-03-01-01-01-01.wav": "the same recording as 03-01-03-01-01-01-01",
            "02-01-03-01-01-01-02.mp4": "video without sound",
            "03-02-03-01-01-01-01.wav": "song, not speech",
            "03-01-09-01-01-01-01.wav": named,
            "hello.wav": named,
        }

    def test_the_actors_of_each_split_can_be_chosen(self, tmp_path):
        touch(*(tmp_path / f"03-01-03-01-01-01-{actor}.wav" for actor in ("01", "02", "17")))
        rows = read_manifest(import_ravdess(tmp_path, tmp_path, test_actors=[1], valid_actors=[2]).path)
        assert [row.split for row in rows] == ["test", "valid", "train"]
        with pytest.raises(UserError, match="actor 2 is in both"):
            import_ravdess(tmp_path, tmp_path, test_actors=[1, 2], valid_actors=[2])

    def test_nothing_usable(self, tmp_path):
        touch(tmp_path / "03-02-03-01-01-01-01.wav")
        with pytest.raises(UserError, match=r"no RAVDESS speech found: expected 03-01-05"):
            import_ravdess(tmp_path, tmp_path / "out")
        with pytest.raises(UserError, match=r"no such folder: expected 03-01-05"):
            import_ravdess(tmp_path / "none", tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestMosi:
    @pytest.fixture
    def source(self, tmp_path):
        source = tmp_path / "mosi"
        touch(source / "audio" / "-v_1.flac", source / "audio" / "-v_1.wav", source / "video" / "-v_1.mp4")
        touch(source / "video" / "_w_3.mp4", source / "audio" / "stray.flac")
        (source / "segments.csv").write_text(MOSI)
        return source

    def test_a_clip_is_the_utterance_so_times_go(self, source):
        summary = import_mosi(source, source)
        rows = {row.id: row for row in read_manifest(summary.path)}
        assert (rows["-v_1"].audio, rows["-v_1"].start, rows["-v_1"].end) == (source / "audio/-v_1.flac", None, None)
        assert (rows["-v_2"].audio, rows["-v_2"].start, rows["-v_2"].end) == (None, 12.0, 13.0)
        assert rows["_w_3"].audio == source / "video" / "_w_3.mp4"
        assert [(row.sentiment, row.split, row.video_id) for row in rows.values()] == [
            (2.6, "train", "-v"),
            (-1.0, "valid", "-v"),
            (None, "test", "_w"),
        ]
        assert [row.text for row in rows.values()] == ["SO GOOD", "NOT SO GOOD", "WHO KNOWS"]
        assert summary.dropped == [("audio/stray.flac", "no such segment in segments.csv")]
        assert summary.notes == ["2 of 3 utterances have audio"]

    def test_rows_stand_as_they_were_said(self, tmp_path):
        """A clip's times go, and what surrounds an utterance is read by the order of rows alone."""
        lines = [f"v,{i},{i}.0,{i}.9,train,word{i}" for i in (1, 10, 11, 2, 3)] + ["u,1,5.0,6.0,train,other"]
        touch(tmp_path / "audio" / "v_10.wav", tmp_path / "audio" / "v_2.wav")
        (tmp_path / "segments.csv").write_text("video_id,clip_id,start,end,split,text\n" + "\n".join(lines))
        rows = surrounded(read_manifest(import_mosi(tmp_path, tmp_path).path))
        said = {row.id: row.surroundings.texts for row in rows if row.surroundings}
        assert said == {f"v_{i}": ("word1", "word2", "word3", "word10", "word11") for i in (1, 2, 3, 10, 11)}

    @pytest.mark.parametrize("name", ["out", "out/m.csv", "out/m.jsonl", "out/m.parquet"])
    def test_a_manifest_elsewhere_finds_the_audio_by_its_sidecar(self, source, tmp_path, name, monkeypatch):
        monkeypatch.chdir(tmp_path)
        summary = import_mosi(Path("mosi"), Path(name))  # relative, as typed
        assert summary.path == Path(name if "." in name else "out/manifest.csv")
        assert any("pass --audio-root" in note for note in summary.notes)
        monkeypatch.chdir("/")
        row = read_manifest(tmp_path / summary.path)[0]
        assert row.audio is not None
        assert row.audio.samefile(source / "audio" / "-v_1.flac")

    def test_a_second_import_beside_the_audio_removes_the_old_sidecar(self, source):
        sidecar = source / "manifest.csv.json"
        sidecar.write_text('{"audio_root": "stale"}')
        assert read_manifest(import_mosi(source, source).path)[0].audio == source / "audio" / "-v_1.flac"
        assert not sidecar.exists()

    def test_nothing_usable(self, tmp_path):
        with pytest.raises(UserError, match=r"no segments.csv: expected segments.csv, and the clips as"):
            import_mosi(tmp_path, tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="not a folder: expected"):
            import_mosi(tmp_path / "file", tmp_path)

    def test_an_out_folder_that_cannot_be(self, source, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot write"):
            import_mosi(source, tmp_path / "file" / "out")


@pytest.mark.corpus
def test_real_ravdess(corpora, tmp_path):
    summary = import_ravdess(corpora / "ravdess", tmp_path)
    rows = read_manifest(summary.path, require_splits=True)
    assert (summary.n_rows, len(rows), len({row.speaker for row in rows}), summary.dropped) == (1200, 1200, 20, [])
    assert [sum(row.split == s for row in rows) for s in ("train", "valid", "test")] == [840, 120, 240]
    assert all(row.audio is not None and row.audio.is_file() for row in rows)


@pytest.mark.corpus
def test_real_mosi(corpora, tmp_path):
    with pytest.warns(ManifestWarning, match=r"1 row\(s\)"):
        summary = import_mosi(corpora / "mosi", tmp_path)
    rows = read_manifest(summary.path)  # the odd row has its own file, so its times are gone, and the warning with them
    voiced = [row for row in rows if row.audio is not None]
    assert (len(rows), len(voiced), summary.dropped[:1]) == (2199, 400, [])
    assert not any(row.cut for row in rows)
    assert [sum(row.split == s for row in voiced) for s in ("train", "valid", "test")] == [372, 28, 0]


def test_labels_are_counted_before_they_are_unfolded():
    assert few_numbers(1) == few_numbers([[1.0]]) == few_numbers(np.array([[1]])) == [1.0]
    assert few_numbers((1, [2, np.array([3.0, 4.0])], "5")) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert np.isnan(few_numbers(None) or []).all()
    many: list = [0.0]
    for _ in range(60):  # 2 ** 60 numbers
        many = [many, many]
    itself: list = []
    itself.append(itself)
    for label in (many, itself, np.zeros(17), [0] * 17):
        assert few_numbers(label) is None
    with pytest.raises(ValueError, match="could not convert"):
        few_numbers(["so"])
