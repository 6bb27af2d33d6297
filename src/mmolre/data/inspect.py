"""A manifest's health: what is in it, and what a person would want to know before training on it (ours).

The report is a dict of plain values, for JSON; its ``warnings`` are the sentences to read first.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmolre.data.inspect_features import inspect_features
from mmolre.data.manifest import read_manifest
from mmolre.schema import EMOTIONS, SPLITS, Utterance

_LONG = 60.0  # seconds: more than the audio encoders' window
_PROBED = 200  # recordings of which the length is read, evenly taken
_BEYOND = 0.5  # seconds: what times are rounded by, and more
_TELLING_WORDS = 5  # a text that is at least so long is not in two splits by chance
_EXAMPLES = 3
_BARS = " ▁▂▃▄▅▆▇█"


def inspect_manifest(path: Path, *, audio_root: Path | None = None) -> dict[str, Any]:
    """The report of a manifest: rows per split, labels, lengths, modalities, leaks, features, warnings.

    Raises:
        UserError: as :func:`~mmolre.data.manifest.read_manifest`, and for a damaged feature file.
    """
    rows = read_manifest(path, audio_root=audio_root)
    warnings: list[str] = []
    features, held = inspect_features(rows, warnings)
    return {
        "manifest": str(path),
        "rows": len(rows),
        "splits": {name: sum(row.split == split for row in rows) for name, split in _split_names(rows)},
        "labels": _labels(rows, warnings),
        "modalities": _modalities(rows, held),
        "text": _texts(rows),
        "audio": _audio(rows, warnings),
        "leaks": _leaks(rows, warnings),
        "features": features,
        "warnings": warnings,
    }


def _split_names(rows: Sequence[Utterance]) -> list[tuple[str, str | None]]:
    names: list[tuple[str, str | None]] = [(split, split) for split in SPLITS]
    return [*names, ("none", None)] if any(row.split is None for row in rows) else names


def _labels(rows: Sequence[Utterance], warnings: list[str]) -> dict[str, Any]:
    """Coverage and histogram of each target, per split."""
    sentiment: dict[str, Any] = {}
    emotions: dict[str, dict[str, Any]] = {name: {} for name in EMOTIONS}
    for split_name, split in _split_names(rows):
        of = [row for row in rows if row.split == split]
        values = np.array([row.sentiment for row in of if row.sentiment is not None])
        counts = np.bincount(np.rint(values).astype(int) + 3, minlength=7) if len(values) else np.zeros(7, int)
        if split in ("valid", "test") and len(values) and np.ptp(values) == 0:
            warnings.append(
                f"the sentiment of all {len(values)} labelled rows of {split_name} is {values[0]:g}: a correlation is "
                "undefined there"
            )
        sentiment[split_name] = {"labelled": len(values), "histogram": counts.tolist()}
        for place, name in enumerate(EMOTIONS):
            known = [row.emotions[place] for row in of if row.emotions[place] is not None]
            present = sum(1 for value in known if value)
            emotions[name][split_name] = {"labelled": len(known), "present": present}
    labelled = sum(split["labelled"] for split in sentiment.values())
    if not labelled and not any(split["labelled"] for of in emotions.values() for split in of.values()):
        warnings.append("nothing is labelled: good for prediction only")
    if not any(row.split == "valid" for row in rows) or not any(row.split == "train" for row in rows):
        warnings.append("no rows of train and valid both: training needs them")
    return {"sentiment": sentiment, "emotions": emotions}


def _modalities(rows: Sequence[Utterance], held: Mapping[str, frozenset[str]]) -> dict[str, dict[str, int]]:
    """How many rows have which modalities, per split."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        own = [name for name, value in (("text", row.text), ("audio", row.audio)) if value is not None]
        own += [name for name, ids in held.items() if row.id in ids]
        found[row.split or "none"]["+".join(own) or "nothing"] += 1
    return {name: dict(found[name].most_common()) for name, _ in _split_names(rows) if name in found}


def _texts(rows: Sequence[Utterance]) -> dict[str, Any]:
    words = [len(row.text.split()) for row in rows if row.text is not None]
    upper = sum(row.text.isupper() for row in rows if row.text is not None)
    return {"rows": len(words), "words": _quantiles(words), "upper_case": upper}


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long to be one: a column of texts, say
        return False


