"""MAG-BERT's and MMSA's pickles, and the way back to MMSA's."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mmolre.data.export import export_datasets, export_mmsa, export_parquet
from mmolre.data.feature_file import FeatureFile
from mmolre.data.importers.mag_bert import import_mag_bert
from mmolre.data.importers.mmsa import import_mmsa
from mmolre.data.manifest import ManifestWarning, read_manifest, write_manifest
from mmolre.errors import UserError
from mmolre.schema import SPLITS, Utterance

rng = np.random.default_rng(0)


def put(path: Path, value, protocol=4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def item(name, words=("so", "sp", "good"), label=1.5, extra=False):
    n = len(words)
    parts = (list(words), rng.normal(size=(n, 4)).astype("f4"), rng.normal(size=(n, 3)).astype("f4"))
    if extra:
        parts = (np.arange(n), parts[1], parts[2], list(words))
    return (parts, np.array([[label]] if np.ndim(label) == 0 else [label], "f4"), name)


class TestMagBert:
    @pytest.mark.parametrize("extra", [False, True])
    def test_a_list_of_one_split(self, tmp_path, extra):
        items = [item("v[0]", extra=extra), item("v[3]", ["bad"], -3, extra=extra)]
        path = put(tmp_path / "mosi_valid.pkl", items)
        rows = read_manifest(import_mag_bert([path], tmp_path / "out").path)
        assert [(r.id, r.video_id, r.text, r.sentiment, r.split) for r in rows] == [
            ("v[0]", "v", "so good", 1.5, "valid"),
            ("v[3]", "v", "bad", -3, "valid"),
        ]
        visual, acoustic = (FeatureFile(rows[0].features[name]) for name in ("visual", "acoustic"))
        np.testing.assert_array_equal(visual.get("v[0]"), items[0][0][1])
        np.testing.assert_array_equal(acoustic.get("v[3]"), items[1][0][2])
        rows = read_manifest(import_mag_bert([path], tmp_path / "o", ids="clip", split="test").path)
        assert [(row.id, row.split) for row in rows] == [("v_1", "test"), ("v_4", "test")]

    def test_a_dict_of_splits_and_seven_labels(self, tmp_path):
        value = {"train": [item("a[0]", label=[1, 0, 0, 3, 0, 0, 0])], "dev": [item("b[0]")], "test": [item("c[0]")]}
        rows = read_manifest(import_mag_bert([put(tmp_path / "mosei.pkl", value)], tmp_path).path)
        assert [row.split for row in rows] == list(SPLITS)
        assert rows[0].emotions == (0, 0, 3, 0, 0, 0)
        assert rows[1].emotions == (None,) * 6

    def test_what_is_dropped(self, tmp_path):
        items = [
            item("a"),
            item("a"),
            item(""),
            item("b", label=4),
            item("c", label=[1, 2]),
            "x",
            item("d", label=np.nan),
        ]
        summary = import_mag_bert([put(tmp_path / "x.pkl", items)], tmp_path)
        assert [(row.id, row.sentiment, row.split) for row in read_manifest(summary.path)] == [
            ("a", 1.5, None),
            ("d", None, None),
        ]
        assert [name for name, _ in summary.dropped] == ["a", "x.pkl, item 2", "b", "c", "x.pkl, item 5"]

    @pytest.mark.parametrize("value", [[], {}, 1, "abc", [1, 2], {"train": []}, {"train": {"id": []}}])
    def test_another_layout(self, tmp_path, value):
        with pytest.raises(UserError, match="not of this layout"):
            import_mag_bert([put(tmp_path / "x.pkl", value)], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.corpus
    def test_the_genuine_file(self, corpora, tmp_path):
        summary = import_mag_bert([corpora / "mosi" / "covarep_facet_valid.pkl"], tmp_path, ids="clip")
        rows = read_manifest(summary.path)
        with pytest.warns(ManifestWarning):
            known = {row.id: row for row in read_manifest(corpora / "mosi" / "segments.csv") if row.split == "valid"}
        assert {row.id for row in rows} == set(known)
        assert all(abs((row.sentiment or 0) - (known[row.id].sentiment or 0)) < 1e-3 for row in rows)
        assert sum((row.text or "").upper() == known[row.id].text for row in rows) == 189
        assert [FeatureFile(rows[0].features[name]).width for name in ("visual", "acoustic")] == [47, 74]


def mmsa_split(n=3, frames=5, first=0, **more):
    return {
        "id": [f"video{k}$_$clip_{k}" for k in range(first, first + n)],
        "raw_text": np.array([f"text {k}" for k in range(n)]),
        "text": rng.normal(size=(n, frames, 6)).astype("f4"),
        "text_bert": rng.normal(size=(n, 3, frames)).astype("f4"),
        "audio": rng.normal(size=(n, frames, 2)),
        "vision": rng.normal(size=(n, frames, 3)).astype("f4"),
        "annotations": ["Positive"] * n,
        "classification_labels": np.zeros(n),
        "regression_labels": np.linspace(-3, 3, n),
    } | more


class TestMmsa:
    def test_unaligned(self, tmp_path):
        train = mmsa_split(audio_lengths=[5, 2, 0], vision_lengths=np.array([1, 1, 1]))
        value = {"train": train, "valid": mmsa_split(first=3), "test": mmsa_split(first=6)}
        summary = import_mmsa([put(tmp_path / "unaligned.pkl", value)], tmp_path / "out")
        rows = read_manifest(summary.path)
        assert (len(rows), rows[0].id, rows[0].video_id, rows[0].text) == (9, "video0_clip_0", "video0", "text 0")
        assert [row.sentiment for row in rows[:3]] == [-3, 0, 3]
        assert [row.split for row in rows] == [split for split in SPLITS for _ in range(3)]
        assert sorted(rows[0].features) == ["acoustic", "visual", "words"]
        audio = FeatureFile(rows[0].features["acoustic"])
        assert [audio.frames(row.id) for row in rows] == [5, 2, 0, *[5] * 6]
        np.testing.assert_allclose(audio.get(rows[1].id), train["audio"][1, :2], rtol=1e-6)

    def test_aligned_padding_goes(self, tmp_path):
        vision = np.zeros((3, 5, 3), "f4")
        vision[0, 1:4], vision[1, 2] = 1, 2
        summary = import_mmsa([put(tmp_path / "x.pkl", {"train": mmsa_split(vision=vision)})], tmp_path)
        rows = read_manifest(summary.path)
        file = FeatureFile(rows[0].features["visual"])
        assert [file.frames(row.id) for row in rows] == [3, 1, 0]

    def test_ch_sims_is_rescaled(self, tmp_path):
        split = mmsa_split(regression_labels=np.array([-1, 0.2, 1]), regression_labels_T=np.zeros(3))
        summary = import_mmsa([put(tmp_path / "x.pkl", {"train": split})], tmp_path)
        np.testing.assert_allclose([row.sentiment for row in read_manifest(summary.path)], [-3, 0.6, 3])
        assert any("[-1, 1]" in note for note in summary.notes)
        split = mmsa_split(regression_labels=np.array([0, 5, 11]))
        summary = import_mmsa([put(tmp_path / "x.pkl", {"train": split})], tmp_path, label_range=(0, 10))
        assert [row.sentiment for row in read_manifest(summary.path)] == [-3, 0, None]
        assert summary.dropped == [("x.pkl, train 2", "sentiment outside [0, 10]: left blank")]

    def test_mult(self, tmp_path):
        ids = np.array([["v", "0.5", "2.25"], ["w", "3", "4"]])
        split = {"id": ids, "labels": np.array([[[1.0]], [[-1.0]]]), "audio": rng.normal(size=(2, 4, 3))}
        rows = read_manifest(import_mmsa([put(tmp_path / "x.pkl", {"train": split})], tmp_path).path)
        assert [(r.id, r.start, r.end, r.sentiment) for r in rows] == [
            ("v_0.5_2.25", 0.5, 2.25, 1),
            ("w_3_4", 3, 4, -1),
        ]

    @pytest.mark.parametrize("value", [[], 1, {}, {"train": 1}, {"train": {"id": 1}}, {"train": [item("a")]}])
    def test_another_layout(self, tmp_path, value):
        with pytest.raises(UserError, match="not of this layout"):
            import_mmsa([put(tmp_path / "x.pkl", value)], tmp_path / "out")

    def test_bad_rows_and_lengths(self, tmp_path):
        split = mmsa_split(id=["a", None, "a"])
        summary = import_mmsa([put(tmp_path / "x.pkl", {"train": split})], tmp_path)
        assert summary.dropped == [("x.pkl, train 1", "no id"), ("a", "the id was there before")]
        split = mmsa_split(audio_lengths=[1, 2, 9])
        with pytest.raises(UserError, match="the length of 'video2_clip_2' is 9, of 5 frames"):
            import_mmsa([put(tmp_path / "x.pkl", {"train": split})], tmp_path)


names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=6)
labels = st.none() | st.floats(-3, 3)
utterances = st.builds(
    Utterance,
    id=names,
    text=st.none() | names,
    split=st.sampled_from([*SPLITS, None]),
    speaker=st.none() | names,
    video_id=st.none() | names,
    sentiment=labels,
    emotions=st.tuples(*[st.none() | st.floats(0, 3)] * 6),
    audio=st.sampled_from([None, Path("a.wav"), Path("deep/b.wav")]),
    start=st.none() | st.floats(0, 9),
)


@given(rows=st.lists(utterances, min_size=1, max_size=6, unique_by=lambda row: row.id), data=st.data())
@settings(max_examples=25)
def test_manifest_to_mmsa_and_back_loses_nothing(tmp_path_factory, rows, data):
    folder = tmp_path_factory.mktemp("m")
    (folder / "in" / "deep").mkdir(parents=True)
    held = data.draw(st.lists(st.sampled_from([row.id for row in rows]), min_size=1, unique=True))
    files = {name: folder / "in" / f"{name}.safetensors" for name in ("acoustic", "covarep")}
    for path in files.values():
        save_file({key: rng.normal(size=(1 + k % 3, 4)).astype("f4") for k, key in enumerate(held)}, path)
    rows = [
        replace(
            row,
            features=files,
            audio=row.audio and folder / "in" / row.audio,
            end=row.start if row.start is None else row.start + 1,
            cut=row.audio is not None and row.start is not None,
        )
        for row in rows
        if row.text or row.audio or row.id in held
    ]
    write_manifest(folder / "in" / "m.csv", rows)
    padding = data.draw(st.sampled_from(["end", "front"]))
    assert export_mmsa(folder / "in" / "m.csv", folder / "m.pkl", padding=padding) == len(rows)
    back = read_manifest(import_mmsa([folder / "m.pkl"], folder / "out").path)
    plain = [replace(row, features={}, row="") for row in back]
    assert plain == [replace(row, features={}, row="") for row in rows]
    assert sorted(back[0].features) == sorted(files)
    for name, path in files.items():
        before, after = FeatureFile(path), FeatureFile(back[0].features[name])
        assert set(before.ids) == set(after.ids)
        for key in before.ids:
            np.testing.assert_array_equal(before.get(key), after.get(key))


@pytest.fixture
def manifest(tmp_path):
    save_file({"b": np.ones((2, 3), "f4")}, tmp_path / "f.safetensors")
    features = {"covarep": tmp_path / "f.safetensors"}
    rows = [
        Utterance("a", text="x", split="train", sentiment=1, emotions=(0.5, *[None] * 5), features=features),
        Utterance("b", audio=tmp_path / "b.wav", start=1, end=2, cut=True, split="test", features=features),
        Utterance("c", text="y", features=features),
    ]
    write_manifest(tmp_path / "m.csv", rows)
    return tmp_path / "m.csv"


def test_audio_that_is_elsewhere_now(manifest, tmp_path):
    export_mmsa(manifest, tmp_path / "m.pkl")
    content = (tmp_path / "m.pkl").read_bytes()
    stored = str(tmp_path).encode()
    gone = tmp_path / "gone.pkl"
    gone.write_bytes(content.replace(stored, b"/" + b"x" * (len(stored) - 1)))
    summary = import_mmsa([gone], tmp_path / "out")
    assert any("--audio-root" in note for note in summary.notes)
    assert [row.audio for row in read_manifest(summary.path)] == [None] * 3
    rows = read_manifest(import_mmsa([gone], tmp_path / "out", audio_root=tmp_path).path)
    assert [row.audio for row in rows] == [None, tmp_path / "b.wav", None]
    with pytest.raises(UserError, match=r"--audio-root .*nowhere: not a folder"):
        import_mmsa([gone], tmp_path / "out", audio_root=tmp_path / "nowhere")
    assert read_manifest(summary.path) == rows


def test_what_mmsa_reads(manifest, tmp_path):
    export_mmsa(manifest, tmp_path / "m.pkl")
    value = pickle.loads((tmp_path / "m.pkl").read_bytes())
    assert set(value) == {"train", "valid", "test", "unsplit", "mmolre"}
    assert (value["train"]["raw_text"], value["train"]["annotations"]) == (["x"], ["Positive"])
    assert value["test"]["covarep"].shape == (1, 2, 3)
    assert value["train"]["covarep_lengths"] == [0]


@pytest.mark.parametrize(("padding", "rows"), [("end", [[1, 0, 0], [2, 3, 4]]), ("front", [[0, 0, 1], [2, 3, 4]])])
def test_where_padding_stands(tmp_path, padding, rows):
    arrays = {"a": np.array([[1]], "f4"), "b": np.array([[2], [3], [4]], "f4")}
    save_file(arrays, tmp_path / "f.safetensors")
    features = {"acoustic": tmp_path / "f.safetensors"}
    made = [Utterance(key, text=key, split="train", features=features) for key in ("a", "b", "absent")]
    write_manifest(tmp_path / "m.csv", made)
    export_mmsa(tmp_path / "m.csv", tmp_path / "m.pkl", padding=padding)
    train = pickle.loads((tmp_path / "m.pkl").read_bytes())["train"]
    assert train["audio"][:, :, 0].tolist() == [*rows, [0, 0, 0]]
    assert train["audio_lengths"] == [1, 3, 0]
    back = read_manifest(import_mmsa([tmp_path / "m.pkl"], tmp_path / "out").path)
    found = FeatureFile(back[0].features["acoustic"])
    for key, array in arrays.items():
        np.testing.assert_array_equal(found.get(key), array)


def test_parquet_and_datasets(manifest, tmp_path):
    assert export_parquet(manifest, tmp_path / "n.parquet") == 3
    before = manifest.read_bytes()
    with pytest.raises(UserError, match=r"name a file that ends in \.parquet"):
        export_parquet(manifest, manifest)
    with pytest.raises(UserError, match="would be overwritten"):
        export_mmsa(manifest, manifest)
    with pytest.raises(UserError, match="would be overwritten"):
        export_parquet(tmp_path / "n.parquet", tmp_path / "n.parquet")
    assert manifest.read_bytes() == before
    before, after = read_manifest(manifest), read_manifest(tmp_path / "n.parquet")
    assert [replace(row, row="") for row in before] == [replace(row, row="") for row in after]
    assert export_datasets(manifest, tmp_path / "hub") == 3
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "hub" / "data").iterdir())
    assert names == ["test", "train", "unsplit"]
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "- split: unsplit\n    path: data/unsplit-00000-of-00001.parquet" in card
    (row,) = pq.read_table(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet").to_pylist()
    assert (row["id"], row["covarep"], row["start"]) == ("b", [[1, 1, 1], [1, 1, 1]], 1)
