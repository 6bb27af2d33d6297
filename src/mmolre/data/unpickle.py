"""Reads pickles that hold numpy arrays and plain containers, and nothing else; runs no code from them.

A pickle is a program. :mod:`pickle` itself never sees a stranger's one here: what follows is a machine of our own that
knows the opcodes for data alone, and of everything that a pickle may call only those few names that make arrays and
containers; each of them is done here, none is looked up. Anything else is refused by its name.

The file is mapped, not loaded, and arrays are views of the map: a pickle may be larger than the memory. Protocols 0 to
5, Python 2's included; numpy 1's and 2's module paths.
"""

import codecs
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmolre.data.unpickle_calls import (
    CALLS,
    MAX_TEXT,
    Array,
    DamagedError,
    Dtype,
    Global,
    RefusedError,
    Text2,
    as_key,
    filled,
    ordered,
)
from mmolre.errors import UserError

_MAX_STEPS = 100_000_000  # opcodes; CMU-MOSEI word by word takes some millions
_MAX_DIGITS = 64  # bytes of one integer
_COPIES = 1 << 20  # items of containers and bytes that calls make, beyond the file's size
_FORGET_EVERY = 1 << 16  # opcodes
_SMALL = 256  # a shorter buffer is copied: cheaper than a view
_DAMAGES = (
    *(LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError, RecursionError),
    struct.error,
)
"""What a damaged pickle may end in, of Python's own errors."""
_OTHER_FILES = {b"PK\x03\x04": "a zip archive (of torch.save or numpy)", b"\x1f\x8b": "a gzip file: unpack it first"}


class Unpickled:
    """What a pickle holds.

    Attributes:
        value: lists, tuples, dicts (ordered and default ones too), sets, strings, bytes, numbers, ``None`` and numpy
            arrays: read-only views of the file, of kinds b, i, u, f, S, U, or O with such plain things in it.
    """

    def __init__(self, value: Any, mapped: mmap.mmap) -> None:
        self.value = value
        self._mapped = mapped

    def forget_pages(self) -> None:
        """Let go of the parts of the file that reading arrays brought into memory; they come back when needed."""
        forget_pages(self._mapped)


def forget_pages(mapped: mmap.mmap) -> None:
    """Let go of what has been read of a file; nothing is done where the system cannot."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def unpickle(path: Path) -> Unpickled:
    """Read a pickle.

    Raises:
        UserError: no such file; not a pickle or a damaged one; one that asks for anything but arrays and containers.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise UserError(f"{path}: the file is empty, not a pickle") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    for magic, what in _OTHER_FILES.items():
        if mapped[: len(magic)] == magic:
            raise UserError(f"{path}: not a pickle but {what}")
    machine = _Machine(mapped)
    try:
        return Unpickled(machine.run(), mapped)
    except RefusedError as refused:
        raise UserError(
            f"{path}: refused: the pickle asks for {refused}, and only numpy arrays and plain containers are read: "
            "convert it where you trust it"
        ) from None
    except DamagedError as error:
        raise UserError(f"{path}: not a readable pickle: {error} (at byte {machine.at})") from None
    except _DAMAGES as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"{path}: not a readable pickle: damaged at byte {machine.at} ({reason})") from None


