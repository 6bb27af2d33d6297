import csv
import json
import time

import numpy as np
import pytest
from csd_files import write_csd

from mmolre.data.feature_file import FeatureFile
from mmolre.data.importers.cmu_sdk import import_cmu_sdk, official_folds
from mmolre.data.importers.csd import CsdFile
from mmolre.data.importers.csd_align import words_are_late
from mmolre.data.manifest import ManifestWarning, read_manifest
from mmolre.errors import UserError

h5py = pytest.importorskip("h5py")

SEVEN = ["sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear"]
V, W = "-3g5yACwYnA", "1DmNV9C1hbY"  # of CMU-MOSEI's train fold; and of MOSI


def words(folder, name="CMU_MOSEI_TimestampedWords"):
    times = [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]
    return write_csd(folder / f"{name}.csd", name, {V: (times, ["so", "sp", "good", "not", "bad"])})


def labels(folder, values, dimensions=SEVEN, times=((0, 3), (3, 5)), name="CMU_MOSEI_Labels", root="All Labels"):
    values = np.array(values, np.float32)
    return write_csd(folder / f"{name}.csd", root, {V: (times, values)}, dimensions)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "sdk"
    folder.mkdir()
    words(folder)
    labels(folder, [[1, 0, 0, 0, 0, 0, 3], [np.nan, 0.5, 0, 0, 0, 0, 0]])
    return folder


def frames(folder, name="COVAREP", seconds=6, rate=10, width=3, **options):
    n = seconds * rate
    times = np.stack([np.arange(n), np.arange(n) + 1], axis=1) / rate
    values = np.repeat(np.arange(n, dtype=np.float32)[:, None], width, 1)
    write_csd(folder / f"CMU_MOSEI_{name}.csd", name, {V: (times, values), "other": (times, values)}, **options)
    return values


def test_words_labels_folds_and_provenance(corpus, tmp_path):
    summary = import_cmu_sdk([corpus], tmp_path / "out")
    first, second = read_manifest(summary.path)
    assert (first.id, first.text, first.video_id, first.split) == (f"{V}[0]", "so good", V, "train")
    assert (first.start, first.end, first.sentiment, first.emotions) == (0, 3, 1, (0, 0, 0, 0, 0, 3))
    assert (second.id, second.text, second.sentiment, second.emotions) == (f"{V}[1]", "not bad", None, (0.5, *[0] * 5))
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["source"] == "cmu-sdk"
    names = [item["file"] for item in provenance["inputs"]]
    assert names == ["CMU_MOSEI_Labels.csd", "CMU_MOSEI_TimestampedWords.csd"]
    assert all(len(item["sha256"]) == 64 and item["bytes"] for item in provenance["inputs"])
    assert (provenance["rows"], provenance["with"]["sentiment"], provenance["with"]["fear"]) == (2, 1, 2)
    assert [row.id for row in read_manifest(import_cmu_sdk([corpus], tmp_path, ids="clip").path)] == [
        f"{V}_1",
        f"{V}_2",
    ]


def test_the_order_of_emotions_is_that_which_the_file_names(corpus, tmp_path):
    order = ["Anger", "disgust", "fear", "happiness", "sad", "surprise", "sentiment"]
    labels(corpus, [[1, 2, 3, 0, 0, 0, -1]], order, [[0, 3]])
    (row,) = read_manifest(import_cmu_sdk([corpus], tmp_path).path)
    assert (row.sentiment, row.emotions) == (-1, (0, 0, 1, 0, 2, 3))


def test_several_files_of_labels_are_merged_by_segment(corpus, tmp_path):
    labels(corpus, [[2], [1]], ["sentiment"], name="A_Labels")
    labels(corpus, [[3, 0, 0, 0, 0, 0], [0] * 6], SEVEN[1:], name="CMU_MOSEI_Labels")
    rows = read_manifest(import_cmu_sdk([corpus], tmp_path).path)
    assert [(row.sentiment, row.emotions[0]) for row in rows] == [(2, 3), (1, 0)]
    labels(corpus, [[-2], [1]], ["sentiment"], name="Z_Labels")
    summary = import_cmu_sdk([corpus], tmp_path)
    assert "1 labels of Z_Labels.csd differ from those of the files before it, which are kept" in summary.notes
    assert read_manifest(summary.path)[0].sentiment == 2


