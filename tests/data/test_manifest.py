import csv
import json
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmolre.data.manifest import ManifestWarning, iter_manifest, read_manifest, read_manifests, write_manifest
from mmolre.data.manifest_rows import iter_rows
from mmolre.errors import UserError
from mmolre.schema import EMOTIONS, SPLITS, Utterance

HEADER = "video_id,clip_id,start,end,split,text,sentiment,happy,sad,anger,surprise,disgust,fear\n"


def put(folder: Path, text: str | bytes, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_reads_every_column_of_a_corpus_file(tmp_path):
    path = put(tmp_path, HEADER + '-3g_x,10,1.5,2.25,train,"Well, yes.",1.0,0.6666667,0,0,0,0,3.0000001\n')
    assert read_manifest(path) == [
        Utterance(
            id="-3g_x_10",
            text="Well, yes.",
            start=1.5,
            end=2.25,
            split="train",
            video_id="-3g_x",
            sentiment=1.0,
            emotions=(0.6666667, 0.0, 0.0, 0.0, 0.0, 3.0),
            row="m.csv:2",
        )
    ]


@pytest.mark.parametrize("blank", ["", " ", "nan", "NaN", "null", "None", "NA", "n/a"])
def test_a_blank_label_is_missing_never_zero(tmp_path, blank):
    (row,) = read_manifest(put(tmp_path, f"id,text,sentiment,happy,sad\n1,hi,{blank},{blank},0\n"))
    assert row.sentiment is None
    assert row.emotions == (None, 0.0, None, None, None, None)


def test_words_that_mean_missing_elsewhere_are_words_in_a_text(tmp_path):
    rows = read_manifest(put(tmp_path, "id,text\nnull,None\nNA,nan\n"))
    assert [(row.id, row.text) for row in rows] == [("null", "None"), ("NA", "nan")]


def test_ids_stay_strings(tmp_path):
    rows = read_manifest(put(tmp_path, "id,text\n-1e5,a\n_x,b\n007,c\n1.0,d\n"))
    assert [row.id for row in rows] == ["-1e5", "_x", "007", "1.0"]
    lines = '{"id": 7, "text": "a"}\n{"video_id": 12, "clip_id": 3.0, "text": "b", "sentiment": NaN, "happy": null}\n'
    assert [row.id for row in read_manifest(put(tmp_path, lines, "m.jsonl"))] == ["7", "12_3"]


def test_a_blank_id_falls_back_on_video_and_clip(tmp_path):
    rows = read_manifest(put(tmp_path, "id,video_id,clip_id,text\na,v,1,x\n,v,1,y\n"))
    assert [row.id for row in rows] == ["a", "v_1"]


def test_byte_order_mark_crlf_and_quoted_newline(tmp_path):
    path = put(tmp_path, b'\xef\xbb\xbfid, text\r\n1,"two\r\nlines"\r\n\r\n2,"say ""ah"""\r\n')
    rows = read_manifest(path)
    assert [(row.id, row.text, row.row) for row in rows] == [
        ("1", "two\r\nlines", "m.csv:2"),
        ("2", 'say "ah"', "m.csv:4"),  # as a spreadsheet counts: the blank row too, the broken line once
    ]


def test_splits_and_their_other_names(tmp_path):
    names = ["train", "Training", "valid", "val", "DEV", "validation", "test", "", "nan"]
    path = put(tmp_path, "id,text,split\n" + "".join(f"{i},x,{name}\n" for i, name in enumerate(names)))
    assert [row.split for row in read_manifest(path)] == [*["train"] * 2, *["valid"] * 4, "test", None, None]
    with pytest.raises(UserError, match=r"m\.csv:9: no split"):
        read_manifest(path, require_splits=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,sentiment\nx,1\n", "no column 'id' .*there are: text, sentiment"),
        ("id,video_id\n1,2\n", "no column 'text' or 'audio'"),
        ("id;text\n1;x\n", "separated by commas"),
        ("id,text,id\n1,x,2\n", "'id' occurs twice"),
        ("id,text\na,x\nb,y\na,z\n", r"m\.csv:4: the id 'a' is also that of row 2"),
        ("id,text\n ,x\n", r"m\.csv:2: the id is blank"),
        ("id,text,audio\n1,x,\n2, ,\n", r"m\.csv:3: neither text nor audio"),
        ("id,text,sentiment\n1,x,3.1\n", r"m\.csv:2: sentiment is 3.1, outside \[-3, 3\]"),
        ("id,text,sentiment\n1,x,inf\n", r"sentiment is inf, outside"),
        ("id,text,fear\n1,x,-0.1\n", r"fear is -0.1, outside \[0, 3\]"),
        ("id,text,fear\n1,x,some\n", "fear is 'some', not a number"),
        ("id,text,fear\n1,x,1_0\n", "fear is '1_0', not a number"),
        ("id,text,start\n1,x,0:12\n", "start is '0:12', not a number"),
        ("id,text,end\n1,x,inf\n", "end is infinite"),
        ("id,text,split\n1,x,trian\n", "split 'trian' is unknown: use train, valid, test"),
        ("", "manifest is empty"),
        ("id,text\n", "manifest is empty"),
        ('id,text\n1,"x\n2,y\n', r"m\.csv:2: not valid CSV .*unclosed quote"),
        ("id,text\n1,well, no\n", r"m\.csv:2: 3 fields, but the header has 2"),
        ("id,text\n1,hi\n2,caf\xe9\n".encode("latin-1"), "not UTF-8 text after row"),
        ("id,text\n1,hi\n".encode("utf-16"), "not UTF-8 text after row 0"),
    ],
)
def test_bad_csv_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(put(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1, "text": "a"}\n{"id": 2,\n', r"m\.jsonl:2: not a line of JSON"),
        ("[1]\n", r"m\.jsonl:1: one JSON object a line"),
        ("[" * 200_000 + "\n", "not a line of JSON"),
        ('\n{"text": "a"}\n', r"m\.jsonl:2: no column 'id'"),
        ('{"id": 1, "text": ["a"]}\n', r"m\.jsonl:1: text must be text, not a list"),
        ('{"id": true, "text": "a"}\n', "id must be text, not true or false"),
        ('{"id": 1, "text": "a", "sad": true}\n', "sad is true or false, not a number"),
        ('{"id": 1, "text": "a", "sad": 1e999}\n', "sad is inf, outside"),
        ('{"id": 1, "text": "a", "sad": 1' + "0" * 400 + "}\n", "sad is inf, outside"),
        ('{"id": 1, "text": "half \\ud83d"}\n', "lone surrogate"),
    ],
)
def test_bad_jsonl_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(put(tmp_path, text, "m.jsonl"))
    assert "\n" not in str(caught.value)


