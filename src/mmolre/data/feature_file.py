"""Ready-made features: one file holds, for each utterance id, an array (T, d) of one width d (ours).

Two formats, known by their endings:

- ``.safetensors``: one tensor per id, (T, d), or (d,), which is T = 1; floats or integers.
- ``.parquet``: a column ``id``, and a column ``values`` that holds list<list<number>> (one row an utterance) or
  list<number> (one row a frame: all rows of an id, in the file's order, are its frames). Read by row groups: write
  them small (some thousand rows) where the file is large.

An id that the file does not hold, or holds with T = 0, has no such modality.
"""

import json
import shutil
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmolre.errors import UserError
from mmolre.files import replacing

SUFFIXES = (".safetensors", ".parquet")
_RESERVED = "__metadata__"  # safetensors keeps this name for itself
_TYPES = {"float16": "F16", "float32": "F32"}
_ROW_GROUPS_KEPT = 2
_PARQUET_BATCH = 256


class _Store(Protocol):
    shapes: dict[str, tuple[int, int]]

    def read(self, utterance_id: str) -> np.ndarray: ...


class FeatureFile:
    """Arrays by utterance id, read when asked for.

    Attributes:
        path: the file.
        ids: those with at least one frame, in the file's order.
        width: d.

    Raises:
        UserError: no such file, an unknown ending, a damaged file, arrays of several widths or that are no numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path}: a feature file ends in {' or '.join(SUFFIXES)}")
        if not self.path.is_file():
            raise UserError(f"{path}: no such feature file")
        opened = _Safetensors if self.path.suffix.lower() == ".safetensors" else _Parquet
        self._store: _Store = opened(self.path)
        shapes = self._store.shapes
        self.ids = tuple(name for name, (frames, _) in shapes.items() if frames)
        self._held = frozenset(self.ids)
        widths = {shapes[name][1]: name for name in self.ids}
        if len(widths) > 1:
            (one, first), (other, second) = list(widths.items())[:2]
            raise UserError(
                f"{path}: {first!r} is {one} wide and {second!r} {other}: all arrays of a file must be of one width"
            )
        if not widths or 0 in widths:
            raise UserError(f"{path}: no features in it: expected arrays (T, d) by utterance id")
        (self.width,) = widths

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._held

    def __len__(self) -> int:
        return len(self.ids)

    def frames(self, utterance_id: str) -> int:
        """T, without reading the array; 0 where absent."""
        return self._store.shapes[utterance_id][0] if utterance_id in self._held else 0

    def get(self, utterance_id: str) -> np.ndarray | None:
        """The utterance's features, (T, d) float32, as the file holds them (NaN and inf included); ``None``: absent."""
        if utterance_id not in self._held:
            return None
        array = self._store.read(utterance_id)
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 is inf, to be expected in features anyway
            return array.reshape(-1, self.width).astype(np.float32, copy=False)


class _Safetensors:
    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self._path, self._error = path, SafetensorError
        try:
            # Not closed by hand: it is a memory map, gone with the object.
            self._file: Any = safe_open(path, framework="numpy")
            names = self._file.keys()
            found = ((name, self._file.get_slice(name)) for name in names)
            self.shapes = {name: self._shape(name, part.get_shape(), part.get_dtype()) for name, part in found}
        except (SafetensorError, OSError, OverflowError, ValueError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({_one_line(error)})") from None

    def _shape(self, name: str, shape: list[int], dtype: str) -> tuple[int, int]:
        if dtype not in {"F16", "F32", "F64"} and dtype[:1] not in {"I", "U"}:
            raise UserError(f"{self._path}: {name!r} is of type {dtype}: expected floats or integers")
        if not 1 <= len(shape) <= 2:
            raise UserError(f"{self._path}: {name!r} has the shape {tuple(shape)}: expected (T, d) or (d,)")
        return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])

    def read(self, utterance_id: str) -> np.ndarray:
        try:
            return self._file.get_tensor(utterance_id)
        except (self._error, OSError) as error:
            raise UserError(f"{self._path}: {utterance_id!r} cannot be read ({_one_line(error)})") from None


