"""The commands about data: import, inspect, merge, export. Only signatures and help live here, as in mmolre.cli."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from mmolre.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmolre.data.importers import ImportSummary

T = TypeVar("T")
Optional = Annotated[T | None, arg(help_behavior_hint="")]
Manifest = Annotated[Positional[Path], arg(metavar="MANIFEST", help_behavior_hint="")]
Folder = Annotated[Positional[Path], arg(metavar="DIR", help_behavior_hint="")]
Files = Annotated[Positional[tuple[Path, ...]], arg(metavar="PATH ...", help_behavior_hint="")]
Out = Annotated[Path, arg(metavar="DIR", help_behavior_hint="")]
Pairs = Annotated[UseAppendAction[tuple[str, ...]], arg(help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]

_INDENT = 11  # where what a report's line says begins

importing = tyro.extras.SubcommandApp()


@importing.command(name="cmu-sdk")
def cmu_sdk(
    paths: Files,
    /,
    out: Out,
    align: Literal["segments", "words"] = "segments",
    rate: Annotated[Optional[float], arg(metavar="HZ")] = None,
    ids: Literal["sdk", "clip"] = "sdk",
    label_names: Annotated[Optional[str], arg(metavar="A,B,...")] = None,
) -> int:
    """The CMU Multimodal SDK's .csd files: labels, words, features; official folds.

    Args:
        paths: .csd files, or folders of them.
        out: a folder, or the manifest (.csv, .jsonl, .parquet).
        align: features as all frames of each segment, or their mean within each word.
        rate: with segments: means over 1/HZ seconds instead of all frames.
        ids: sdk: VIDEO[k]; clip: VIDEO_CLIP with CLIP = k + 1.
        label_names: the columns of the labels where the file does not say, - to skip one.
    """
    from mmolre.data.importers import import_cmu_sdk

    names = label_names.split(",") if label_names else ()
    return _run(import_cmu_sdk, _some(paths), out, align=align, rate=rate, ids=ids, label_names=names)


@importing.command(name="mmsa")
def mmsa(
    paths: Files,
    /,
    out: Out,
    label_range: Annotated[Optional[str], arg(metavar="LOW..HIGH")] = None,
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
) -> int:
    """Pickles of MMSA and MMSA-FET, aligned or not. Nothing in them is run.

    Args:
        paths: .pkl files.
        out: a folder, or the manifest.
        label_range: what the labels lie in; by default -3..3, for CH-SIMS -1..1.
        audio_root: where the audio lies that an exported manifest had.
    """
    from mmolre.data.importers import import_mmsa

    limits = None if label_range is None else _range("--label-range", label_range)
    return _run(import_mmsa, _some(paths), out, label_range=limits, audio_root=audio_root)


@importing.command(name="mag-bert")
def mag_bert(
    paths: Files,
    /,
    out: Out,
    split: Optional[Literal["train", "valid", "test"]] = None,
    ids: Literal["sdk", "clip"] = "sdk",
) -> int:
    """Pickles of ((words, visual, acoustic), label, id), as MAG-BERT, MISA and MMIM exchange. Nothing in them is run.

    Args:
        paths: .pkl files.
        out: a folder, or the manifest.
        split: of a file that holds one; by default as its name says.
        ids: sdk: as they are; clip: VIDEO[k] becomes VIDEO_CLIP with CLIP = k + 1.
    """
    from mmolre.data.importers import import_mag_bert

    return _run(import_mag_bert, _some(paths), out, split=split, ids=ids)


@importing.command(name="csv")
def csv_(
    paths: Files,
    /,
    out: Out,
    map: Annotated[Pairs, arg(metavar="OURS=THEIRS")] = (),  # noqa: A002
    scale: Annotated[Pairs, arg(metavar="LABEL=LOW..HIGH")] = (),
    folds: Annotated[Optional[str], arg(metavar="A,B,C")] = None,
    group: Literal["id", "video_id", "speaker"] = "video_id",
    features: Annotated[Pairs, arg(metavar="NAME=FILE")] = (),
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> int:
    """Any table with an utterance a row: .csv, .jsonl, .parquet.

    Args:
        paths: one or several.
        out: a folder, or the manifest.
        map: what a column is called there, e.g. text=utterance; emotion=COLUMN holds emotions' names.
        scale: the range of a label there, e.g. sentiment=1..5 or emotions=0..1.
        folds: divides a table without a split by hash, e.g. 0.8,0.1,0.1.
        group: rows that share it share a split.
        features: ready-made features by id: .safetensors, .parquet, .npz.
        audio_root: what the audio column is relative to; by default the table's folder.
        delimiter: of a CSV file.
        encoding: of a CSV file.
    """
    from mmolre.data.importers import TableOptions, import_csv

    options = TableOptions(
        columns=_pairs("--map", map),
        scales={name: _range(f"--scale {name}", text) for name, text in _pairs("--scale", scale).items()},
        delimiter="\t" if delimiter in ("\\t", "tab") else delimiter,
        encoding="utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding,
        audio_root=audio_root,
        folds=None if folds is None else _folds(folds),
        group=group,
        features={name: Path(file) for name, file in _pairs("--features", features).items()},
    )
    return _run(import_csv, _some(paths), out, options)


@importing.command(name="vader")
def vader(paths: Files = (), /, out: Out = Path("data/vader")) -> int:
    """23,703 texts with human sentiment scores from PyPI (MIT), for a first real training; fetched by pip.

    Args:
        paths: vaderSentiment-3.3.2.tar.gz, if it is here already.
        out: a folder, or the manifest.
    """
    from mmolre.data.importers import import_vader

    return _run(import_vader, paths, out)


@importing.command(name="meld")
def meld(path: Folder, /, out: Out, sentiment: Literal["polarity", "none"] = "polarity") -> int:
    """MELD: *_sent_emo.csv and the clips.

    Args:
        path: the corpus's folder.
        out: a folder, or the manifest.
        sentiment: its three classes as -1, 0, 1, or left out.
    """
    from mmolre.data.importers import import_meld

    return _run(import_meld, [path], out, sentiment=sentiment)


@importing.command(name="folder")
def folder(path: Folder, /, out: Out) -> int:
    """One's own recordings, each with its words beside it as .txt or .srt.

    Args:
        path: the folder.
        out: a folder, or the manifest.
    """
    from mmolre.data.importers import import_folder

    return _run(import_folder, [path], out)


@importing.command(name="mmml")
def mmml(path: Folder, /, out: Out) -> int:
    """CMU-MOSI or CMU-MOSEI as label.csv and folders of clips (MMML, MMSA's raw data).

    Args:
        path: the folder.
        out: a folder, or the manifest.
    """
    from mmolre.data.importers import import_mmml

    return _run(import_mmml, [path], out)


@importing.command(name="ch-sims")
def ch_sims(path: Folder, /, out: Out) -> int:
    """CH-SIMS: label.csv and folders of clips; labels rescaled from [-1, 1].

    Args:
        path: the folder.
        out: a folder, or the manifest.
    """
    from mmolre.data.importers import import_ch_sims

    return _run(import_ch_sims, [path], out)


@importing.command(name="mosi")
def mosi(path: Folder, /, out: Out) -> int:
    """CMU-MOSI as segments.csv and clips.

    Args:
        path: the folder.
        out: a folder, or the manifest.
    """
    from mmolre.data.importers import import_mosi

    return _run(import_mosi, path, out)


@importing.command(name="ravdess")
def ravdess(
    path: Folder,
    /,
    out: Out,
    test_actors: Annotated[str, arg(metavar="A,B,...")] = "17,18,19,20",
    valid_actors: Annotated[str, arg(metavar="A,B,...")] = "15,16",
) -> int:
    """RAVDESS's speech, split by actor.

    Args:
        path: the folder.
        out: a folder, or the manifest.
        test_actors: of 1 to 24.
        valid_actors: likewise; all others are train.
    """
    from mmolre.data.importers import import_ravdess

    test, valid = _actors("--test-actors", test_actors), _actors("--valid-actors", valid_actors)
    return _run(import_ravdess, path, out, test_actors=test, valid_actors=valid)


@importing.command(name="crema-d")
def crema_d(path: Folder, /, out: Out) -> int:
    """CREMA-D, split by actor.

    Args:
        path: the folder.
        out: a folder, or the manifest.
    """
    from mmolre.data.importers import import_crema_d

    return _run(import_crema_d, [path], out)


@importing.command(name="iemocap")
def iemocap(path: Folder, /, out: Out) -> int:
    """IEMOCAP's own folders, split by session.

    Args:
        path: the folder that holds Session1 to Session5.
        out: a folder, or the manifest.
    """
    from mmolre.data.importers import import_iemocap

    return _run(import_iemocap, [path], out)


def inspect(
    manifest: Manifest,
    /,
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    json: Flag = False,
) -> int:
    """A manifest's health: splits, labels, lengths, missing modalities, leaks, faults of features.

    Args:
        manifest: .csv, .jsonl or .parquet.
        audio_root: where its audio lies, if not beside it.
        json: print all of it as one JSON object.
    """
    from mmolre import terminal
    from mmolre.data.inspect import inspect_manifest, report_lines

    with terminal.quiet_warnings():
        report = inspect_manifest(manifest, audio_root=audio_root)
    if json:
        terminal.print_json(report)
    else:
        for line in report_lines(report):
            terminal.hanging(line, _INDENT)
    return 0


def merge(
    manifests: Annotated[Positional[tuple[Path, ...]], arg(metavar="MANIFEST ...", help_behavior_hint="")],
    /,
    out: Out,
    on: Literal["id", "times"] = "id",
    rows: Literal["all", "first", "common"] = "all",
) -> int:
    """Merge manifests row by row: what one does not say, the next one may. Conflicts are listed; the first one wins.

    Args:
        manifests: two or more, the most trusted first.
        out: a folder, or the manifest.
        on: the id, or the video, start and end (to 0.05 s).
        rows: of any of them, of the first, or of all of them.
    """
    from mmolre.data.merge import merge_manifests

    return _run(merge_manifests, manifests, out, on=on, rows=rows)


def export(
    manifest: Manifest,
    /,
    out: Annotated[Path, arg(metavar="PATH", help_behavior_hint="")],
    to: Literal["mmsa", "parquet", "datasets"] = "datasets",
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    padding: Literal["end", "front"] = "end",
) -> int:
    """Write a manifest for other software.

    Args:
        manifest: .csv, .jsonl or .parquet.
        out: datasets: a folder; mmsa: a .pkl file; parquet: a .parquet file.
        to: for Hugging Face's datasets, for MMSA, or as one Parquet file.
        audio_root: where its audio lies, if not beside it.
        padding: mmsa: where zeros fill short sequences up. Most of MMSA's models learn more with front.
    """
    from mmolre import terminal
    from mmolre.data.export import export_datasets, export_mmsa, export_parquet

    if padding != "end" and to != "mmsa":
        raise UserError(f"--padding is for --to mmsa: {to} has sequences of their own lengths; leave it out")
    write: Callable[..., int] = {"mmsa": export_mmsa, "parquet": export_parquet, "datasets": export_datasets}[to]
    options = {"padding": padding} if to == "mmsa" else {}
    with terminal.quiet_warnings():
        count = write(manifest, out, audio_root=audio_root, **options)
    terminal.plain(f"{count} utterances in {out}")
    return 0


def register(app: tyro.extras.SubcommandApp) -> None:
    """Add these commands to the program's."""
    app.command(importing, name="import", help="Make a manifest of a corpus: `mmolre import SOURCE --help` says more.")
    app.command(name="inspect")(inspect)
    app.command(name="merge")(merge)
    app.command(name="export")(export)


def _run(make: "Callable[..., ImportSummary]", *arguments: Any, **options: Any) -> int:
    """Make a manifest; say what was done and left out, and how the manifest's health is."""
    from mmolre import terminal
    from mmolre.data.inspect import inspect_manifest, report_lines

    with terminal.quiet_warnings():
        summary = make(*arguments, **options)
    terminal.plain(f"{summary.n_rows} utterances in {summary.path}")
    for name, reason in summary.dropped[: terminal.SHOWN_FAILURES]:
        terminal.note(f"left out {name}: {reason}")
    if len(summary.dropped) > terminal.SHOWN_FAILURES:
        terminal.note(f"{len(summary.dropped)} left out; provenance.json lists them")
    for line in summary.notes:
        terminal.note(line)
    with terminal.quiet_warnings():
        for line in report_lines(inspect_manifest(summary.path)):
            terminal.hanging(line, _INDENT)
    return 0


def _some(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    if not paths:
        raise UserError("nothing to import: name the corpus's files or folders; --help says which")
    return paths


def _pairs(option: str, items: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise UserError(f"{option} {item}: expected KEY=VALUE")
        pairs[key] = value
    return pairs


def _range(option: str, text: str) -> tuple[float, float]:
    first, _, last = text.partition("..")
    try:
        low, high = float(first), float(last)
    except ValueError:
        raise UserError(f"{option} {text}: expected LOW..HIGH, e.g. 0..10") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{option} {text}: the first must be below the second, and both be finite")
    return low, high


def _folds(text: str) -> tuple[float, float, float]:
    try:
        train, valid, test = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--folds {text}: expected three fractions, e.g. 0.8,0.1,0.1") from None
    return train, valid, test


def _actors(option: str, text: str) -> list[int]:
    try:
        actors = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"{option} {text}: expected numbers, e.g. 17,18") from None
    if wrong := [actor for actor in actors if not 1 <= actor <= 24]:
        raise UserError(f"{option} {text}: there is no actor {wrong[0]}, but 1 to 24")
    return actors
