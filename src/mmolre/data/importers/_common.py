"""What every importer ends with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmolre.data.manifest import write_manifest
from mmolre.data.manifest_rows import SUFFIXES
from mmolre.errors import UserError
from mmolre.schema import Utterance


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an importer did.

    Attributes:
        path: the manifest.
        n_rows: utterances in it.
        dropped: what was left out, as (name, reason).
        notes: sentences for the user.
    """

    path: Path
    n_rows: int
    dropped: list[tuple[str, str]]
    notes: list[str]


def check_source(source: Path, expected: str) -> Path:
    """The corpus's folder; a :class:`UserError` that says what is ``expected`` there if it is none."""
    source = Path(source)
    if not source.is_dir():
        raise UserError(f"{source}: {'not a folder' if source.exists() else 'no such folder'}: expected {expected}")
    return source


def finish(
    rows: Sequence[Utterance], source: Path, out: Path, dropped: list[tuple[str, str]], notes: list[str]
) -> ImportSummary:
    """Write the manifest; where audio lies outside its folder, with ``source`` as audio root in the sidecar."""
    out = Path(out)
    path = out if out.suffix.lower() in SUFFIXES else out / "manifest.csv"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: the folder cannot be made: {error.strerror}") from None
    folder = path.parent.resolve()
    beside = all(row.audio.resolve().is_relative_to(folder) for row in rows if row.audio is not None)
    if not beside:
        notes = [
            *notes,
            f"the audio stays in {source}, which {path.name}.json names: where that moves, pass --audio-root",
        ]
    n_rows = write_manifest(path, rows, audio_root=None if beside else source)
    return ImportSummary(path, n_rows, dropped, notes)