class _Parquet:
    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path, self._errors = path, (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)
        self._rows: dict[str, list[tuple[int, int]]] = {}  # id -> (row group, row in it)
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self.shapes: dict[str, tuple[int, int]] = {}
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
            self._check(self._file.schema_arrow, pa)
            for group in range(self._file.num_row_groups):
                self._index(group)
        except self._errors as error:
            raise UserError(f"{path}: not a readable Parquet file ({_one_line(error)})") from None

    def _check(self, schema: Any, pa: Any) -> None:
        if not {"id", "values"} <= set(schema.names):
            raise UserError(f"{self._path}: expected the columns id and values; there are: {', '.join(schema.names)}")
        kind, depth = schema.field("values").type, 0
        while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind, depth = kind.value_type, depth + 1
        if depth not in {1, 2} or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise UserError(f"{self._path}: the column values must hold lists of numbers, not {kind}")
        self._depth = depth

    def _index(self, group: int) -> None:
        import pyarrow.compute as pc

        row = 0
        for batch in self._file.iter_batches(_PARQUET_BATCH, row_groups=[group], use_threads=False):
            ids, values = batch.column("id").to_pylist(), batch.column("values")
            lengths = pc.call_function("list_value_length", [values]).to_pylist()
            for name, length, value in zip(ids, lengths, values, strict=True):
                if isinstance(name, int):  # as manifests' ids, which are text, too
                    name = str(name)
                if isinstance(name, str) and length:
                    self._add(name, group, row, length, value)
                row += 1

    def _add(self, name: str, group: int, row: int, length: int, value: Any) -> None:
        if self._depth == 1:
            frames, width = 1, length
        else:
            frames, width = length, len(value[0]) if value[0].is_valid else 0
        rows = self._rows.setdefault(name, [])
        if rows and self._depth == 2:
            raise UserError(f"{self._path}: the id {name!r} occurs twice")
        if rows and self.shapes[name][1] != width:
            raise UserError(f"{self._path}: the frames of {name!r} are {self.shapes[name][1]} and {width} wide")
        rows.append((group, row))
        self.shapes[name] = (self.shapes.get(name, (0, 0))[0] + frames, width)

    def _group(self, number: int) -> Any:
        if number not in self._groups:
            while len(self._groups) >= _ROW_GROUPS_KEPT:
                self._groups.popitem(last=False)
            self._groups[number] = self._file.read_row_group(number, columns=["values"], use_threads=False)["values"]
        self._groups.move_to_end(number)
        return self._groups[number]

    def read(self, utterance_id: str) -> np.ndarray:
        try:
            rows = [self._group(group)[row].as_py() for group, row in self._rows[utterance_id]]
        except self._errors as error:
            raise UserError(f"{self._path}: {utterance_id!r} cannot be read ({_one_line(error)})") from None
        try:
            array = np.array(rows if self._depth == 1 else rows[0], dtype=np.float64)  # a null is NaN
        except (TypeError, ValueError, IndexError):
            array = np.empty(0)
        if array.shape != self.shapes[utterance_id]:
            raise UserError(f"{self._path}: the frames of {utterance_id!r} are not all of one width")
        return array


def write_feature_file(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> int:
    """Write ``(id, (T, d) or (d,))`` pairs as safetensors, one at a time in memory; return how many.

    float16 stays, all else becomes float32. An array without frames is left out: that utterance has no such modality.

    Raises:
        UserError: an id twice, arrays of several widths, no array at all, a file that cannot be written; then ``path``
            is as it was.
    """
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"{path}: features are written as .safetensors")
    with replacing(path) as beside, tempfile.TemporaryFile(dir=path.parent) as data:
        header = _write_data(path, arrays, data)
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format wants its data aligned
        with beside.open("wb") as file:
            file.write(struct.pack("<Q", len(text)))
            file.write(text)
            data.seek(0)
            shutil.copyfileobj(data, file, 1 << 20)
    return len(header)


def _write_data(path: Path, arrays: Iterable[tuple[str, np.ndarray]], data: Any) -> dict[str, Any]:
    header: dict[str, Any] = {}
    offset, width = 0, None
    for name, array in arrays:
        array = np.asarray(array)
        if array.ndim == 1:
            array = array[None]
        if array.ndim != 2 or array.dtype.kind not in "fiub":
            raise UserError(f"{path}: {name!r} is of shape {array.shape}, type {array.dtype}: expected numbers (T, d)")
        if not array.size:
            continue
        if name in header or name == _RESERVED:
            raise UserError(f"{path}: the id {name!r} {'occurs twice' if name in header else 'cannot be stored'}")
        width = width or array.shape[1]
        if array.shape[1] != width:
            raise UserError(f"{path}: {name!r} is {array.shape[1]} wide, those before it {width}")
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.ascontiguousarray(array, np.float16 if array.dtype == np.float16 else np.float32)
        data.write(array.data)
        header[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    if not header:
        raise UserError(f"{path}: no features to write")
    return header


def iter_features(file: FeatureFile, ids: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Those of ``ids`` that the file holds, with their arrays."""
    for name in ids:
        array = file.get(name)
        if array is not None:
            yield name, array


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