def test_labels_without_names_or_out_of_range(corpus, tmp_path):
    labels(corpus, [[1, 0, 0, 0, 0, 0, 3], [9, 0, 0, 0, 0, 0, 3.00005]], None)
    summary = import_cmu_sdk([corpus], tmp_path)
    assert any("does not name its columns: taken as sentiment, happy" in note for note in summary.notes)
    assert summary.dropped == [(f"{V}[1]", "sentiment outside [-3, 3]: left blank")]
    assert read_manifest(summary.path)[1].sentiment is None
    labels(corpus, np.zeros((2, 6)), None)
    with pytest.raises(UserError, match="6 columns, of which 0 are named: name them by --label-names"):
        import_cmu_sdk([corpus], tmp_path)
    rows = read_manifest(import_cmu_sdk([corpus], tmp_path, label_names=[*SEVEN[1:6], "-"]).path)
    assert rows[0].emotions == (0, 0, 0, 0, 0, None)
    with pytest.raises(UserError, match="'joyous' is none of"):
        import_cmu_sdk([corpus], tmp_path, label_names=["joyous"])


@pytest.mark.parametrize("options", [{}, {"chunks": (60, 3), "compression": "gzip"}, {"chunks": (7, 2)}])
def test_features_by_segment(corpus, tmp_path, options, monkeypatch):
    monkeypatch.setattr("mmolre.data.importers.csd._BLOCK", 4 << 20)
    values = frames(corpus, **options)
    summary = import_cmu_sdk([corpus], tmp_path / "out")
    row = read_manifest(summary.path)[0]
    assert row.features == {"covarep": tmp_path / "out" / "covarep.safetensors"}
    file = FeatureFile(row.features["covarep"])
    assert (file.ids, file.width) == ((f"{V}[0]", f"{V}[1]"), 3)
    np.testing.assert_array_equal(file.get(f"{V}[0]"), values[:30])
    np.testing.assert_array_equal(file.get(f"{V}[1]"), values[30:50])
    assert "features covarep: 2 utterances, 3 wide" in summary.notes


def test_features_by_word_and_at_a_rate(corpus, tmp_path):
    values = frames(corpus)
    file = FeatureFile(read_manifest(import_cmu_sdk([corpus], tmp_path, align="words").path)[0].features["covarep"])
    np.testing.assert_allclose(file.get(f"{V}[0]"), np.stack([values[:10].mean(0), values[20:30].mean(0)]))
    file = FeatureFile(read_manifest(import_cmu_sdk([corpus], tmp_path, rate=2).path)[0].features["covarep"])
    np.testing.assert_allclose(file.get(f"{V}[1]"), values[30:50].reshape(4, 5, 3).mean(1))
    corpus.joinpath("CMU_MOSEI_TimestampedWords.csd").unlink()
    with pytest.raises(UserError, match="needs the file of words"):
        import_cmu_sdk([corpus], tmp_path, align="words")


def test_frames_out_of_order_not_finite_or_coarser_than_words(corpus, tmp_path):
    times = np.array([[2, 3], [0, 1], [np.nan, np.nan], [3, 5]])
    values = np.array([[2.0], [np.nan], [7.0], [4.0]], np.float32)
    write_csd(corpus / "f.csd", "OpenFace 2", {V: (times, values)})
    file = FeatureFile(read_manifest(import_cmu_sdk([corpus], tmp_path).path)[0].features["openface_2"])
    np.testing.assert_array_equal(file.get(f"{V}[0]"), [[np.nan], [2]])
    np.testing.assert_array_equal(file.get(f"{V}[1]"), [[4]])
    file = FeatureFile(read_manifest(import_cmu_sdk([corpus], tmp_path, align="words").path)[0].features["openface_2"])
    np.testing.assert_array_equal(file.get(f"{V}[1]"), [[4], [4]])


