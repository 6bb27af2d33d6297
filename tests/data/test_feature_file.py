import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from mmolre.data.feature_file import FeatureFile, iter_features, write_feature_file
from mmolre.errors import UserError

A, B = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([[np.nan, np.inf]], np.float32)


@given(
    arrays=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name != "__metadata__"),
        hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.just(3))),
        min_size=1,
    )
)
@settings(max_examples=30)
def test_what_is_written_is_read(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("f") / "f.safetensors"
    held = {name: array for name, array in arrays.items() if len(array)}
    if not held:
        with pytest.raises(UserError, match="no features"):
            write_feature_file(path, arrays.items())
        return
    assert write_feature_file(path, arrays.items()) == len(held)
    file = FeatureFile(path)
    assert (set(file.ids), len(file), file.width) == (set(held), len(held), 3)
    for name in arrays:
        got = file.get(name)
        assert (name in file) == (name in held)
        if got is None:
            assert name not in held
            assert file.frames(name) == 0
        else:
            np.testing.assert_array_equal(got, held[name])
            assert file.frames(name) == len(held[name])
    assert [path.name for path in path.parent.iterdir()] == ["f.safetensors"]


def test_types_and_shapes(tmp_path):
    save_file(
        {
            "half": A.astype(np.float16),
            "double": A.astype(np.float64),
            "int": A.astype(np.int8),
            "one": A[1],
            "no": A[:0],
        },
        tmp_path / "f.safetensors",
    )
    file = FeatureFile(tmp_path / "f.safetensors")
    for name in ("half", "double", "int"):
        got = file.get(name)
        assert got is not None
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, A)
    np.testing.assert_array_equal(file.get("one"), A[1:2])
    assert file.get("no") is None
    assert file.get("other") is None
    assert [name for name, _ in iter_features(file, ["no", "one", "x", "int"])] == ["one", "int"]


def test_float16_stays_and_double_becomes_single(tmp_path):
    path = tmp_path / "f.safetensors"
    write_feature_file(path, [("a", A.astype(np.float16)), ("b", np.array([1e300, 1.0]))])
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert (header["a"]["dtype"], header["b"]["dtype"]) == ("F16", "F32")
    np.testing.assert_array_equal(FeatureFile(path).get("b"), [[np.inf, 1.0]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([("a", A), ("a", A)], "the id 'a' occurs twice"),
        ([("a", A), ("b", np.zeros((2, 3)))], "'b' is 3 wide, those before it 2"),
        ([("a", np.zeros((2, 2, 2)))], r"'a' is of shape \(2, 2, 2\)"),
        ([("a", np.array([["x"]]))], "expected numbers"),
        ([("__metadata__", A)], "cannot be stored"),
        ([], "no features to write"),
    ],
)
def test_what_cannot_be_written(tmp_path, arrays, message):
    path = tmp_path / "f.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=message):
        write_feature_file(path, arrays)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("row_group_size", [1, 2, 100])
def test_parquet_one_row_an_utterance(tmp_path, row_group_size):
    values = [[[1.0, 2.0], [3.0, None]], [[5.0, 6.0]], [], None, [[7.0, 8.0]]]
    table = pa.table({"id": ["a", "b", "c", "d", "e"], "values": values, "other": [1, 2, 3, 4, 5]})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=row_group_size)
    file = FeatureFile(tmp_path / "f.parquet")
    assert (file.ids, file.width, file.frames("a")) == (("a", "b", "e"), 2, 2)
    for _ in range(2):
        np.testing.assert_array_equal(file.get("a"), [[1, 2], [3, np.nan]])
        np.testing.assert_array_equal(file.get("e"), [[7, 8]])
    assert file.get("c") is None


@pytest.mark.parametrize("row_group_size", [2, 100])
def test_parquet_one_row_a_frame(tmp_path, row_group_size):
    table = pa.table({"id": ["a", "b", "a"], "values": [[1, 2], [3, 4], [5, 6]]})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=row_group_size)
    file = FeatureFile(tmp_path / "f.parquet")
    np.testing.assert_array_equal(file.get("a"), [[1, 2], [5, 6]])
    np.testing.assert_array_equal(file.get("b"), [[3, 4]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a"], "x": [[1.0]]}, "expected the columns id and values; there are: id, x"),
        ({"id": ["a"], "values": [1.0]}, "must hold lists of numbers"),
        ({"id": ["a"], "values": [["x"]]}, "must hold lists of numbers"),
        ({"id": ["a", "b"], "values": [[[1.0]], [[1.0, 2.0]]]}, "'a' is 1 wide and 'b' 2"),
        ({"id": ["a", "a"], "values": [[[1.0]], [[2.0]]]}, "'a' occurs twice"),
        ({"id": ["a", "a"], "values": [[1.0], [2.0, 3.0]]}, "the frames of 'a' are 1 and 2 wide"),
        ({"id": ["a", "b"], "values": [[[], []], None]}, "must hold lists of numbers"),
        ({"id": ["a"], "values": [[]]}, "must hold lists of numbers"),
    ],
)
def test_parquet_that_holds_no_features(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=message):
        FeatureFile(tmp_path / "f.parquet")


def test_parquet_frames_of_several_widths(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "values": [[[1.0, 2.0], [1.0]]]}), tmp_path / "f.parquet")
    with pytest.raises(UserError, match="not all of one width"):
        FeatureFile(tmp_path / "f.parquet").get("a")


def test_what_is_no_feature_file(tmp_path):
    for name, content, message in [
        ("f.npz", b"", "ends in .safetensors or .parquet"),
        ("f.safetensors", b"\xff" * 20, "not a readable safetensors file"),
        ("f.parquet", b"PAR1" * 5, "not a readable Parquet file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            FeatureFile(tmp_path / name)
    with pytest.raises(UserError, match="no such feature file"):
        FeatureFile(tmp_path / "none.safetensors")
    save_file({"a": np.array([True])}, tmp_path / "bool.safetensors")
    with pytest.raises(UserError, match="of type BOOL"):
        FeatureFile(tmp_path / "bool.safetensors")
    save_file({"a": np.zeros((1, 1, 1))}, tmp_path / "deep.safetensors")
    with pytest.raises(UserError, match=r"expected \(T, d\) or \(d,\)"):
        FeatureFile(tmp_path / "deep.safetensors")


@given(data=st.data())
@settings(max_examples=60)
@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_mutated_files_are_refused_or_read(tmp_path_factory, suffix, data):
    path = tmp_path_factory.mktemp("f") / f"f{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"id": ["a", "b"], "values": [A.tolist(), B.tolist()]}), path)
    else:
        save_file({"a": A, "b": B}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        file = FeatureFile(path)
        for name in file.ids:
            got = file.get(name)
            assert got is None or (got.shape, got.dtype) == ((file.frames(name), file.width), np.float32)
    except UserError:
        pass


def test_parquet_with_numbers_for_ids(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": [1, 2], "values": [[[1.0]], [[2.0]]]}), path)
    assert FeatureFile(path).ids == ("1", "2")
    assert FeatureFile(path).get("2").tolist() == [[2.0]]  # type: ignore[union-attr]
