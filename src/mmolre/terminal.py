"""What people see in a terminal: tables, progress, and the end of a job with failed rows."""

from __future__ import annotations

import json
import signal
import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # these import torch, and not every command needs it
    from mmolre.data.dataset import FailedRow
    from mmolre.predictor import Prediction
    from mmolre.train.loop import Progress as TrainingProgress
    from mmolre.train.run import Callbacks


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with code 1, as if something were wrong


out = _Console(highlight=False, soft_wrap=False)
"""Results."""
err = _Console(stderr=True, highlight=False)
"""Everything that is not a result."""

SHOWN_FAILURES = 5
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def _tame(line: str, style: str = "") -> Text:
    """What comes from outside may not steer the terminal."""
    return Text("".join(_UNKNOWN if _is_control(char) else char for char in line), style=style)


def _is_control(char: str) -> bool:
    return unicodedata.category(char) == "Cc" and char not in "\t\n"


def plain(line: str) -> None:
    """A line of results just as it is: no markup, no wrapping."""
    out.print(_tame(line), soft_wrap=True)


def hanging(line: str, indent: int) -> None:
    """A line of results in as many as the terminal is wide, all but the first indented."""
    if len(line) > out.width:
        line = textwrap.fill(line, out.width, subsequent_indent=" " * indent, break_on_hyphens=False)
    plain(line)


def note(line: str) -> None:
    """A line for the person, on stderr, just as it is."""
    err.print(_tame(line), soft_wrap=True)


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Warnings as one plain line each, without Python's file and line; the same one once."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        # Python's own memory of what was shown is forgotten wherever a library changes the filters.
        if (line := f"warning: {message}") not in shown:
            shown.add(line)
            note(line)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def prediction_table(predictions: Sequence[tuple[str, Prediction | None]]) -> Table:
    """Titles and predictions as a table that fits 80 columns; emotions that are present are bold.

    A title without a prediction is a heading of those below it.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("sentiment", justify="right", no_wrap=True)
    names = next((list(p.emotions) for _, p in predictions if p is not None), [])
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    if names:
        table.add_column("top", no_wrap=True)
    for title, p in predictions:
        if p is None:
            table.add_row(_tame(title, "bold"))
            continue
        cells = [Text(f"{p.emotions[n]:.2f}", style="bold" if n in p.present else "dim") for n in names]
        sentiment = Text("-" if p.sentiment is None else f"{p.sentiment:+.2f}", style="bold")
        table.add_row(_tame(title), sentiment, *cells, *([Text(p.top or "none")] if names else []))
    return table


@contextmanager
def encoding_progress() -> Iterator[Any]:
    """A progress bar per modality, for :func:`mmolre.encoders.extract.extract`."""
    with _bars() as bars:
        yield _counting_bars(bars, "encoding")


def _counting_bars(bars: Progress, doing: str) -> Callable[[str, int, int], None]:
    tasks: dict[str, Any] = {}

    def update(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(f"{doing} {what}", total=total, losses="")
        bars.update(tasks[what], completed=done, visible=done < total)

    return update


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """A running number, for work whose end is not known beforehand."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.completed} " + what),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def training_display() -> Iterator[Callbacks]:
    """Bars for encoding and training, a line per epoch; the first Ctrl-C asks the loop to stop at the next step."""
    from mmolre.train.run import Callbacks

    stop = False

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stop
        if stop:
            raise KeyboardInterrupt
        stop = True
        note("stopping after this step; press Ctrl-C again to stop at once")

    previous = {s: signal.signal(s, ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _bars() as bars:
            training = bars.add_task("training", total=None, visible=False, losses="")

            def until_stopped(doing: str) -> Callable[[str, int, int], None]:
                show = _counting_bars(bars, doing)

                def update(what: str, done: int, total: int) -> None:
                    if stop:  # encoding keeps what is finished, shard by shard
                        raise KeyboardInterrupt
                    show(what, done, total)

                return update

            def step(p: TrainingProgress) -> None:
                shown = [
                    f"{name} {p.losses[name]:.2f}" for name in ("loss", "sentiment", "emotion") if name in p.losses
                ]
                now = f"epoch {p.epoch}"
                bars.update(
                    training, completed=p.step, total=p.steps, visible=True, description=now, losses=" ".join(shown)
                )

            encoding, asking = until_stopped("encoding"), until_stopped("asking")
            yield Callbacks(encoding, step, _epoch_line, lambda: stop, asking)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _epoch_line(line: dict[str, Any]) -> None:
    if line["event"] == "resumed":
        note(f"going on from epoch {line['epoch']}, step {line['step']}")
    if "instead_of" in line:
        note(f"{line['precision']} instead of {line['instead_of']}, which this machine only emulates")
    if line["event"] != "epoch":
        return
    valid = line["valid"]
    shown = [
        *(("sentiment", "mae", "mae"), ("sentiment", "corr", "corr")),
        *(("emotion", "macro_f1", "macro_f1"), ("emotion", "wa_mean", "wa"), ("emotion", "top_accuracy", "top")),
    ]
    found = [(name, valid.get(task, {}).get(key)) for task, key, name in shown]
    numbers = " ".join(f"{name} {value:.3f}" for name, value in found if value is not None)
    validated = f"  valid {numbers}{' best' if line['best'] else ''}" if valid else ""
    note(f"epoch {line['epoch']:>2}  loss {line['train']['loss']:.3f}{validated}")


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}", markup=False),
        console=err,
        transient=True,
        disable=not err.is_terminal,  # a log file gets whole lines alone
    )


def tell_failures(failed: Sequence[FailedRow], count: int | None = None, where: str = "") -> None:
    """The first few failed rows and their number, on stderr."""
    total = len(failed) if count is None else count
    for row in failed[:SHOWN_FAILURES]:
        note(f"row {row.id} ({row.row}): {row.reason}" if row.row else f"row {row.id}: {row.reason}")
    more = f", the first {SHOWN_FAILURES} shown" if total > SHOWN_FAILURES else ""
    note(f"{total} row{'s' if total != 1 else ''} could not be used{more}{where}")


def print_json(value: Any) -> None:
    """One JSON object on stdout, on one line."""
    everything = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    sys.stdout.write(json.dumps(value, ensure_ascii=not everything) + "\n")