def test_what_is_no_manifest(tmp_path):
    for name, message in [("no.csv", "no such manifest"), ("m.txt", "ends in .csv, .jsonl, .parquet")]:
        with pytest.raises(UserError, match=message):
            iter_manifest(tmp_path / name)  # at once, not at the first row
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UserError, match="not a file"):
        iter_manifest(tmp_path / "d.csv")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_manifest(put(tmp_path, "id,text\n", "m.parquet"))


def test_odd_times_warn_once_and_cut_only_where_sensible(tmp_path):
    path = put(
        tmp_path,
        "id,text,audio,start,end\na,,x.wav,1,2\nb,,x.wav,-0.5,2\nc,,x.wav,3,3\nd,,x.wav,-2,-1\ne,,x.wav,1,\n"
        "f,hi,,-1,2\ng,hi,,,\nh,,x.wav,,\ni,hi,,1,\n",
    )
    with pytest.warns(ManifestWarning, match=r"m\.csv: odd start/end .* in 5 row\(s\), first row 3") as caught:
        rows = read_manifest(path)
    assert len(caught) == 1
    assert [(row.id, row.cut) for row in rows if row.cut] == [("a", True), ("b", True)]
    assert (rows[1].start, rows[1].end) == (0.0, 2.0)
    assert (rows[5].start, rows[5].end) == (-1.0, 2.0)


@pytest.mark.parametrize(("typo", "meant"), [("Sentiment", "sentiment"), ("suprise", "surprise"), ("angry", "anger")])
def test_a_misspelt_column_warns_and_a_strange_one_does_not(tmp_path, typo, meant):
    with pytest.warns(ManifestWarning, match=f"'{typo}' is ignored: is '{meant}' meant") as caught:
        read_manifest(put(tmp_path, f"id,text,{typo},ASR,\n1,x,2,y,0\n"))
    assert len(caught) == 1


