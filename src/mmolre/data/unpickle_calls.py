"""What a pickle of data may call: the makers of numpy arrays and of plain containers, done here and never looked up."""

import re
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

MAX_TEXT = 1 << 24
"""Bytes of one string that is decoded, not mapped."""

_MAX_PARTS = 16  # of a key
_DTYPE = re.compile(r"[<>=|]?([biufSUO])(\d{0,6})")


class RefusedError(Exception):
    """A name that is not allowed."""


class DamagedError(Exception):
    """What no pickle of data holds."""


class Global(str):
    """A name that a pickle may call; what it does is in CALLS."""

    __slots__ = ()


class Text2(str):
    """A Python 2 ``str``: text to those who read it, bytes to arrays."""

    raw: memoryview


class Dtype:
    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype


class Array:
    """An array between its making and its filling; ``keys`` are where the memo holds it."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys: list[int] = []


def as_key(value: Any) -> Any:
    """A dict's key: nested tuples are refused, for hashing them recurses, and long ones, hashed anew at each use."""
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) > _MAX_PARTS or not all(isinstance(part, str | bytes | int | float | None) for part in parts):
        raise DamagedError(f"a key of type {type(value).__name__}")
    return value


def _dtype(code: Any, *_flags: Any) -> Dtype:
    match = _DTYPE.fullmatch(code) if isinstance(code, str) else None
    if match is None:
        named = ascii(code[:40]) if isinstance(code, str) else f"a {type(code).__name__}"
        raise DamagedError(f"arrays of type {named}: only numbers, text and plain objects are read")
    try:
        return Dtype(np.dtype(str(code)))
    except TypeError:
        raise DamagedError(f"arrays of an unknown type {code!a}") from None


def ordered(dtype: np.dtype, state: Any) -> np.dtype:
    _version, order, subdtype, names, fields, *_ = state
    if subdtype is not None or names is not None or fields is not None or order not in ("<", ">", "=", "|"):
        raise DamagedError("arrays of records: only numbers, text and plain objects are read")
    return dtype.newbyteorder(order)


def filled(state: Any) -> np.ndarray:
    """The array of ``ndarray.__setstate__``'s argument."""
    *_version, shape, dtype, fortran, content = state
    if not isinstance(dtype, Dtype):
        raise DamagedError("an array without a type")
    return _array(content, dtype.dtype, shape, "F" if fortran is True else "C")


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _array(content, dtype.dtype, shape, "F" if order == "F" else "C")


def _array(content: Any, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(shape, tuple) or len(shape) > 16 or not all(type(n) is int and n >= 0 for n in shape):
        raise DamagedError("an array of an impossible shape")
    count = prod(shape)
    if dtype.kind == "O":
        if not isinstance(content, list) or len(content) != count:
            raise DamagedError("an array of objects whose number is not that of its shape")
        array = np.empty(count, object)
        array[:] = content if all(not isinstance(item, list | tuple | np.ndarray) for item in content) else None
        for index, item in enumerate(content):
            array[index] = item
        return array.reshape(shape, order=order)
    content = content.raw if isinstance(content, Text2) else content
    if not isinstance(content, bytes | bytearray | memoryview):
        raise DamagedError("an array without its bytes")
    if count * dtype.itemsize != len(content) or (dtype.itemsize == 0 and count > MAX_TEXT):
        raise DamagedError(f"an array of shape {shape} and type {dtype} with {len(content)} bytes")
    if not len(content):
        return np.zeros(shape, dtype)
    if dtype.kind == "b":
        return (np.frombuffer(content, np.uint8) != 0).reshape(shape, order=order)
    array = np.frombuffer(content, dtype)
    if dtype.kind == "U" and np.frombuffer(content, np.dtype("u4").newbyteorder(dtype.byteorder)).max() > 0x10FFFF:
        raise DamagedError("text that is none")
    return array.reshape(shape, order=order)


def _scalar(dtype: Any, content: Any = None) -> Any:
    if dtype.dtype.kind == "O":
        raise DamagedError("a number that is an object")
    return _array(content, dtype.dtype, (), "C").item()


def _reconstruct(kind: Any, *_rest: Any) -> Array:
    if kind not in _ARRAY_TYPES:
        raise DamagedError("an array of an unknown kind")
    return Array()


def _collect(make: Callable[[Any], Any]) -> Callable[..., Any]:
    def call(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple | set | frozenset):
            raise DamagedError("a container made of what is none")
        return make(items)

    return call


def _bytes(content: Any = b"", encoding: Any = "latin-1") -> bytes:
    if isinstance(content, str) and encoding in ("latin-1", "latin1"):
        return content.encode("latin-1")
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise DamagedError("bytes made of what are none")


def _dict(items: Any = ()) -> dict[Any, Any]:
    return {as_key(key): value for key, value in items}


_ARRAY_TYPES = ("numpy.ndarray", "numpy.memmap", "numpy.core.memmap.memmap", "numpy._core.memmap.memmap")

CALLS: dict[str, Callable[..., Any] | None] = dict.fromkeys(_ARRAY_TYPES)
CALLS |= {
    f"numpy.{core}.{name}": call
    for core in ("core", "_core")
    for name, call in {
        "multiarray._reconstruct": _reconstruct,
        "multiarray.scalar": _scalar,
        "numeric._frombuffer": _from_buffer,
    }.items()
}
CALLS |= {
    f"{module}.{name}": call
    for module in ("builtins", "__builtin__")
    for name, call in {
        "list": _collect(list),
        "tuple": _collect(tuple),
        "set": _collect(lambda items: set(map(as_key, items))),
        "frozenset": _collect(lambda items: frozenset(map(as_key, items))),
        "dict": _dict,
        "bytes": _bytes,
        "bytearray": _bytes,
        "int": None,  # as a default dict's factory
        "float": None,
    }.items()
}
CALLS |= {
    "numpy.dtype": _dtype,
    "_codecs.encode": _bytes,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda factory=None: {},
}
