"""Where a manifest comes from: a JSON file beside it that names every input by its hash and says what was left out."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mmolre
from mmolre.errors import UserError
from mmolre.files import write_text
from mmolre.schema import EMOTIONS, SPLITS, Utterance


def provenance_path(manifest: Path) -> Path:
    """``provenance.json`` beside ``manifest.csv``; ``m.provenance.json`` beside ``m.csv``."""
    name = "provenance.json" if manifest.stem == "manifest" else f"{manifest.stem}.provenance.json"
    return manifest.with_name(name)


def write_provenance(
    manifest: Path,
    *,
    source: str,
    inputs: Iterable[Path],
    features: Mapping[str, Path],
    rows: Sequence[Utterance],
    dropped: Sequence[tuple[str, str]] = (),
    conflicts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write it and return its path.

    Args:
        source: the importer, or ``merge``.
        inputs: the files that were read, hashed here; media are counted by the manifest, not hashed.
        dropped: what was left out, as (name, reason).
        conflicts: what two sources say differently, as (name, what).
        options: what the user chose.

    Raises:
        UserError: a file that cannot be read or written.
    """
    content = {
        "source": source,
        "mmolre": mmolre.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": {name: _plain(value) for name, value in (options or {}).items()},
        "inputs": [described(path) for path in inputs],
        "outputs": [described(path) for path in (manifest, *features.values())],
        "rows": len(rows),
        "splits": {split or "none": sum(row.split == split for row in rows) for split in (*SPLITS, None)},
        "with": {
            "text": sum(row.text is not None for row in rows),
            "audio": sum(row.audio is not None for row in rows),
            "sentiment": sum(row.sentiment is not None for row in rows),
            **{name: sum(row.emotions[i] is not None for row in rows) for i, name in enumerate(EMOTIONS)},
        },
        "dropped": {"total": len(dropped), "reasons": dict(Counter(reason for _, reason in dropped))},
        "dropped_rows": [{"name": name, "reason": reason} for name, reason in dropped],
        "conflicts": [{"name": name, "what": what} for name, what in conflicts],
        "notes": list(notes),
    }
    path = provenance_path(manifest)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    # A name that is no UTF-8 has half characters in it, which are escaped so that JSON gives them back.
    write_text(path, text.encode("utf-8", "backslashreplace").decode())
    return path


def described(path: Path) -> dict[str, Any]:
    """A file's name, size in bytes and sha256."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)