def _audio(rows: Sequence[Utterance], warnings: list[str]) -> dict[str, Any]:
    """Files that are not there, and lengths: of cuts by their times, of whole files as some of these say."""
    voiced = [row for row in rows if row.audio is not None]
    missing = [row for row in voiced if row.audio is not None and not _is_there(row.audio)]
    if missing:
        warnings.append(f"{len(missing)} of {len(voiced)} audio files are not there, e.g. {missing[0].audio}")
    gone = {row.id for row in missing}
    seconds = [row.end - row.start for row in voiced if row.cut and row.start is not None and row.end is not None]
    whole = [row.audio for row in voiced if not row.cut and row.id not in gone and row.audio is not None]
    probed = whole[:: max(1, len(whole) // _PROBED)]
    unreadable = []
    for path in probed:
        length = _duration(path)
        if length is None:
            unreadable.append(path)
        else:
            seconds.append(length)
    if unreadable:
        warnings.append(f"{len(unreadable)} of {len(probed)} audio files tried have no sound, e.g. {unreadable[0]}")
    cut = [row for row in voiced if row.cut and row.id not in gone]
    lengths: dict[Path, float | None] = {}
    for row in cut[:: max(1, len(cut) // _PROBED)]:
        if row.audio is not None and row.audio not in lengths:
            lengths[row.audio] = _duration(row.audio)
    known = {path: length for path, length in lengths.items() if length is not None}
    beyond = [
        (row.id, row.end, known[row.audio])
        for row in cut
        if row.audio in known and row.end is not None and row.end > known[row.audio] + _BEYOND
    ]
    if beyond:
        told = "{} rows end after their recording does, e.g. {} at {:g} s of {:.1f}: are the times of another one?"
        warnings.append(told.format(len(beyond), *beyond[0]))
    long = sum(length > _LONG for length in seconds)
    if long:
        warnings.append(f"{long} of {len(seconds)} sounds measured are longer than {_LONG:g} s: cut them")
    odd = sum(1 for row in rows if row.start is not None and row.end is not None and row.start >= row.end)
    return {
        "rows": len(voiced),
        "missing": len(missing),
        "measured": len(seconds),
        "seconds": _quantiles(seconds),
        "no_interval": odd,
    }


def _duration(path: Path) -> float | None:
    from mmolre.data.media import MediaError, duration

    try:
        return duration(path)
    except MediaError:
        return None


def _leaks(rows: Sequence[Utterance], warnings: list[str]) -> dict[str, Any]:
    """Texts, recordings, videos and speakers that are in more than one split."""

    def normal(row: Utterance) -> str | None:
        words = re.findall(r"\w+", (row.text or "").lower())
        return " ".join(words) if len(words) >= _TELLING_WORDS else None

    def recording(row: Utterance) -> tuple[Any, ...] | None:
        return row.audio and (row.audio, *((row.start, row.end) if row.cut else ()))

    keys: dict[str, Callable[[Utterance], Any]] = {
        "texts": normal,
        "recordings": recording,
        "videos": lambda row: row.recording,  # pieces of one sound are of one, too
        "speakers": lambda row: row.speaker,
    }
    found: dict[str, Any] = {}
    for name, key in keys.items():
        groups: dict[Any, list[Utterance]] = defaultdict(list)
        for row in rows:
            value = key(row)
            if value is not None:
                groups[value].append(row)
        across = [of for of in groups.values() if len({row.split for row in of}) > 1]
        found[name] = {
            "different": len(groups),
            "repeated": sum(len(of) > 1 for of in groups.values()),
            "across_splits": len(across),
            "examples": [[row.id for row in of[:2]] for of in across[:_EXAMPLES]],
        }
        if across:
            first, *_ = across[0]
            other = next(row for row in across[0] if row.split != first.split)
            grave = "" if name == "speakers" else ": what is learned there is tested here"
            warnings.append(
                f"{len(across)} {name} are in more than one split, e.g. {first.id} ({first.split or 'none'}) and "
                f"{other.id} ({other.split or 'none'}){grave}"
            )
    return found


def _quantiles(values: Iterable[float]) -> dict[str, float] | None:
    array = np.array(list(values), float)
    if not array.size:
        return None
    places = {"min": 0, "median": 50, "p95": 95, "max": 100}
    return {name: round(float(np.percentile(array, place)), 3) for name, place in places.items()}


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people, one line an entry: ``KIND`` in 11 columns, then what it says."""
    lines = [f"rows       {report['rows']}: " + ", ".join(f"{name} {n}" for name, n in report["splits"].items())]
    for split, of in report["labels"]["sentiment"].items():
        if of["labelled"]:
            bars = _bars(of["histogram"])
            counts = " ".join(map(str, of["histogram"]))
            lines.append(f"sentiment  {split:5} {of['labelled']}, -3 to 3: {bars} {counts}")
    for split in report["splits"]:
        shares = [
            f"{name} {of[split]['present'] / of[split]['labelled']:.2f}"
            for name, of in report["labels"]["emotions"].items()
            if of.get(split, {}).get("labelled")
        ]
        if shares:
            lines.append(f"emotions   {split:5} share present: {', '.join(shares)}")
    for split, counts in report["modalities"].items():
        lines.append(f"with       {split:5} " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    if report["text"]["words"]:
        upper = report["text"]["upper_case"]
        note = f"; {upper} in capitals" if upper else ""
        lines.append(f"text       words: {_spread(report['text']['words'])}{note}")
    if report["audio"]["seconds"]:
        audio = report["audio"]
        lines.append(f"audio      seconds ({audio['measured']} measured): {_spread(audio['seconds'])}")
    for name, of in report["features"].items():
        lines.append(
            f"features   {name}: {of['utterances']} utterances, {of['width']} wide, frames {_spread(of['frames'])}; "
            f"NaN {of['nan']}, inf {of['inf']}, constant columns {of['constant']}{_guess(of['predicts'])}"
        )
    lines += [f"WARNING    {line}" for line in report["warnings"]]
    return lines


def _bars(counts: Sequence[int]) -> str:
    top = max(counts) or 1
    return "".join(_BARS[round(count / top * (len(_BARS) - 1))] for count in counts)


def _spread(quantiles: Mapping[str, float] | None) -> str:
    if quantiles is None:
        return "none"
    return ", ".join(f"{name} {value:g}" for name, value in quantiles.items())


def _guess(predicts: Mapping[str, Any] | None) -> str:
    if not predicts:
        return ""
    shown = ", ".join(f"{name} {value:.2f}" for name, value in predicts.items() if value is not None and name != "rows")
    return f"; alone on {predicts['rows']} held-out rows: {shown}"