def test_files_that_are_cut_into_segments_already(tmp_path):
    write_csd(tmp_path / "labels.csd", "labels", {f"{V}[{k}]": ([[k, k + 1]], [[k]]) for k in (0, 2)}, ["sentiment"])
    write_csd(tmp_path / "words.csd", "words", {f"{V}[{k}]": ([[k, k + 1]], ["yes"]) for k in (0, 1, 2)})
    write_csd(tmp_path / "glove.csd", "glove", {f"{V}[{k}]": ([[k, k + 1]], [[k, 0.5]]) for k in (1, 2)})
    rows = read_manifest(import_cmu_sdk([tmp_path], tmp_path / "out").path)
    assert [(row.id, row.text, row.sentiment) for row in rows] == [(f"{V}[0]", "yes", 0), (f"{V}[2]", "yes", 2)]
    file = FeatureFile(rows[0].features["glove"])
    assert file.ids == (f"{V}[2]",)
    np.testing.assert_array_equal(file.get(f"{V}[2]"), [[2, 0.5]])


def test_words_of_odd_shapes_and_times(tmp_path):
    write_csd(tmp_path / "labels.csd", "labels", {V: ([[0, 9]], [[1.0]])}, ["sentiment"])
    rows = [["so", "good"], ["not", "bad"]]
    path = write_csd(tmp_path / "words.csd", "words", {V: ([[0, 1], [1, 2]], ["so", "good"])})
    with h5py.File(path, "a") as file:
        del file[f"words/data/{V}/features"]
        file[f"words/data/{V}"].create_dataset("features", data=np.array(rows, "S4"))
    with pytest.raises(UserError, match="2 words at a time"):
        import_cmu_sdk([tmp_path], tmp_path / "out")
    times = np.full((60, 2), np.nan)
    times[:2] = [[0, 1], [1, 2]]
    write_csd(tmp_path / "words.csd", "words", {V: (times, ["so", "good", *["lost"] * 58])})
    (row,) = read_manifest(import_cmu_sdk([tmp_path], tmp_path / "out").path)
    assert row.text == "so good"