class _Machine:
    """The stack, the memo and the opcodes."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self.data, self.view, self.size = mapped, memoryview(mapped), len(mapped)
        self.at = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self) -> Any:
        data, opcodes = self.data, _OPCODES
        for step in range(_MAX_STEPS):
            if step % _FORGET_EVERY == 0:
                forget_pages(data)
            if self.at >= self.size:
                raise DamagedError("it ends too early")
            opcode = data[self.at]
            self.at += 1
            if opcode == 0x2E:  # STOP
                return self._plain(self.stack.pop())
            act = opcodes.get(opcode)
            if act is None:
                raise DamagedError(f"the opcode {opcode:#04x} is none of data")
            act(self)
        raise DamagedError(f"more than {_MAX_STEPS} steps")

    # reading

    def take(self, count: int) -> bytes:
        if count > MAX_TEXT:
            raise DamagedError(f"a text of {count} bytes")
        return bytes(self.part(count))

    def part(self, count: int) -> memoryview:
        start = self.at
        if count > self.size - start:
            raise DamagedError(f"it ends too early: {count} bytes were to come")
        self.at = start + count
        return self.view[start : self.at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.part(count), "little")

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise DamagedError("a line without an end")
        line = self.part(end - self.at)
        self.at += 1
        return bytes(line)

    # the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """What stands above the mark, which goes."""
        items = self.stack
        self.stack = self.below.pop()
        return [self._plain(item) for item in items]

    def pop(self) -> Any:
        return self._plain(self.stack.pop())

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise DamagedError(f"no {kind.__name__} to add to")
        return self.stack[-1]

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Array):
            raise DamagedError("an array that is never filled")
        return value

    def put(self, key: int) -> None:
        value = self.stack[-1]
        if isinstance(value, Array):
            value.keys.append(key)
        self.memo[key] = value

    # text and bytes

    def text(self, count: int) -> None:
        self.push(self.take(count).decode("utf-8", "surrogatepass"))

    def buffer(self, count: int) -> None:
        part = self.part(count)
        self.push(bytes(part) if count <= _SMALL else part)

    def text2(self, raw: memoryview) -> None:
        if len(raw) > MAX_TEXT:
            self.push(raw)
            return
        content = bytes(raw)
        try:
            text = Text2(content.decode())
        except UnicodeDecodeError:
            text = Text2(content.decode("latin-1"))
        text.raw = raw
        self.push(text)

    def quoted(self) -> None:
        line = self.line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
            raise DamagedError("a string without quotes")
        self.text2(memoryview(codecs.escape_decode(line[1:-1])[0]))  # type: ignore[arg-type]

    # containers

    def setitems(self, items: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[as_key(key)] = value

    def additems(self) -> None:
        items = self.marked()
        self.top(set).update(map(as_key, items))

    def extend(self) -> None:
        items = self.marked()
        self.top(list).extend(items)

    def append(self) -> None:
        item = self.pop()
        self.top(list).append(item)

    def setitem(self) -> None:
        value, key = self.pop(), self.pop()
        self.top(dict)[as_key(key)] = value

    def dict_of(self) -> None:
        items = self.marked()
        self.push({})
        self.setitems(items)

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(items[::-1]))

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_one(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self.below.pop()

    # what numpy's pickles call

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):  # lists that hold one another have endless names
            raise DamagedError("a call of what has no name")
        found = Global(f"{module}.{name}")
        if found not in CALLS:
            raise RefusedError(found[:200] if found.isprintable() else ascii(found[:200]))
        self.push(found)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.find(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise DamagedError("a call of what is no function")
        call = CALLS[function]
        if call is None:
            raise RefusedError(f"a call of {function}")
        made = call(*arguments)
        if isinstance(made, list | tuple | set | frozenset | dict | bytes):
            # Each item was in the file once: more are copies of copies.
            self.copied += len(made)
            if self.copied > self.size + _COPIES:
                raise DamagedError("the same things copied again and again")
        self.push(made)

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Array):
            array = filled(state)
            self.stack[-1] = array
            for key in target.keys:
                self.memo[key] = array
        elif isinstance(target, Dtype):
            target.dtype = ordered(target.dtype, state)
        else:
            raise RefusedError("setting the state of an object")

    def refuse(self) -> None:
        what = {0x69: "an instance (INST)", 0x6F: "an instance (OBJ)", 0x81: "an instance", 0x92: "an instance"}
        opcode = self.data[self.at - 1]
        name = ""
        if opcode == 0x69:
            name = f" of {self.line().decode('ascii', 'replace')}.{self.line().decode('ascii', 'replace')}"[:200]
        raise RefusedError(f"{what.get(opcode, 'a persistent or outside object')}{name}")


def _number_line(line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line.rstrip(b"L")[:_MAX_DIGITS])


def _long(machine: _Machine, count: int) -> int:
    if count > _MAX_DIGITS:
        raise DamagedError(f"a number of {count} bytes")
    return int.from_bytes(machine.part(count), "little", signed=True)


def _global(machine: _Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.find(module.decode(), name.decode())


_OPCODES: dict[int, Callable[[_Machine], Any]] = {
    ord(code): act
    for code, act in {
        "\x80": lambda m: m.part(1),
        "\x95": lambda m: m.part(8),
        "(": _Machine.mark,
        "0": _Machine.pop_one,
        "1": lambda m: m.marked(),
        "2": lambda m: m.push(m.stack[-1]),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": lambda m: m.push(_number_line(m.line())),
        "L": lambda m: m.push(_number_line(m.line())),
        "J": lambda m: m.push(_long(m, 4)),
        "K": lambda m: m.push(m.number(1)),
        "M": lambda m: m.push(m.number(2)),
        "\x8a": lambda m: m.push(_long(m, m.number(1))),
        "\x8b": lambda m: m.push(_long(m, m.number(4))),
        "F": lambda m: m.push(float(m.line())),
        "G": lambda m: m.push(struct.unpack(">d", m.part(8))[0]),
        "S": _Machine.quoted,
        "U": lambda m: m.text2(m.part(m.number(1))),
        "T": lambda m: m.text2(m.part(m.number(4))),
        "V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
        "X": lambda m: m.text(m.number(4)),
        "\x8c": lambda m: m.text(m.number(1)),
        "\x8d": lambda m: m.text(m.number(8)),
        "B": lambda m: m.buffer(m.number(4)),
        "C": lambda m: m.buffer(m.number(1)),
        "\x8e": lambda m: m.buffer(m.number(8)),
        "\x96": lambda m: m.buffer(m.number(8)),
        "]": lambda m: m.push([]),
        "a": _Machine.append,
        "e": _Machine.extend,
        "l": lambda m: m.push(m.marked()),
        ")": lambda m: m.push(()),
        "t": lambda m: m.push(tuple(m.marked())),
        "\x85": lambda m: m.tuple_of(1),
        "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3),
        "}": lambda m: m.push({}),
        "d": _Machine.dict_of,
        "s": _Machine.setitem,
        "u": lambda m: m.setitems(m.marked()),
        "\x8f": lambda m: m.push(set()),
        "\x90": _Machine.additems,
        "\x91": lambda m: m.push(frozenset(map(as_key, m.marked()))),
        "p": lambda m: m.put(int(m.line())),
        "q": lambda m: m.put(m.number(1)),
        "r": lambda m: m.put(m.number(4)),
        "\x94": lambda m: m.put(len(m.memo)),
        "g": lambda m: m.push(m.memo[int(m.line())]),
        "h": lambda m: m.push(m.memo[m.number(1)]),
        "j": lambda m: m.push(m.memo[m.number(4)]),
        "c": _global,
        "\x93": _Machine.stack_global,
        "R": _Machine.reduce,
        "b": _Machine.build,
        **dict.fromkeys("ioPQ\x81\x92\x82\x83\x84\x97\x98", _Machine.refuse),
    }.items()
}