class TestAudioRoot:
    def test_relative_to_the_manifest_else_to_the_root(self, tmp_path):
        path = put(tmp_path, "id,audio\n1,a/b.wav\n")
        (tmp_path / "elsewhere").mkdir()
        assert read_manifest(path)[0].audio == tmp_path / "a" / "b.wav"
        assert read_manifest(path, audio_root=tmp_path / "elsewhere")[0].audio == tmp_path / "elsewhere/a/b.wav"

    def test_the_path_is_absolute_though_the_manifest_is_not(self, tmp_path, monkeypatch):
        put(tmp_path, "id,audio\n1,b.wav\n")
        monkeypatch.chdir(tmp_path)
        assert read_manifest(Path("m.csv"))[0].audio == tmp_path / "b.wav"

    @pytest.mark.parametrize("audio", ["../b.wav", "a/../../b.wav", "/b.wav", "link/b.wav", "link.wav", "nul\0.wav"])
    def test_may_not_be_left(self, tmp_path, audio):
        (tmp_path / "root").mkdir()
        (tmp_path / "outside").mkdir()
        (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
        (tmp_path / "root" / "link.wav").symlink_to(tmp_path / "outside" / "b.wav")
        with pytest.raises(UserError, match=r"m\.csv:2: the audio path .* leaves its root .*--audio-root"):
            read_manifest(put(tmp_path / "root", f"id,audio\n1,{audio}\n"))

    def test_a_sibling_with_the_same_beginning_is_outside(self, tmp_path):
        (tmp_path / "root").mkdir()
        with pytest.raises(UserError, match="leaves its root"):
            read_manifest(put(tmp_path / "root", "id,audio\n1,../root2/b.wav\n"))

    def test_a_root_behind_a_link_is_fine(self, tmp_path):
        (tmp_path / "real").mkdir()
        put(tmp_path / "real", "id,audio\n1,b.wav\n")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert read_manifest(tmp_path / "link" / "m.csv")[0].audio == tmp_path / "link" / "b.wav"

    def test_must_be_a_folder(self, tmp_path):
        path = put(tmp_path, "id,audio\n1,b.wav\n")
        with pytest.raises(UserError, match="audio root is not a folder"):
            iter_manifest(path, audio_root=tmp_path / "none")

    def test_sidecar_names_it_and_the_option_wins(self, tmp_path):
        path = put(tmp_path, "id,audio\n1,b.wav\n")
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        put(tmp_path, json.dumps({"audio_root": str(tmp_path / "one")}), "m.csv.json")
        assert read_manifest(path)[0].audio == tmp_path / "one" / "b.wav"
        put(tmp_path, '{"audio_root": "two"}', "m.csv.json")
        assert read_manifest(path)[0].audio == tmp_path / "two" / "b.wav"
        assert read_manifest(path, audio_root=tmp_path / "one")[0].audio == tmp_path / "one" / "b.wav"

    @pytest.mark.parametrize("sidecar", ["", "[]", "{}", '{"audio_root": 1}', '{"features": []}', "\xff"])
    def test_a_broken_sidecar(self, tmp_path, sidecar):
        path = put(tmp_path, "id,audio\n1,b.wav\n")
        put(tmp_path, sidecar.encode("latin-1"), "m.csv.json")
        with pytest.raises(UserError, match=r"m\.csv\.json: not of the form"):
            read_manifest(path)


def test_ids_are_unique_over_manifests(tmp_path):
    (tmp_path / "other").mkdir()
    one, two = put(tmp_path, "id,text\na,x\nb,y\n"), put(tmp_path / "other", "id,text\nc,x\n\nb,y\n")
    with pytest.raises(UserError, match=r"other/m\.csv:4: the id 'b' is also that of .*m\.csv:3"):
        read_manifests([one, two])
    with pytest.raises(UserError, match="is also that of"):
        read_manifests([one, one])
    put(tmp_path / "other", "id,text\nc,x\n")
    assert [row.id for row in read_manifests([one, two])] == ["a", "b", "c"]


def test_two_ids_of_one_hash_are_not_duplicates(tmp_path, monkeypatch):
    import mmolre.data.manifest as module

    monkeypatch.setattr(module, "hash", lambda _: 0, raising=False)
    assert len(read_manifest(put(tmp_path, "id,text\na,x\nb,y\nc,z\n"))) == 3
    with pytest.raises(UserError, match=r"m\.csv:4: the id 'b' is also that of row 3"):
        read_manifest(put(tmp_path, "id,text\na,x\nb,y\nb,z\n"))


texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda s: s == s.strip() != "")


