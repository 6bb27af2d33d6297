"""Any table by options, and VADER's texts."""

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mmolre.data.feature_file import FeatureFile, write_feature_file
from mmolre.data.importers import TableOptions, import_csv, import_vader, vader
from mmolre.data.importers._common import split_of
from mmolre.data.importers.table import read_arrays
from mmolre.data.manifest import ManifestWarning, read_manifest
from mmolre.errors import UserError


def put(path: Path, content: str, encoding="utf-8") -> Path:
    path.write_text(content, encoding=encoding)
    return path


class TestCsv:
    def test_columns_are_mapped_and_labels_rescaled(self, tmp_path):
        path = put(tmp_path / "t.csv", "utterance;stars;joy;file;part\nSo good;10;50;a.wav;dev\nBad;0;;;train\n")
        options = TableOptions(
            columns={"text": "utterance", "sentiment": "stars", "happy": "joy", "audio": "file", "split": "part"},
            scales={"sentiment": (0, 10), "emotions": (0, 100)},
            delimiter=";",
        )
        summary = import_csv([path], tmp_path / "out", options)
        first, second = read_manifest(summary.path)
        assert (first.id, first.text, first.sentiment, first.emotions[0]) == ("t-2", "So good", 3, 1.5)
        assert (first.audio, first.split) == (tmp_path / "a.wav", "valid")
        assert (second.sentiment, second.emotions[0], second.audio, second.split) == (-3, None, None, "train")
        assert "sentiment rescaled from [0, 10] to [-3, 3]" in summary.notes
        provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
        assert provenance["options"]["scales"] == {"sentiment": [0, 10], "emotions": [0, 100]}
        assert provenance["inputs"][0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_the_table_itself_is_not_overwritten(self, tmp_path):
        content = "id,text,note\na,hello,precious\n"
        path = put(tmp_path / "t.csv", content)
        with pytest.raises(UserError, match=r"t\.csv is to be read, and would be overwritten: give another --out"):
            import_csv([path], tmp_path / "x" / ".." / "t.csv", TableOptions())
        assert path.read_text() == content

    @pytest.mark.parametrize(("name", "told"), [("words", "nope"), ("text", "cannot be called 'text'")])
    def test_features_that_cannot_be_leave_nothing(self, tmp_path, name, told):
        path = put(tmp_path / "t.csv", "id,text\na,hello\n")
        file = tmp_path / ("nope.npz" if name == "words" else "f.npz")
        np.savez(tmp_path / "f.npz", ids=np.array(["a"]), x=np.zeros((1, 3)))
        with pytest.raises(UserError, match=told):
            import_csv([path], tmp_path / "out", TableOptions(features={name: file}))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("delimiter", ["", ";;", '"'])
    def test_a_delimiter_is_one_character(self, tmp_path, delimiter):
        path = put(tmp_path / "t.csv", "id,text\na,hello\n")
        with pytest.raises(UserError, match="the delimiter is one character, such as ; or a tab"):
            import_csv([path], tmp_path / "out", TableOptions(delimiter=delimiter))

    def test_an_encoding_that_needs_its_mark(self, tmp_path):
        path = put(tmp_path / "t.csv", "id,text\na,hello\n")
        with pytest.raises(UserError, match=r"t\.csv: not utf-16 text"):
            import_csv([path], tmp_path / "out", TableOptions(encoding="utf-16"))

    def test_one_column_of_emotions(self, tmp_path):
        path = put(
            tmp_path / "t.jsonl", '{"text": "a", "label": "Joy"}\n{"text": "b", "label": "neutral"}\n{"text": "c"}\n'
        )
        options = TableOptions(columns={"emotion": "label"})
        rows = read_manifest(import_csv([path], tmp_path / "o", options).path)
        assert [row.emotions for row in rows] == [(1, 0, 0, 0, 0, 0), (0,) * 6, (None,) * 6]
        put(path, '{"text": "a", "label": "rage"}\n')
        with pytest.raises(UserError, match=r"t\.jsonl:1: the emotion 'rage' is unknown"):
            import_csv([path], tmp_path / "o", options)

    def test_folds_keep_a_group_together(self, tmp_path):
        lines = "".join(f"v{i // 4},{i},x,s{i % 7}\n" for i in range(400))
        path = put(tmp_path / "t.csv", "video_id,clip_id,text,speaker\n" + lines)
        for group in ("video_id", "speaker", "id"):
            options = TableOptions(folds=(0.5, 0.25, 0.25), group=group)
            rows = read_manifest(import_csv([path], tmp_path / "o", options).path)
            splits: dict = {}
            for row in rows:
                splits.setdefault(getattr(row, group), set()).add(row.split)
            assert all(len(of) == 1 for of in splits.values())
            assert set().union(*splits.values()) == {"train", "valid", "test"}
        assert [split_of("a", (1, 0, 0)), split_of("a", (0, 1, 0)), split_of("a", (0, 0, 1))] == [
            "train",
            "valid",
            "test",
        ]

    @pytest.mark.parametrize(
        ("content", "options", "message"),
        [
            ("a,b\n1,2\n", {}, r"which column holds the text\? --map text=COLUMN; there are: a, b"),
            ("a,b\n1,2\n", {"columns": {"text": "c"}}, "no column 'c'; there are: a, b"),
            ("text\nx\n", {"columns": {"txt": "text"}}, "there is no column 'txt': choose from"),
            ("text,sentiment\nx,5\n", {}, r"t\.csv:2: sentiment is 5, outside \[-3, 3\]"),
            (
                "text,sentiment\nx,5\n",
                {"scales": {"sentiment": (0, 4)}},
                r"t\.csv:2: sentiment is 5, outside the \[0, 4\]",
            ),
            ("text\nx\n", {"scales": {"sentiment": (4, 0)}}, "the first must be below the second"),
            ("text\nx\n", {"scales": {"joy": (0, 1)}}, "--scale joy=…: choose from"),
            ("text\nx\n", {"folds": (0.5, 0.5, 0.5)}, "must add up to 1"),
            ("text\nx\n", {"group": "text"}, "choose from id, video_id, speaker"),
            ("text,audio\nx,a\0.wav\n", {}, r"t\.csv:2: audio holds a NUL"),
            ("id,text\n1,x\n1,y\n", {}, "the id '1' is also that of row 2"),
            ("text\nx\n", {"encoding": "klingon"}, "there is no encoding 'klingon'"),
            ("text\n\n", {}, r"t\.csv: no usable utterance"),
            ("text,Speaker\nx,s\n", {"folds": (0.5, 0.3, 0.2), "group": "speaker"}, "no column 'speaker': give --map"),
            ("text,score\nx,1\n", {"scales": {"sentiment": (1, 5)}}, "--scale sentiment: no such column"),
            ("text,joy\nx,1\n", {"scales": {"emotions": (1, 5)}}, "--scale emotions: no such column"),
            ("text\nx\n", {"audio_root": Path("nowhere")}, "--audio-root nowhere: not a folder"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path, content, options, message):
        with pytest.raises(UserError, match=message):
            import_csv([put(tmp_path / "t.csv", content)], tmp_path / "out", TableOptions(**options))
        assert not (tmp_path / "out" / "manifest.csv").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"columns": {"speaker": "speakr"}}, "no column 'speakr'; there are: id, text, score"),
            ({"scales": {"sentiment": (1, 5)}}, "--scale sentiment: no such column"),
            ({"folds": (0.5, 0.3, 0.2), "group": "speaker"}, "no column 'speaker': give --map"),
        ],
    )
    def test_what_no_line_of_jsonl_has(self, tmp_path, options, message):
        path = put(tmp_path / "t.jsonl", '{"id": "a", "text": "x"}\n{"id": "b", "text": "y", "score": 1}\n')
        with pytest.raises(UserError, match=message):
            import_csv([path], tmp_path / "out", TableOptions(**options))
        assert not (tmp_path / "out" / "manifest.csv").exists()
        import_csv([path], tmp_path / "out", TableOptions(columns={"sentiment": "score"}))  # the second line has it

    @pytest.mark.parametrize("group", ["video_id", "speaker"])  # these have no speaker's name
    def test_pieces_of_one_sound_stay_together(self, tmp_path, group):
        rows = "".join(f"r{i},x,t{i % 4}.wav,{i},{i + 1},\n" for i in range(40))
        content = f"id,text,audio,start,end,speaker\n{rows}"
        path = put(tmp_path / "t.csv", content)
        summary = import_csv([path], tmp_path / "o", TableOptions(folds=(0.5, 0.25, 0.25), group=group))
        splits = {}
        for row in read_manifest(summary.path):
            splits.setdefault(row.audio, set()).add(row.split)
        assert len(splits) == 4
        assert all(len(of) == 1 for of in splits.values())

    def test_columns_that_are_not_read_are_told_of(self, tmp_path):
        path = put(tmp_path / "t.csv", "ID,Text,Sentiment,Speaker,other\na,x,1,s,o\n")
        summary = import_csv([path], tmp_path / "o", TableOptions(columns={"text": "Text", "speaker": "Speaker"}))
        told = [note for note in summary.notes if "is not read" in note]
        assert told == [
            "t.csv: the column 'ID' is not read: if it is 'id', give --map id=ID",
            "t.csv: the column 'Sentiment' is not read: if it is 'sentiment', give --map sentiment=Sentiment",
        ]

    def test_odd_times(self, tmp_path):
        content = "id,start,end,audio\na,-0.2,2,a.wav\nb,0,2,a.wav\nc,5,2,a.wav\nd,,,a.wav\n"
        path = put(tmp_path / "t.csv", content)
        summary = import_csv([path], tmp_path / "o")
        rows = {row.id: (row.cut, row.start, row.end) for row in read_manifest(summary.path)}
        assert rows == {"a": (True, 0, 2), "b": (True, 0, 2), "c": (False, None, None), "d": (False, None, None)}
        assert "1 rows do not start before they end, e.g. c: their recordings are read whole" in summary.notes

    def test_an_import_that_fails_leaves_no_new_features(self, tmp_path):
        root = tmp_path / "sound"
        root.mkdir()
        path = put(tmp_path / "t.csv", "id,text,audio\na,x,/elsewhere/a.wav\n")
        np.savez(tmp_path / "f.npz", ids=np.array(["a"]), x=np.zeros((1, 3)))
        options = TableOptions(features={"f": tmp_path / "f.npz"}, audio_root=root)
        with pytest.raises(UserError, match="lies outside the audio root"):
            import_csv([path], tmp_path / "out", options)
        assert not list((tmp_path / "out").iterdir())

    def test_other_encodings(self, tmp_path):
        path = put(tmp_path / "t.csv", "text\nnaïve\n", "cp1252")
        with pytest.raises(UserError, match="not UTF-8 text"):
            import_csv([path], tmp_path / "o")
        rows = read_manifest(import_csv([path], tmp_path / "o", TableOptions(encoding="cp1252")).path)
        assert rows[0].text == "naïve"

    def test_features_of_another_kind(self, tmp_path):
        path = put(tmp_path / "t.csv", "id,sentiment\na,1\n")
        put(tmp_path / "f.csv", "a,1\n")
        np.savez(tmp_path / "f.npz", ids=np.array(["a"], object), x=np.zeros((1, 3)))
        for name, message in (("f.csv", "or .npz: convert them"), ("f.npz", r"save ids as text, ids\.astype\(str\)")):
            with pytest.raises(UserError, match=message):
                import_csv([path], tmp_path / "out", TableOptions(features={"f": tmp_path / name}))

    def test_features_beside_the_table(self, tmp_path):
        path = put(tmp_path / "t.csv", "id,sentiment\na,1\nb,2\nc,3\n")
        np.savez(tmp_path / "f.npz", segment=["a", "b"], split=["train", "train"], audio45=np.ones((2, 45), "f4"))
        write_feature_file(tmp_path / "g.safetensors", [("a", np.zeros((2, 3)))])
        features = {"audio45": tmp_path / "f.npz", "other": tmp_path / "g.safetensors"}
        summary = import_csv([path], tmp_path / "out", TableOptions(features=features))
        rows = read_manifest(summary.path)
        assert [row.id for row in rows] == ["a", "b"]
        assert summary.dropped == [("c", "neither text nor audio nor features")]
        assert FeatureFile(rows[0].features["audio45"]).ids == ("a", "b")
        np.testing.assert_array_equal(FeatureFile(rows[0].features["other"]).get("a"), np.zeros((2, 3)))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x": np.ones((2, 3))}, "expected one array of 2 different ids, found 0"),
            ({"x": np.ones((2, 3)), "y": np.ones((2, 3)), "id": ["a", "b"]}, "found 2"),
            ({"x": np.ones((2, 3)), "id": ["a", "a"]}, "different ids, found 0"),
            ({"x": np.array([{}], dtype=object)}, "not a readable .npz"),
        ],
    )
    def test_other_npz(self, tmp_path, arrays, message):
        np.savez(tmp_path / "f.npz", **arrays)
        path = put(tmp_path / "t.csv", "id,text\na,1\n")
        with pytest.raises(UserError, match=message):
            import_csv([path], tmp_path / "out", TableOptions(features={"f": tmp_path / "f.npz"}))

    @pytest.mark.corpus
    def test_the_genuine_segments_with_their_features(self, corpora, tmp_path):
        options = TableOptions(features={"audio45": corpora / "mosei" / "audio45.npz"})
        summary = import_csv([corpora / "mosei" / "segments.csv"], tmp_path, options)
        with pytest.warns(ManifestWarning, match=r"odd start/end .* 224 row"):
            rows = read_manifest(summary.path)
        file = FeatureFile(rows[0].features["audio45"])
        assert (len(rows), len(file), file.width, set(file.ids) <= {row.id for row in rows}) == (22856, 7384, 45, True)


