"""The command's work: bars while it goes on, a few lines at the end."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from mmolre import terminal
from mmolre.errors import UserError
from mmolre.recordings.analysis import REPORT, TIMELINE, Analyzer
from mmolre.recordings.batch import OVERVIEW, Result, analyze_all, find_recordings
from mmolre.recordings.summary import disagreements, mood, signed, strongest, summarise
from mmolre.recordings.timeline import NOT_ENOUGH, Timeline
from mmolre.recordings.words import clock

FAILED = 3
"""Exit code where some of several recordings failed."""

_WIDTH = 56


def run(
    paths: list[Path], transcript: Path | None, out: Path | None, model: str | None, transcriber: str, json: bool
) -> int:
    """Do it, and tell; the exit code.

    Raises:
        UserError: nothing at all could be analysed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for predictions: threads that wait do not spin
    several = len(paths) > 1 or paths[0].is_dir()
    analyzer = Analyzer(model, transcriber)
    with terminal.quiet_warnings():
        if several:
            return _many(analyzer, paths, transcript, out or Path("analysis"), json)
        path = paths[0]
        if transcript is not None and transcript.is_dir():
            raise UserError(f"{transcript} is a folder: for one recording give a file as --transcript")
        out = out or Path(f"{path.name}-analysis")
        kept = analyzer.done(path, transcript, out) if path.is_file() and (out / TIMELINE).is_file() else None
        with _bar() as bar:
            timeline = kept or analyzer.analyze(path, transcript, out, bar(path.name))
    if json:
        terminal.print_json(timeline.to_json())
        return 0
    if kept:
        terminal.note(f"analysed before, nothing to do; delete {out / TIMELINE} to do it again")
    _tell(timeline)
    terminal.plain(f"report: {out / REPORT}")
    return 0


def _many(analyzer: Analyzer, paths: list[Path], transcript: Path | None, out: Path, json: bool) -> int:
    recordings = find_recordings(paths)
    with _bar() as bar:

        def finished(result: Result) -> None:
            if result.timeline is None:
                terminal.note(f"{result.path.name}: {result.failure}")
            elif json:
                terminal.print_json(result.timeline.to_json())
            else:
                again = " (analysed before)" if result.again else ""
                terminal.plain(f"{result.path.name}: {_in_short(result.timeline)}{again}")
                for note in result.timeline.notes:
                    terminal.note(f"{result.path.name}: note: {note}")
            if result.without and result.timeline is not None:
                terminal.note(f"{result.path.name}: no transcript of this name in {transcript}; transcribed")

        results = analyze_all(
            analyzer,
            recordings,
            out,
            transcripts=transcript,
            progress=lambda n, path: bar(f"{n + 1} of {len(recordings)}: {path.name}"),
            finished=finished,
        )
    failed = sum(r.timeline is None for r in results)
    terminal.note(f"{len(results) - failed} of {len(results)} analysed; overview: {out / OVERVIEW}")
    return 0 if not failed else FAILED if failed < len(results) else 2


@contextmanager
def _bar() -> Iterator[Callable[[str], Callable[[str, float], None]]]:
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=terminal.err,
        transient=True,
        disable=not terminal.err.is_terminal,
    ) as bars:

        def start(title: str) -> Callable[[str, float], None]:
            short = title if len(title) <= 24 else title[:23] + "…"
            task = bars.add_task(short, total=1.0)

            def update(what: str, share: float) -> None:
                bars.update(task, completed=share, description=f"{short}, {what}", visible=share < 1)

            return update

        yield start


def _in_short(t: Timeline) -> str:
    if not t.speech_found:
        return f"no speech found in {clock(t.seconds)}"
    s = summarise(t.moments)
    if s.unscored:
        enough = f" ({clock(s.seconds)}) for a score of the whole" if s.unscored == NOT_ENOUGH else ""
        return s.unscored + enough
    sentiment = "" if s.sentiment is None else f"{mood(s.sentiment)} {signed(s.sentiment)}; "
    return f"{sentiment}{s.likeliest(2)}; {len(t.moments)} utterances in {clock(t.seconds)}"


def _tell(t: Timeline) -> None:
    terminal.plain(f"{t.recording}: {_in_short(t)}")
    for note in t.notes:
        terminal.note(f"note: {note}")
    for title, found in (
        ("most positive", strongest(t, 1)[:2]),
        ("most negative", strongest(t, -1)[:2]),
        ("words and voice disagree", disagreements(t)[:2]),
    ):
        for m in found:
            text = m.text if len(m.text) <= _WIDTH else m.text[: _WIDTH - 1] + "…"
            sentiment = "" if m.sentiment is None else f" {signed(m.sentiment)}"
            terminal.plain(f"  {title}: {clock(m.start)}{sentiment} {text}")