def test_words_one_row_below_their_times_are_moved_up(tmp_path):
    rng = np.random.default_rng(0)
    said = ["".join(rng.choice(list("abc"), rng.integers(1, 12))) for _ in range(300)]
    ends = np.cumsum([0.08 * len(word) for word in said])
    times = np.stack([ends - [0.08 * len(word) for word in said], ends], axis=1)
    late = np.concatenate([times[1:], [[ends[-1], ends[-1] + 1]]])
    assert not words_are_late([(said, times)])
    assert words_are_late([(said, late)])
    spans = [(times[i, 0], times[i + 4, 1]) for i in range(0, 300, 5)]
    write_csd(tmp_path / "labels.csd", "labels", {V: (spans, np.zeros((60, 1)))}, ["sentiment"])
    for name, placed in (("late", late), ("right", times)):
        write_csd(tmp_path / "words.csd", "words", {V: (placed, said)})
        summary = import_cmu_sdk([tmp_path], tmp_path / name)
        texts = [row.text for row in read_manifest(summary.path)]
        assert texts == [" ".join(said[i : i + 5]) for i in range(0, 300, 5)]
        assert any("moved up" in note for note in summary.notes) == (name == "late")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.create_group("second"), "2 sequences in one file"),
        (lambda file: file["r/data"].pop(V), "no videos in it"),
        (lambda file: file["r/data"][V].pop("intervals"), "'intervals' is missing"),
        (lambda file: file["r/data"].__setitem__("x", h5py.ExternalLink("/etc/hosts", "/x")), "a link to elsewhere"),
        (lambda file: file["r/data"].__setitem__("x", h5py.SoftLink("/r")), "a link to elsewhere"),
        (
            lambda file: file["r"].create_dataset("data/x/features", (1 << 50, 9), "f4", chunks=(1, 9)),
            "'intervals' is missing",
        ),
        (
            lambda file: file["r"].create_dataset("data/-/features", (1 << 50, 9), "f4", chunks=(1, 9)),
            "far beyond the file",
        ),
    ],
)
def test_damaged_sequences(tmp_path, spoil, message):
    path = write_csd(tmp_path / "labels.csd", "r", {V: ([[0, 1]], [[1.0]])}, ["sentiment"])
    with h5py.File(path, "a") as file:
        spoil(file)
    with pytest.raises(UserError, match=message) as raised:
        import_cmu_sdk([path], tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_block_that_cannot_be_read_is_not_taken_for_numbers(tmp_path):
    options = {"chunks": (2, 1), "compression": "gzip"}
    path = write_csd(tmp_path / "labels.csd", "r", {V: ([[0, 1], [1, 2]], [[1.0], [2.0]])}, ["sentiment"], **options)
    with h5py.File(path) as file:
        place = file[f"r/data/{V}/features"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = b"x" * place.size
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable computational sequence: Can't .*"):
        import_cmu_sdk([path], tmp_path / "out")


def test_nothing_to_import(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file or folder"):
        import_cmu_sdk([tmp_path / "none"], tmp_path)
    with pytest.raises(UserError, match=r"no \.csd files there"):
        import_cmu_sdk([tmp_path], tmp_path)
    words(tmp_path)
    with pytest.raises(UserError, match=r"no file of labels among 1"):
        import_cmu_sdk([tmp_path], tmp_path)
    (tmp_path / "x.csd").write_bytes(b"not HDF5")
    with pytest.raises(UserError, match=r"x\.csd: not a readable computational sequence"):
        CsdFile(tmp_path / "x.csd")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mmolre\[data\]'"):
        CsdFile(tmp_path / "x.csd")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "the HDF5 library crashed on it"),
        ("import time; time.sleep(60)", "no answer for 0 s"),
        ('print(\'{"root": "r", "dimensions": "", "kind": "numbers"}\')', "crashed"),
    ],
)
def test_a_child_that_crashes_hangs_or_stops(tmp_path, monkeypatch, code, reason):
    (tmp_path / "child.py").write_text(code)
    (tmp_path / "x.csd").touch()
    monkeypatch.setattr("mmolre.data.importers.csd._CHILD", tmp_path / "child.py")
    monkeypatch.setattr("mmolre.data.importers.csd._PATIENCE", 0.3)
    began = time.monotonic()
    with pytest.raises(UserError, match=reason), CsdFile(tmp_path / "x.csd") as file:
        list(file)
    assert time.monotonic() - began < 5


def test_official_folds():
    folds = official_folds()
    sizes = {corpus: [list(f.values()).count(s) for s in ("train", "valid", "test")] for corpus, f in folds.items()}
    assert sizes == {"CMU-MOSI": [52, 10, 31], "CMU-MOSEI": [2249, 300, 676]}
    assert not set(folds["CMU-MOSI"]) & set(folds["CMU-MOSEI"])


@pytest.mark.corpus
def test_the_genuine_files(corpora, tmp_path):
    summary = import_cmu_sdk([corpora / "mosi"], tmp_path, ids="clip")
    with pytest.warns(ManifestWarning, match=r"odd start/end .* in 1 row"):
        rows = read_manifest(summary.path)
    assert len(rows) == summary.n_rows == 1513
    assert all(row.sentiment is not None and row.text for row in rows)
    with (corpora / "mosi" / "segments.csv").open(encoding="utf-8") as file:
        known = {f"{row['video_id']}_{row['clip_id']}": row for row in csv.DictReader(file)}
    assert all(row.split == known[row.id]["split"] for row in rows)
    assert all(abs((row.sentiment or 0) - float(known[row.id]["sentiment"])) < 1e-3 for row in rows)
    assert sum((row.text or "").upper() == known[row.id]["text"] for row in rows) >= 1339


@pytest.mark.parametrize("rate", [0.0, -5.0, float("nan"), float("inf")])
def test_rates_that_are_none(tmp_path, rate):
    corpus = tmp_path / "in"
    corpus.mkdir()
    frames(corpus)
    with pytest.raises(UserError, match=r"--rate .*: give frames per second, above 0"):
        import_cmu_sdk([corpus], tmp_path / "out", rate=rate)
    with pytest.raises(UserError, match="leave one of them out"):
        import_cmu_sdk([corpus], tmp_path / "out", rate=5.0, align="words")
