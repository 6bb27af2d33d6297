"""A folder of recordings, each with its words beside it: ``talk.mp4`` and ``talk.txt`` or ``talk.srt``."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmolre.data.importers._common import MEDIA_SUFFIXES, ImportSummary, check_source, finish
from mmolre.data.subtitles import subtitle_cues
from mmolre.data.text_file import read_text
from mmolre.errors import UserError
from mmolre.schema import Utterance

_EXPECTED = "recordings (wav, flac, mp3, mp4, ...) with their words beside them as .txt or .srt"


def import_folder(sources: Sequence[Path], out: Path) -> ImportSummary:
    """Write the manifest: a recording with ``.srt`` gives an utterance for each cue, else one of the whole.

    Without words beside it, it is an utterance of sound alone. Nothing is labelled; no split. The id is the path below
    the folder without its ending, and the cue's number.

    Raises:
        UserError: no recording in the folder.
    """
    folder = check_source(Path(sources[0]), _EXPECTED)
    rows: dict[str, Utterance] = {}
    dropped: list[tuple[str, str]] = []
    inputs: list[Path] = []
    fleeting: list[str] = []
    files = [path for path in folder.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES and path.is_file()]
    for path in sorted(files, key=lambda path: (MEDIA_SUFFIXES.index(path.suffix.lower()), path)):
        name = path.relative_to(folder).with_suffix("").as_posix().strip()  # as ids are read
        found = list(_utterances(path, name, inputs, fleeting))
        if name in rows or f"{name}#1" in rows or any(row.id in rows for row in found):
            dropped.append((str(path.relative_to(folder)), "another recording has this name"))
            continue
        if not found:
            dropped.append((str(path.relative_to(folder)), "its .srt has no cue with words that lasts"))
        rows |= {row.id: row for row in found}
    if not files:
        raise UserError(f"{folder}: no recording there: expected {_EXPECTED}")
    utterances = sorted(rows.values(), key=lambda row: (row.video_id or "", row.start or 0.0))
    silent = sum(row.text is None for row in utterances)
    notes = [f"{silent} recordings have no words beside them"] if silent else []
    if fleeting:
        notes.append(f"{len(fleeting)} cues end no later than they begin and are left out, e.g. {fleeting[0]}")
    return finish("folder", utterances, out, audio_root=folder, dropped=dropped, notes=notes, inputs=inputs)


def _utterances(path: Path, name: str, inputs: list[Path], fleeting: list[str]) -> Iterator[Utterance]:
    for suffix in (".srt", ".SRT"):
        subtitles = path.with_suffix(suffix)
        if subtitles.is_file():
            inputs.append(subtitles)
            cues = list(subtitle_cues(read_text(subtitles), str(subtitles)))
            fleeting += [f"{cue.text[:40]!r} in {subtitles}" for cue in cues if cue.start >= cue.end]
            lasting = (cue for cue in cues if cue.start < cue.end)
            for number, (start, end, words, _) in enumerate(lasting, 1):
                yield Utterance(
                    f"{name}#{number}", text=words, audio=path, start=start, end=end, cut=True, video_id=name
                )
            return
    words = path.with_suffix(".txt")
    text = None
    if words.is_file():
        inputs.append(words)
        text = " ".join(read_text(words).split()) or None
    yield Utterance(name, text=text, audio=path, video_id=name)