@st.composite
def utterances(draw):
    audio = draw(st.sampled_from([None, Path("a.wav"), Path("b c/ü.flac")]))
    cut = audio is not None and draw(st.booleans())
    start = draw(st.floats(0, 1e4)) if cut or (audio is None and draw(st.booleans())) else None
    emotion = st.none() | st.floats(0, 3)
    return Utterance(
        id="",
        text=draw(texts.filter(lambda s: s is not None)) if audio is None else draw(texts),
        audio=audio,
        start=start,
        end=None if start is None else start + draw(st.floats(0.01, 100)),
        cut=cut,
        split=draw(st.none() | st.sampled_from(SPLITS)),
        speaker=draw(texts),
        video_id=draw(texts),
        sentiment=draw(st.none() | st.floats(-3, 3)),
        emotions=tuple(draw(emotion) for _ in EMOTIONS),
    )


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(utterances(), min_size=1, max_size=4))
def test_what_is_written_is_read_back(tmp_path, name, drawn):
    root = tmp_path.resolve()
    rows = [replace(row, id=str(i), audio=row.audio and root / row.audio) for i, row in enumerate(drawn)]
    assert write_manifest(root / name, iter(rows)) == len(rows)
    assert [replace(row, row="") for row in read_manifest(root / name)] == rows


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
def test_writing_is_whole_or_not_at_all(tmp_path, name):
    write_manifest(tmp_path / name, [Utterance("a", text="x")])
    before = (tmp_path / name).read_bytes()

    def breaks():
        yield Utterance("b", text="y")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(tmp_path / name, breaks())
    with pytest.raises(UserError, match="lies outside the audio root"):
        write_manifest(tmp_path / name, [Utterance("b", audio=tmp_path.parent / "b.wav")])
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(UserError, match="cannot write"):
        write_manifest(tmp_path / name / name, [])


def test_times_that_cut_nothing_are_not_written_beside_audio(tmp_path):
    write_manifest(tmp_path / "m.csv", [Utterance("a", audio=tmp_path / "a.wav", start=1, end=2)])
    (row,) = read_manifest(tmp_path / "m.csv")
    assert (row.start, row.end, row.cut) == (None, None, False)


def test_parquet_of_strange_types(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "id": pa.array([1, 2], pa.int64()),
            "text": pa.array(["a", "b"]).dictionary_encode(),
            "clip_id": pa.array([1.0, float("nan")]),
            "sentiment": pa.array([1, None], pa.int8()),
            "happy": pa.array([0.5, float("nan")], pa.float32()),
            "embedding": pa.array([[1.0], [2.0]]),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    rows = read_manifest(tmp_path / "m.parquet")
    assert [(r.id, r.text, r.sentiment, r.emotions[0], r.row) for r in rows] == [
        ("1", "a", 1.0, 0.5, "m.parquet:1"),
        ("2", "b", None, None, "m.parquet:2"),
    ]
    data = (tmp_path / "m.parquet").read_bytes()
    (tmp_path / "m.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
def test_streams_in_bounded_memory(tmp_path, name):
    n = 6000
    write_manifest(tmp_path / name, (Utterance(str(i), text=f"{i} " + "x" * 2000) for i in range(n)))  # 12 MB
    list(iter_manifest(put(tmp_path, "id,text\n1,a\n", "warm.csv")))
    tracemalloc.start()
    try:
        assert sum(1 for _ in iter_manifest(tmp_path / name)) == n
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6e6


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "splits", "unlabelled"),
    [
        ("mosei", {"train": 16326, "valid": 1871, "test": 4659}, 0),
        ("mosi", {"train": 1284, "valid": 229, "test": 686}, 686),
    ],
)
def test_corpora_read_as_they_are(corpora, name, splits, unlabelled):
    path = corpora / name / "segments.csv"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = read_manifest(path)
    assert [str(w.message).split(":")[0] for w in caught] == ["segments.csv"]
    assert {split: sum(row.split == split for row in rows) for split in SPLITS} == splits
    assert sum(row.sentiment is None for row in rows) == unlabelled
    assert sum(all(e is None for e in row.emotions) for row in rows) == (0 if name == "mosei" else len(rows))
    with path.open(encoding="utf-8", newline="") as file:
        raw = list(csv.DictReader(file))
    assert [row.id for row in rows] == [f"{r['video_id']}_{r['clip_id']}" for r in raw]
    assert [row.text for row in rows] == [r["text"].strip() for r in raw]


def test_a_video_in_two_manifests_is_told_of(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"id,video_id,text\n{name}1,1,x\n{name}2,{name},y\n")
    with pytest.warns(ManifestWarning, match=r"^1 video_id\(s\), e\.g\. '1', are in .*a\.csv and in .*b\.csv: each is"):
        read_manifests([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_a_time_that_no_calendar_has(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"id": ["1"], "text": ["a"], "start": pa.array([2**62], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_manifest(tmp_path / "m.parquet")


def test_what_is_said_of_other_encodings(tmp_path):
    (tmp_path / "m.jsonl").write_bytes('{"id": "1", "text": "é"}'.encode("cp1252"))
    with pytest.raises(UserError, match=r"not UTF-8 text after row 0: save the file as UTF-8$"):
        list(iter_rows(tmp_path / "m.jsonl", (), encoding="cp1252"))
