"""The machine that reads pickles of data: everything that pickle writes comes back, nothing else runs."""

import collections
import contextlib
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmolre.data.unpickle import unpickle
from mmolre.errors import UserError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

scalars = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(max_size=9)
keys = st.text(max_size=5) | st.integers(-9, 9) | st.tuples(st.text(max_size=3), st.integers(0, 9))
numbers = st.sampled_from(["<f4", ">f8", "<f2", "<i8", "|u1", ">i2", "|b1", "<U3", "|S4"])
arrays = hnp.arrays(numbers, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
plain = st.recursive(
    scalars | st.binary(max_size=600) | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(keys, max_size=3)
        | st.frozensets(keys, max_size=3)
    ),
    max_leaves=12,
)


def read(folder: Path, content: bytes):
    path = folder / "x.pkl"
    path.write_bytes(content)
    return unpickle(path).value


def read_or_refuse(folder: Path, content: bytes) -> None:
    with contextlib.suppress(UserError):
        read(folder, content)


def same(one, other) -> bool:
    if isinstance(one, np.ndarray):
        if one.dtype.kind == "O":
            return one.shape == other.shape and all(map(same, one.ravel(), other.ravel()))
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and type(one) is type(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    return one == bytes(other) if isinstance(one, bytes) else one == other and type(one) is type(other)


@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
@settings(max_examples=150)
def test_what_pickle_writes_is_read(tmp_path_factory, value, protocol):
    content = pickle.dumps(value, protocol)
    assert same(value, read(tmp_path_factory.mktemp("p"), content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_containers_numbers_and_arrays(tmp_path, protocol):
    array = np.arange(6.0).reshape(2, 3)
    value = {
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, x=[1]),
        "number": np.float32(1.5),
        "text": np.str_("é"),
        "fortran": np.asfortranarray(array),
        "objects": np.array([["a", None], [1, (2, 3)]], dtype=object),
        "lists": np.array([[1, 2], [3]], dtype=object),
        "bytearray": bytearray(b"ab"),
        "twice": [array, array],
    }
    got = read(tmp_path, pickle.dumps(value, protocol))
    assert got["ordered"] == {"b": 1, "a": 2}
    assert got["default"] == {"x": [1]}
    assert (got["number"], got["text"], bytes(got["bytearray"])) == (1.5, "é", b"ab")
    np.testing.assert_array_equal(got["fortran"], array)
    assert got["objects"].tolist() == [["a", None], [1, (2, 3)]]
    assert got["lists"].tolist() == [[1, 2], [3]]
    np.testing.assert_array_equal(got["twice"][0], array)
    assert got["twice"][0] is got["twice"][1]


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_module_paths_of_numpy_1_and_2(tmp_path, core):
    content = pickle.dumps([np.arange(3), np.float64(2)], 2)
    content = content.replace(b"numpy._core", core.encode()).replace(b"numpy.core", core.encode())
    got = read(tmp_path, content)
    assert (got[0].tolist(), got[1]) == ([0, 1, 2], 2.0)


def test_strings_and_arrays_of_python_2(tmp_path):
    # cPickle.dumps({'a\xe9': numpy.arange(2, dtype='<f4')}, 2)
    data = np.arange(2, dtype="<f4").tobytes()
    content = (
        b"\x80\x02}U\x02a\xe9cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + data + b"tbs."
    )
    ((key, array),) = read(tmp_path, content).items()
    assert (key, array.tolist()) == ("aé", [0.0, 1.0])
    assert read(tmp_path, rb"(S'it\'s'" + b"\np1\nS'\\x00'\nI01\nL7L\nF1.5\nl.") == ["it's", "\0", True, 7, 1.5]


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Stateful:
    def __init__(self):
        self.x = 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Evil(os.system, "touch pwned"), "posix.system"),
        (Evil(eval, "open('pwned', 'w')"), r"(builtins|__builtin__).eval"),
        (Evil(getattr, "x", "upper"), r"(builtins|__builtin__).getattr"),
        (Evil(subprocess.Popen, ["touch", "pwned"]), r"(subprocess|commands).Popen"),
        (Evil(np.load, "x.npy"), "numpy.load"),
        (Path("x"), "pathlib.PosixPath"),
        (np.random.default_rng(0), "numpy.random.*"),
        (Stateful(), r"(test_unpickle.Stateful|copy_?reg._reconstructor)"),
        (print, r"(builtins|__builtin__).print"),
        (1j, r"(builtins|__builtin__).complex"),
    ],
)
def test_what_else_a_pickle_asks_for_is_refused_by_name(tmp_path, monkeypatch, value, name, protocol):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"data": [np.arange(3), value]}, protocol)
    with pytest.raises(UserError, match=rf"x.pkl: refused: the pickle asks for {name}, and only numpy arrays"):
        read(tmp_path, content)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x80\x04N", "ends too early"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60), "ends too early"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60), "a text of"),
        (b"\x80\x04r" + struct.pack("<I", 4_000_000_000) + b".", "damaged"),
        (b"\x80\x04\x8b" + struct.pack("<I", 1 << 31), "a number of"),
        (b"\x80\x04ios\nsystem\n.", r"an instance \(INST\) of os.system"),
        (b"\x80\x04(ios\nsystem\n.", r"an instance \(INST\) of os.system"),
        (b"cnumpy\ndtype\n)\x81.", "an instance"),
        (b"Pabc\n.", "a persistent or outside object"),
        (b"cnumpy\nndarray\n)R.", "a call of numpy.ndarray"),
        (b"N)R.", "a call of what is no function"),
        (b"}(]Nu.", "a key of type list"),
        (b"NK", "ends too early"),
        (b"Nb.", "ends too early|damaged"),
        (b"NNb.", "setting the state"),
        (b"cbuiltins\nbytes\nK\x05\x85R.", "bytes made of what are none"),
        (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "bytes made of what are none"),
        (b"cbuiltins\nlist\nX\x02\x00\x00\x00ab\x85R.", "a container made of what is none"),
    ],
)
def test_what_is_no_pickle_of_data(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)