def archive(path: Path, members: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path.read_bytes()


@pytest.fixture
def sdist(tmp_path, monkeypatch):
    texts = {
        "tweets_GroundTruth.txt": "1\t4.0\tlove &amp; peace\n2\t-4\tbad\n3\t-4\tBad \n",
        "amazonReviewSnippets_GroundTruth.txt": "\ufeff"
        + "".join(f"{i // 5}_{i}\t0.8\ttext {i}\n" for i in range(200)),
        "movieReviewSnippets_GroundTruth.txt": "1\t0\tso so\n\n",
        "nytEditorialSnippets_GroundTruth.txt": "1_1\t-0.4\tno\n1_2\t1.0\t \n",
    }
    inner = archive(tmp_path / vader.INNER, {f"hutto_ICWSM_2014/{name}": text.encode() for name, text in texts.items()})
    monkeypatch.setattr(vader, "INNER_SHA256", hashlib.sha256(inner).hexdigest())
    archive(tmp_path / "vaderSentiment-3.3.2.tar.gz", {f"v/additional_resources/{vader.INNER}": inner})
    return tmp_path / "vaderSentiment-3.3.2.tar.gz"


class TestVader:
    @pytest.mark.parametrize("name", ["vaderSentiment-3.3.2.tar.gz", vader.INNER])
    def test_texts_scores_and_splits(self, sdist, tmp_path, name):
        summary = import_vader([sdist.with_name(name)], tmp_path / "out")
        rows = {row.id: row for row in read_manifest(summary.path)}
        assert len(rows) == 3 + 200 + 1 + 1
        assert (rows["tweets-1"].text, rows["tweets-1"].sentiment) == ("love & peace", 3)
        assert rows["amazon-1_5"].sentiment == pytest.approx(0.6)
        assert rows["tweets-2"].split == rows["tweets-3"].split
        documents: dict = {}
        for row in rows.values():
            documents.setdefault(row.video_id or row.id, set()).add(row.split)
        assert all(len(splits) == 1 for splits in documents.values())
        assert {row.split for row in rows.values()} == {"train", "valid", "test"}

    def test_what_is_not_it(self, sdist, tmp_path, monkeypatch):
        with pytest.raises(UserError, match="no such file"):
            import_vader([tmp_path / "none.tar.gz"], tmp_path / "out")
        (tmp_path / "x.tar.gz").write_bytes(b"x")
        with pytest.raises(UserError, match=r"x\.tar\.gz: not a readable \.tar\.gz"):
            import_vader([tmp_path / "x.tar.gz"], tmp_path / "out")
        archive(tmp_path / "x.tar.gz", {"a": b""})
        with pytest.raises(UserError, match=r"hutto_ICWSM_2014\.tar\.gz is not in it"):
            import_vader([tmp_path / "x.tar.gz"], tmp_path / "out")
        monkeypatch.setattr(vader, "INNER_SHA256", "0" * 64)
        with pytest.raises(UserError, match="wrong hash: expected sha256 000"):
            import_vader([sdist], tmp_path / "out")

    def test_pip_is_kept_from_running_it(self, sdist, tmp_path, monkeypatch):
        seen = {}

        def pip(command, env, **_):
            seen.update(env=env, command=command, requirements=Path(command[command.index("-r") + 1]).read_text())
            seen["constraint"] = Path(env["PIP_BUILD_CONSTRAINT"]).read_text()
            left = Path(env["TMPDIR"]) / "pip-download-x" / "v" / vader.INNER
            left.parent.mkdir(parents=True)
            left.write_bytes(sdist.with_name(vader.INNER).read_bytes())
            return subprocess.CompletedProcess(command, 1, "", "ERROR: cannot install setuptools")

        monkeypatch.setattr(subprocess, "run", pip)
        assert import_vader([], tmp_path / "out").n_rows == 205
        assert seen["requirements"] == f"vaderSentiment==3.3.2 --hash=sha256:{vader.SDIST_SHA256}\n"
        assert seen["constraint"] == "setuptools<0\n"
        assert {"--no-clean", "--no-deps", "--no-binary=:all:"} <= set(seen["command"])
        assert seen["env"]["PIP_CONSTRAINT"] == seen["env"]["PIP_BUILD_CONSTRAINT"]

    @pytest.mark.parametrize(
        ("stderr", "message"),
        [
            ("x\nERROR: No matching distribution\n", "is there a network.*No matching distribution"),
            ("python: No module named pip", "ensurepip"),
        ],
    )
    def test_pip_fails(self, tmp_path, monkeypatch, stderr, message):
        done = subprocess.CompletedProcess([], 1, "", stderr)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
        with pytest.raises(UserError, match=message):
            import_vader([], tmp_path / "out")


def test_an_npz_whose_ids_are_damaged(tmp_path):
    ids = np.array([[0x7FFFFFFF]], np.uint32).view("<U1").reshape(1)
    np.savez(tmp_path / "x.npz", ids=ids, x=np.ones((1, 2)))
    with pytest.raises(UserError, match=r"x\.npz: not a readable \.npz"):
        list(read_arrays(tmp_path / "x.npz"))
