"""One cell of a manifest: from whatever the file holds to a string, a number, a label or a split.

Each function takes the cell's value and ``where`` (``file:row``), and raises :class:`UserError` naming it.
"""

import math
from typing import Any

from mmolre.errors import UserError
from mmolre.schema import EMOTION_RANGE, EMOTIONS, SENTIMENT_RANGE, SPLITS

SPLIT_ALIASES = {"training": "train", "val": "valid", "dev": "valid", "validation": "valid"}
"""Other corpora's names of the splits; upper and lower case are the same."""

LABEL_RANGES = {"sentiment": SENTIMENT_RANGE} | dict.fromkeys(EMOTIONS, EMOTION_RANGE)

_BLANK = frozenset(("", "nan", "-nan", "null", "none", "na", "n/a", "<na>"))
_OVERSHOOT = 1e-6  # a label stored as float32, or averaged, may pass its range by rounding


def as_string(value: Any, column: str, where: str) -> str | None:
    """A stripped string, ``None`` where blank (or a float NaN, which data frames hold for it). Integers become text.

    Words such as "None" are text here: people say them.
    """
    if value is None:
        return None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value  # a frame with one gap turns its integers into floats
    elif isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: {column} must be text, not {_kind(value)}")
    text = str(value).strip()
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: {column} holds half a character (a lone surrogate): write it anew") from None
    return text or None


def as_number(value: Any, column: str, where: str) -> float | None:
    """A finite or infinite float; ``None`` where blank (also nan, null, none, na in any case)."""
    if value is None:
        return None
    if isinstance(value, str):
        value = value.strip()
        if value.casefold() in _BLANK:
            return None
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):  # which float() would take
            raise ValueError
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        shown = repr(value[:40]) if isinstance(value, str) else _kind(value)
        raise UserError(f"{where}: {column} is {shown}, not a number (leave it blank where unknown)") from None
    return None if math.isnan(number) else number


def as_seconds(value: Any, column: str, where: str) -> float | None:
    """A finite time in seconds, possibly negative; ``None`` where blank."""
    number = as_number(value, column, where)
    if number is not None and math.isinf(number):
        raise UserError(f"{where}: {column} is infinite: give seconds, or leave it blank")
    return number


def as_label(value: Any, column: str, where: str) -> float | None:
    """A label within its range (overshoot by rounding, up to 1e-6, is cut off); ``None`` where not labelled."""
    number = as_number(value, column, where)
    if number is None:
        return None
    low, high = LABEL_RANGES[column]
    if not low - _OVERSHOOT <= number <= high + _OVERSHOOT:
        raise UserError(
            f"{where}: {column} is {number:g}, outside [{low:g}, {high:g}]: rescale it, or leave it blank where unknown"
        )
    return min(max(number, low), high)


def as_split(value: Any, where: str) -> str | None:
    """One of ``train``, ``valid``, ``test`` (see :data:`SPLIT_ALIASES`); ``None`` where blank."""
    name = as_string(value, "split", where)
    if name is None or name.casefold() in _BLANK:
        return None
    split = SPLIT_ALIASES.get(name.casefold(), name.casefold())
    if split not in SPLITS:
        raise UserError(f"{where}: the split {name!r} is unknown: use {', '.join(SPLITS)}, or leave it blank")
    return split


def _kind(value: Any) -> str:
    """In words; a container is not shown, for one that holds another many times over has no end."""
    name = type(value).__name__
    if known := {"dict": "an object", "list": "a list", "bool": "true or false"}.get(name):
        return known
    return f"a {name}" if hasattr(value, "__len__") and not isinstance(value, str | bytes) else str(value)[:40]
