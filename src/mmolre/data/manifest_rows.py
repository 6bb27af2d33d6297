"""The raw rows of a manifest file: CSV, JSONL or Parquet in, plain dicts out, one at a time.

Nothing is interpreted here; :mod:`mmolre.data.manifest` does that. Row numbers are those a person finds the row by:
a CSV file's record as a spreadsheet numbers it (the header is row 1), a JSONL file's line, a Parquet file's record
from 1.
"""

import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmolre.errors import UserError

SUFFIXES = (".csv", ".jsonl", ".parquet")
"""The formats of a manifest, known by these endings (any case)."""

_PARQUET_BATCH = 1024
csv.field_size_limit(2**24)
"""Characters of one cell: what one imports as the words of a long recording is to be read again."""

Row = tuple[int, dict[str, Any]]


def check_suffix(path: Path) -> str:
    """The manifest's ending in lower case, one of :data:`SUFFIXES`; else a :class:`UserError`."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: a manifest ends in {', '.join(SUFFIXES)}")
    return suffix


def iter_rows(path: Path, wanted: Collection[str], delimiter: str = ",", encoding: str = "utf-8-sig") -> Iterator[Row]:
    """Yield ``(row number, {column: value})`` of the file, streamed in bounded memory; blank lines are passed over.

    Every column appears as a key; of a Parquet file only the ``wanted`` columns are read, the others hold ``None``.
    CSV values are strings, the others what the format holds.

    Args:
        delimiter, encoding: of a CSV file.

    Raises:
        UserError: the file cannot be read, or is not what its ending says.
    """
    suffix = check_suffix(path)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UserError(f"the delimiter is one character, such as ; or a tab, and not {delimiter!r}")
    row = 0
    try:
        if suffix == ".csv":
            rows = _csv_rows(path, delimiter, encoding)
        else:
            rows = _jsonl_rows(path) if suffix == ".jsonl" else _parquet_rows(path, wanted)
        for row, values in rows:
            yield row, values
    except UnicodeError:
        chosen = suffix == ".csv" and encoding != "utf-8-sig"
        name, mend = encoding if chosen else "UTF-8", "save the file as UTF-8"
        if suffix == ".csv":
            mend += ", or import it by `mmolre import csv --encoding NAME`"
        raise UserError(f"{path}: not {name} text after row {row}: {mend}") from None
    except LookupError:
        raise UserError(f"there is no encoding {encoding!r}; common are utf-8, cp1252, gbk") from None
    except OSError as error:  # also what pyarrow raises for a damaged page
        raise UserError(f"{path}: cannot be read: {error.strerror or _one_line(error)}") from None


def _csv_rows(path: Path, delimiter: str, encoding: str) -> Iterator[Row]:
    # utf-8-sig: spreadsheets write a byte order mark. strict: else an unclosed quote swallows the rest of the file.
    with path.open(encoding=encoding, newline="") as file:
        records = csv.reader(file, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        number = 0
        try:
            for number, record in enumerate(records, 1):
                if not any(record):
                    continue
                if header is None:
                    header = [name.strip() for name in record]
                    _check_header(path, header, delimiter)
                elif len(record) != len(header):
                    raise UserError(
                        f"{path}:{number}: {len(record)} fields, but the header has {len(header)}: "
                        'put text that holds commas or line breaks in "quotes"'
                    )
                else:
                    yield number, dict(zip(header, record, strict=True))
        except csv.Error as error:
            raise UserError(f"{path}:{number + 1}: not valid CSV ({error}): look for an unclosed quote") from None


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    _check_twice(f"{path}:1", header)
    if delimiter == "," and len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        mend = "save the file as comma-separated CSV, or import it by `mmolre import csv --delimiter CHARACTER`"
        raise UserError(f"{path}:1: the columns must be separated by commas: {mend}")


def _check_twice(where: Path | str, names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if twice:
        raise UserError(f"{where}: the column {twice[0]!r} occurs twice: rename or remove one")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return found


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line, object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not a line of JSON ({_one_line(error)})") from None
            if not isinstance(values, dict):
                raise UserError(f'{path}:{number}: one JSON object a line is needed, as {{"id": "a1", "text": "…"}}')
            yield number, values


def _parquet_rows(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_twice(path, names)
            unread = dict.fromkeys(name for name in names if name not in wanted)
            number = 0
            read = [name for name in names if name in wanted]
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH, columns=read, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield number, unread | values
    except UserError:
        raise
    except (pa.ArrowException, OverflowError, ValueError) as error:  # the latter: a time that no calendar has
        raise UserError(f"{path}: not a readable Parquet file ({_one_line(error)})") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
