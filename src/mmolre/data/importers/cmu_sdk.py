"""The CMU Multimodal SDK's computational sequences (.csd): CMU-MOSI, CMU-MOSEI and what else comes in this form
(Zadeh et al., ACL 2018; https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK).

Expected are a file of labels and, beside it, a file of words and any number of files of features (COVAREP, OpenFace,
FACET, ...). The k-th interval of a video's labels, from 0, is the segment ``VIDEO[k]``, as in the SDK; a file whose
keys are such segments already is read as that.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from mmolre.data.importers import csd_align
from mmolre.data.importers._common import EMOTION_OF, ImportSummary, count_splits, finish
from mmolre.data.importers.csd import CsdFile
from mmolre.data.importers.csd_align import Segment
from mmolre.data.manifest_fields import LABEL_RANGES
from mmolre.data.manifest_sidecar import RESERVED
from mmolre.errors import UserError
from mmolre.schema import EMOTIONS, SPLITS, Utterance

_EXPECTED = "the SDK's .csd files: labels, words, features"
_OFFICIAL = ("sentiment", *EMOTIONS)  # the columns of CMU_MOSEI_Labels.csd
_SEGMENT = re.compile(r"(?P<video>.+)\[(?P<number>\d+)\]")

Align = Literal["segments", "words"]
Ids = Literal["sdk", "clip"]


def import_cmu_sdk(
    sources: Sequence[Path],
    out: Path,
    *,
    align: Align = "segments",
    rate: float | None = None,
    ids: Ids = "sdk",
    label_names: Sequence[str] = (),
) -> ImportSummary:
    """Write the manifest of computational sequences: text, labels, official folds, and their features.

    A segment's text is the words whose middle falls into it, without the pauses ``sp``. Words that stand one row below
    their times, as in CMU-MOSI's published file, are moved (see :func:`csd_align.words_are_late`). Several files of
    labels are merged by segment. A label out of range is left blank. Splits are those of the official folds, by video.

    Args:
        sources: .csd files, or folders of them.
        align: features as ``segments``, all frames of each; or ``words``, their mean within each word.
        rate: with segments: means over 1 / rate seconds instead of all frames (COVAREP has 100 a second).
        ids: ``sdk``: ``VIDEO[k]``; ``clip``: ``VIDEO_CLIP`` with CLIP = k + 1, as in CMU-MOSI's transcripts and MMSA.
        label_names: the columns of the labels, where the file does not name them (or to name them otherwise).

    Raises:
        UserError: no file of labels, a damaged file, columns that nobody names.
    """
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise UserError(f"--rate {rate:g}: give frames per second, above 0")
    if rate is not None and align == "words":
        raise UserError("--rate is of every frame, and --align words gives one to each word: leave one of them out")
    paths = _files(sources)
    notes: list[str] = []
    dropped: list[tuple[str, str]] = []
    words: dict[Path, str] = {}
    features: dict[str, Path] = {}
    segments: dict[str, Segment] = {}
    for path in paths:
        with CsdFile(path) as file:
            if file.holds_words:
                words[path] = file.root
            elif (columns := _label_columns(file, label_names)) is not None:
                _add_labels(segments, file, columns, ids, dropped, notes)
            else:
                features[_feature_name(file, features)] = path
    if not segments:
        raise UserError(f"{paths[0].parent}: no file of labels among {len(paths)} .csd files: expected {_EXPECTED}")
    by_key = _by_key(segments, ids)
    _add_words(by_key, words, notes)
    if align == "words" and not any(segment.times for segment in segments.values()):
        raise UserError("--align words needs the file of words beside the features")
    spans = (
        csd_align.frames_of_words
        if align == "words"
        else csd_align.every_frame
        if rate is None
        else csd_align.frames_at_rate(rate)
    )
    rows = _rows(segments, notes)
    return finish(
        "cmu-sdk",
        rows,
        out,
        audio_root=paths[0].parent,
        dropped=dropped,
        notes=notes,
        inputs=paths,
        features={name: _cut(path, by_key, spans) for name, path in features.items()},
        options={"align": align, "rate": rate, "ids": ids, "label_names": label_names},
    )


def _files(sources: Sequence[Path]) -> list[Path]:
    paths: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            paths += sorted(source.glob("*.csd"))
        elif source.is_file():
            paths.append(source)
        else:
            raise UserError(f"{source}: no such file or folder: expected {_EXPECTED}")
    if not paths:
        raise UserError(f"{sources[0] if sources else '.'}: no .csd files there: expected {_EXPECTED}")
    return list(dict.fromkeys(path.absolute() for path in paths))


def _label_columns(file: CsdFile, given: Sequence[str]) -> list[str | None] | None:
    """What the columns of a file of labels are (None: nothing that is predicted here); None: it holds features."""
    named = [_label(name) for name in file.dimensions]
    if "label" not in file.root.lower() and "label" not in file.path.name.lower() and not (named and all(named)):
        return None
    if given:
        named = [_label(name) for name in given]
        unknown = [name for name, known in zip(given, named, strict=True) if known is None and name != "-"]
        if unknown:
            raise UserError(
                f"--label-names: {unknown[0]!r} is none of {', '.join(_OFFICIAL)}, nor - for a column to skip"
            )
    return named


def _label(name: str) -> str | None:
    name = name.strip().lower()
    return "sentiment" if name.startswith("sentiment") else EMOTION_OF.get(name)


def _add_labels(
    segments: dict[str, Segment],
    file: CsdFile,
    columns: list[str | None],
    ids: Ids,
    dropped: list[tuple[str, str]],
    notes: list[str],
) -> None:
    conflicts = 0
    for sequence in file:
        values = np.concatenate([np.empty((0, sequence.width), np.float32), *sequence.blocks()])
        if not columns and sequence.width in (1, len(_OFFICIAL)):
            columns = list(_OFFICIAL[: sequence.width])
            notes.append(f"{file.path.name} does not name its columns: taken as {', '.join(map(str, columns))}")
        if len(columns) != sequence.width:
            raise UserError(
                f"{file.path}: {sequence.width} columns, of which {len(columns)} are named: name them by --label-names"
            )
        cut = _SEGMENT.fullmatch(sequence.key)
        video = cut["video"] if cut else sequence.key
        intervals = sequence.intervals.tolist()
        if cut and len(intervals) > 1:
            notes.append(
                f"{file.path.name}: {sequence.key} has {len(intervals)} rows of labels, of which the first counts"
            )
            intervals = intervals[:1]
        for row, (start, end) in enumerate(intervals):
            number = int(cut["number"]) + row if cut else row
            key = f"{video}_{number + 1}" if ids == "clip" else f"{video}[{number}]"
            segment = segments.setdefault(key, Segment(key, video, start, end))
            for column, value in zip(columns, values[row].tolist(), strict=True):
                if column is not None:
                    label = _in_range(value, column, key, dropped)
                    known = segment.labels.setdefault(column, label)
                    conflicts += known is not None and label is not None and known != label
                    segment.labels[column] = label if known is None else known
    if conflicts:
        notes.append(f"{conflicts} labels of {file.path.name} differ from those of the files before it, which are kept")


def _in_range(value: float, column: str, key: str, dropped: list[tuple[str, str]]) -> float | None:
    low, high = LABEL_RANGES[column]
    if np.isnan(value):
        return None
    if not low - 1e-4 <= value <= high + 1e-4:
        dropped.append((key, f"{column} outside [{low:g}, {high:g}]: left blank"))
        return None
    return min(max(value, low), high)


def _by_key(segments: dict[str, Segment], ids: Ids) -> dict[str, list[Segment]]:
    """The segments of each video, and each segment by its own name."""
    found: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments.values():
        found[segment.video].append(segment)
        name = segment.id
        if ids == "clip":
            video, _, clip = name.rpartition("_")
            name = f"{video}[{int(clip) - 1}]"
        found[name].append(segment)
    return found


def _add_words(by_key: dict[str, list[Segment]], files: dict[Path, str], notes: list[str]) -> None:
    """Read the one file of words that there is to read, given as path -> root name."""
    named = [path for path, root in files.items() if "word" in f"{root} {path.name}".lower()]
    path = min(named or files, key=lambda path: "modified" not in path.name.lower(), default=None)
    notes += [f"{other.name} is not used" for other in files if other != path]
    if path is None:
        notes.append("no file of words: the utterances have no text")
        return
    with CsdFile(path) as file:
        videos = {sequence.key: (sequence.words, sequence.intervals) for sequence in file}
    late = csd_align.words_are_late(videos.values())
    if late:
        notes.append(f"in {path.name} each word stands one row below its time (a known fault): moved up")
    for key, (words, intervals) in videos.items():
        if late:
            words, intervals = csd_align.move_up(words, intervals)
        csd_align.add_words(by_key.get(key, []), words, intervals, whole=_SEGMENT.fullmatch(key) is not None)


def _feature_name(file: CsdFile, taken: dict[str, Path]) -> str:
    name = re.sub(r"^cmu_mose?i_?", "", re.sub(r"[^a-z0-9]+", "_", file.root.lower()).strip("_")).strip("_")[:40]
    name = name if name[:1].isalpha() and name not in RESERVED else f"features_{name}".rstrip("_")
    number = 2
    while name in taken:
        name, number = f"{name.removesuffix(f'_{number - 1}')}_{number}", number + 1
    return name


def _cut(path: Path, by_key: dict[str, list[Segment]], spans: csd_align.Spans) -> Iterator[tuple[str, np.ndarray]]:
    with CsdFile(path) as file:
        for sequence in file:
            segments = by_key.get(sequence.key, [])
            if segments and sequence.width:
                whole = _SEGMENT.fullmatch(sequence.key) is not None
                yield from csd_align.cut(segments, sequence.intervals, sequence.blocks(), spans, whole=whole)


def _rows(segments: dict[str, Segment], notes: list[str]) -> list[Utterance]:
    corpus, fold_of = _folds({segment.video for segment in segments.values()})
    rows = [
        Utterance(
            id=segment.id,
            text=" ".join(segment.words) or None,
            start=segment.start if np.isfinite(segment.start) else None,
            end=segment.end if np.isfinite(segment.end) else None,
            split=fold_of.get(segment.video),
            video_id=segment.video,
            sentiment=segment.labels.get("sentiment"),
            emotions=tuple(segment.labels.get(name) for name in EMOTIONS),
        )
        for segment in segments.values()
    ]
    unknown = sum(row.split is None for row in rows)
    if corpus is not None:
        notes.append(f"official folds of {corpus}: {count_splits(rows)}")
    if unknown:
        notes.append(f"{unknown} segments are of videos in no official fold: they have no split")
    return rows


def _folds(videos: set[str]) -> tuple[str | None, dict[str, str]]:
    """The corpus that most of the videos are of, and the split of each of its videos; nothing if none is."""
    found = {name: sum(video in folds for video in videos) for name, folds in official_folds().items()}
    corpus = max(found, key=lambda name: found[name])
    return (corpus, official_folds()[corpus]) if found[corpus] else (None, {})


@cache
def official_folds() -> dict[str, dict[str, str]]:
    """For CMU-MOSI and CMU-MOSEI, the split of each video."""
    content = json.loads(Path(__file__).with_name("folds.json").read_text(encoding="utf-8"))
    return {
        corpus: {video: split for split in SPLITS for video in splits[split].split()}
        for corpus, splits in content.items()
    }