def array_pickle(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\n"
        b"X" + struct.pack("<I", len(dtype)) + dtype + b"\x89\x88\x87R\x89C" + bytes([len(content)]) + content + b"tb."
    )


@pytest.mark.parametrize(
    ("shape", "dtype", "content", "message"),
    [
        (b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"f4", b"abcd", "with 4 bytes"),
        (b"K\x02\x85", b"f4", b"abcd", "with 4 bytes"),
        (b"J\xff\xff\xff\xff\x85", b"f4", b"", "impossible shape"),
        (b"G\x40\x00\x00\x00\x00\x00\x00\x00\x85", b"f4", b"abcdabcd", "impossible shape"),
        (b"J\xff\xff\xff\x7f\x85", b"U0", b"", "with 0 bytes"),
        (b"K\x01\x85", b"U1", b"\xff\xff\xff\xff", "text that is none"),
        (b"K\x01\x85", b"V8", b"abcdabcd", "arrays of type"),
        (b"K\x01\x85", b"M8", b"abcdabcd", "arrays of type"),
        (b"K\x01\x85", b"f3", b"abc", "unknown type"),
        (b"K\x01\x85", b"O8", b"abcdabcd", "array of objects"),
        (b"N", b"f4", b"abcd", "impossible shape"),
    ],
)
def test_absurd_arrays(tmp_path, shape, dtype, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, array_pickle(shape, dtype, content))


def test_deep_nesting_breaks_nothing(tmp_path):
    depth = 200_000
    value = read(tmp_path, b"]" * depth + b"a" * (depth - 1) + b".")
    assert len(value) == 1
    with pytest.raises(UserError, match="a key of type tuple"):
        read(tmp_path, b"})" + b"\x85" * depth + b"Ns.")


@given(data=st.data(), protocol=st.sampled_from(PROTOCOLS))
@settings(max_examples=150)
def test_mutated_pickles_are_refused_or_read(tmp_path_factory, data, protocol):
    value = {
        "a": [(np.arange(6, dtype="f4").reshape(2, 3), np.array(["x"]), "id[0]")],
        "b": {1: 2.5, "c": (None, True)},
    }
    content = bytearray(pickle.dumps(value, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(tmp_path_factory.mktemp("p"), bytes(content))


@given(content=st.lists(st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes]), max_size=40))
@settings(max_examples=150)
def test_any_opcodes(tmp_path_factory, content):
    read_or_refuse(tmp_path_factory.mktemp("p"), b"\x80\x04" + b"".join(content) + b".")


def test_a_large_array_is_mapped_not_loaded(tmp_path):
    path = tmp_path / "large.pkl"
    with path.open("wb") as file:
        pickle.dump({"a": np.ones((64, 1 << 18), np.float32)}, file, 4)  # 64 MiB
    code = (
        "import resource, sys; from pathlib import Path; from mmolre.data.unpickle import unpickle\n"
        "import numpy, mmolre.data.importers\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "u = unpickle(Path(sys.argv[1]))\n"
        "for row in u.value['a']: assert row.sum() == 1 << 18; u.forget_pages()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 16 << 20


@pytest.mark.parametrize("name", ["list", "tuple", "bytes"])
def test_copies_of_copies_are_bounded(tmp_path, name):
    """Six bytes for each copy of a million things."""
    if name == "bytes":
        many = b"B" + struct.pack("<I", 1_000_000) + bytes(1_000_000) + b"q\x000"
    else:
        many = b"]q\x00(" + b"N" * 1_000_000 + b"e0"
    head = b"\x80\x02(" + many + b"cbuiltins\n" + name.encode() + b"\nq\x010"
    path = tmp_path / "p.pkl"
    path.write_bytes(head + 2 * b"h\x01h\x00\x85R" + b"t.")
    assert [len(part) for part in unpickle(path).value] == [1_000_000] * 2
    path.write_bytes(head + 30 * b"h\x01h\x00\x85R" + b"t.")
    with pytest.raises(UserError, match="copied again and again"):
        unpickle(path)


def nested(levels: int) -> bytes:
    """A tuple of the one before twice, so many levels deep: 2^levels items to who writes it out."""
    return b"K\x00" + b"".join(b"\x94h" + bytes([level]) + b"\x86" for level in range(levels))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04" + nested(60) + b"\x8c\x01x\x93.",  # as the module of a name
        b"\x80\x04cnumpy\ndtype\n" + nested(60) + b"\x85R.",  # as a type
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"\x8c\x01x\x93.",
        b"\x80\x04cnumpy\ndtype\n" + b"]" * 100_000 + b"a" * 99_999 + b"\x85R.",
        b"\x80\x04(" + b"K\x00" * 20_000 + b"t\x94}(" + b"h\x00N" * 4_000 + b"u.",  # one long key, 4,000 times
    ],
)
def test_what_has_no_end_when_written_out_is_refused_at_once(tmp_path, content):
    with pytest.raises(UserError, match="not a readable pickle"):
        read(tmp_path, content)
