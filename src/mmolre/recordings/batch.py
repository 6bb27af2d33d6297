"""Many recordings: each into a folder of its own, an overview of all; what is done already is not done again."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmolre.data.importers._common import MEDIA_SUFFIXES
from mmolre.errors import UserError
from mmolre.files import write_text
from mmolre.recordings.analysis import SOUND, TIMELINE, Analyzer, Progress, digest_of, is_ours, refuse_foreign
from mmolre.recordings.timeline import Timeline, read_timeline
from mmolre.recordings.transcript_file import FORMATS

OVERVIEW = "index.html"

SUFFIXES = (*MEDIA_SUFFIXES, ".aac", ".aif", ".aiff", ".m4v", ".mpg", ".mpeg", ".wma", ".wmv", ".3gp", ".flv", ".mts")
"""What is taken for a recording in a folder; a file that is named may end in anything."""


@dataclass(frozen=True, slots=True)
class Result:
    """One recording of several.

    Attributes:
        path: of the recording.
        folder: its analysis lies here.
        timeline: ``None`` where it failed.
        failure: why, in one line.
        again: whether it was there already.
        without: whether it has no transcript in the folder that was given for all.
    """

    path: Path
    folder: Path
    timeline: Timeline | None
    failure: str | None = None
    again: bool = False
    without: bool = False


def find_recordings(paths: Sequence[Path]) -> list[Path]:
    """The files, and of folders all media files below them; each once, by whatever paths it is given.

    Raises:
        UserError: a folder without any.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("[!.]*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
            # What an analysis has written is none of them.
            inside = [p for p in inside if not (p.name == SOUND and p.with_name(TIMELINE).exists())]
            if not inside:
                raise UserError(f"{path}: no recording in this folder ({', '.join(SUFFIXES)})")
        else:
            inside = [path]
        for file in inside:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def find_transcript(recording: Path, folder: Path) -> Path | None:
    """The recording's transcript in the folder, if there is one; capitals matter only where two names differ by them.

    Of ``talk.srt``, ``talk.mp4.srt`` and ``talk.en.srt`` the first that is there, by :data:`FORMATS` first of all; of
    several languages English, which is what is read, else the first.
    """
    files = [path for path in sorted(folder.iterdir(), reverse=True) if path.is_file()]
    there = {path.name.casefold(): path for path in files} | {path.name: path for path in files}
    for suffix in FORMATS:
        tongue = re.compile(re.escape(recording.stem.casefold()) + r"\.([a-z]{2})" + re.escape(suffix))
        named = sorted((name for name in there if tongue.fullmatch(name)), key=lambda n: (".en." not in n, n))
        for name in (f"{recording.stem}{suffix}", f"{recording.name}{suffix}", *named):
            if path := there.get(name) or there.get(name.casefold()):
                return path
    return None


def analyze_all(
    analyzer: Analyzer,
    recordings: Sequence[Path],
    out: Path,
    *,
    transcripts: Path | None = None,
    progress: Callable[[int, Path], Progress] = lambda *_: lambda *_: None,
    finished: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Analyse each; one that fails stops nothing. The overview shows all that ``out`` holds.

    Args:
        out: gets a folder for each recording, named as it is, and the overview ``index.html``.
        transcripts: a folder with files of the recordings' names.
        progress: called with a recording's number and path; gives what is told of its progress.
        finished: called with each result.

    Raises:
        UserError: ``out`` cannot be written, or holds another ``index.html``, or ``transcripts`` is no folder.
    """
    from mmolre.recordings.overview import MARK

    if not is_ours(out / OVERVIEW, MARK):
        refuse_foreign([out / OVERVIEW])
    if transcripts is not None and not transcripts.is_dir():
        raise UserError(f"{transcripts} is not a folder: of several recordings, give one with a transcript for each")

    results: list[Result] = []
    taken: set[Path] = set()
    try:
        for number, path in enumerate(recordings):
            folder = out / path.name
            try:
                transcript = find_transcript(path, transcripts) if transcripts else None
                folder = _folder(out, path, taken)
                taken.add(folder)
                kept = analyzer.done(path, transcript, folder)
                timeline = kept or analyzer.analyze(path, transcript, folder, progress(number, path))
                without = transcripts is not None and transcript is None
                result = Result(path, folder, timeline, again=kept is not None, without=without)
            except Exception as error:  # whatever a codec or a transcriber raises
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                result = Result(path, folder, None, reason.removeprefix(f"{path}: "))
            results.append(result)
            finished(result)
    finally:  # also of what was done until Ctrl-C
        _write_overview(out, results)
    return results


def _write_overview(out: Path, results: Sequence[Result]) -> None:
    from mmolre.recordings.overview import render_overview

    shown = {r.folder: r.timeline for r in results if r.timeline}
    for folder in sorted(out.iterdir()) if out.is_dir() else []:
        if folder not in shown and (timeline := read_timeline(folder / TIMELINE)):
            shown[folder] = timeline
    failed = [(r.path.name, r.failure or "") for r in results if r.failure]
    if shown or failed:
        write_text(out / OVERVIEW, render_overview({f.name: t for f, t in shown.items()}, failed))


def _folder(out: Path, path: Path, taken: set[Path]) -> Path:
    """Where its analysis is or will be: another file of the same name, from another folder, gets a number."""
    source = digest_of(path)
    number = 1
    while True:
        folder = out / (path.name if number == 1 else f"{path.name}-{number}")
        kept = read_timeline(folder / TIMELINE)
        if folder not in taken and (kept is None or kept.source == source):
            return folder
        number += 1
