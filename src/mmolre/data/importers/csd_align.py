"""Computational sequences have their own clocks: what of them falls into which segment.

A word or frame belongs to the segment that its middle falls into, so to one at most; only a segment too short for any
word's middle gets the words that it touches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

PAUSE = "sp"
_SHIFT_MARGIN = 0.2


@dataclass(slots=True)
class Segment:
    """A labelled stretch of a video.

    Attributes:
        start, end: seconds; not finite where unknown.
        words, times: what is said in it, without pauses, and (n, 2) seconds of it.
        labels: by the name of the task or emotion.
    """

    id: str
    video: str
    start: float
    end: float
    words: list[str] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    labels: dict[str, float | None] = field(default_factory=dict)


def words_are_late(videos: Iterable[tuple[Sequence[str], np.ndarray]]) -> bool:
    """Whether each word stands one row below its time, as in CMU-MOSI's published ``ModifiedTimestampedWords``.

    Long words take long: the length in letters correlates with the duration where words and times belong together
    (0.52 in that file once moved, 0.00 as published). Ours; checked on its 1,513 labelled segments, of which 1,341 get
    the corpus's own transcript to the letter if moved, and 1 if not.
    """
    letters: list[int] = []
    durations: list[tuple[float, float]] = []
    for words, intervals in videos:
        seconds = np.clip(intervals[:, 1] - intervals[:, 0], 0, 2)
        for row in range(1, len(words)):
            if words[row] != PAUSE and np.isfinite(seconds[row - 1 : row + 1]).all():
                letters.append(len(words[row]))
                durations.append((seconds[row], seconds[row - 1]))
    if len(letters) < 50:
        return False
    here, above = (_correlation(np.array(letters), column) for column in np.array(durations).T)
    return bool(above > here + _SHIFT_MARGIN)


def move_up(words: list[str], intervals: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Words with the times of the row above; the first one's time is what comes before."""
    return words, np.concatenate([[[0.0, intervals[0, 0]]], intervals[:-1]]) if words else intervals


def add_words(segments: Sequence[Segment], words: Sequence[str], intervals: np.ndarray, *, whole: bool) -> None:
    """Give each segment its words.

    Args:
        whole: the sequence is the segment (there is one): all words are its.
    """
    middles = intervals.mean(axis=1)
    said = np.array([word.strip() not in ("", PAUSE) for word in words], bool)
    for segment in segments:
        inside = np.full(len(words), True) if whole else (middles >= segment.start) & (middles < segment.end)
        if not (inside & said).any():
            inside = (intervals[:, 0] <= segment.end) & (intervals[:, 1] >= segment.start)
        for row in np.flatnonzero(inside & said).tolist():
            segment.words.append(words[row].strip())
            segment.times.append((float(intervals[row, 0]), float(intervals[row, 1])))


Spans = Callable[[Segment, np.ndarray], np.ndarray | None]
"""From a segment and the sorted middles of its frames to the (units, 2) ranges of frames to average; None: none are."""


def frames_of_words(segment: Segment, middles: np.ndarray) -> np.ndarray:
    """For each word the frames within it, or the one nearest its middle where it is shorter than a frame."""
    times = np.array(segment.times).reshape(-1, 2)
    spans = np.searchsorted(middles, times)
    nearest = np.clip(np.searchsorted(middles, times.mean(axis=1)), 0, max(len(middles) - 1, 0))
    short = spans[:, 0] >= spans[:, 1]
    spans[short] = np.stack([nearest, nearest + 1], axis=1)[short]
    return spans


def frames_at_rate(rate: float) -> Spans:
    """Means over 1 / ``rate`` seconds each."""

    def spans(segment: Segment, middles: np.ndarray) -> np.ndarray:
        low, high = np.searchsorted(middles, (segment.start, segment.end))
        if low == high:
            return np.empty((0, 2), np.int64)
        start = segment.start if np.isfinite(segment.start) else middles[low]
        bins = np.floor((middles[low:high] - start) * rate)
        edges = np.flatnonzero(np.diff(bins, prepend=bins[0] - 1, append=bins[-1] + 1)) + low
        return np.stack([edges[:-1], edges[1:]], axis=1)

    return spans


def every_frame(segment: Segment, middles: np.ndarray) -> None:
    """All frames of the segment, as they are."""
    return


def cut(
    segments: Sequence[Segment], intervals: np.ndarray, blocks: Iterable[np.ndarray], spans: Spans, *, whole: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Each segment's part of a sequence of numbers; only what is being cut is in memory.

    Args:
        intervals: (n, 2) seconds of the frames.
        blocks: the n frames, (·, d) at a time.
        spans: how the frames of a segment are averaged.
        whole: the sequence is the segment (there is one): all frames are its.
    """
    middles = intervals.mean(axis=1)
    if not np.all(np.diff(middles) >= 0):  # out of order, or times that are no numbers: these come last
        order = np.argsort(middles, kind="stable")
        middles, blocks = middles[order], [np.concatenate(list(blocks))[order]]
    middles = middles[: np.searchsorted(middles, np.inf, side="right")]
    waiting: list[tuple[Segment, int, int, np.ndarray | None, list[np.ndarray]]] = []
    for segment in segments:
        ranges = spans(segment, middles)
        if ranges is not None:
            low, high = (int(ranges[:, 0].min()), int(ranges[:, 1].max())) if len(ranges) else (0, 0)
        elif whole:
            low, high = 0, len(middles)
        else:
            low, high = map(int, np.searchsorted(middles, (segment.start, segment.end)))
        if low < high:
            waiting.append((segment, low, high, ranges, []))
    first = 0
    for block in blocks:
        last = first + len(block)
        still = []
        for item in waiting:
            segment, low, high, ranges, parts = item
            if low < last and high > first:
                parts.append(block[max(low - first, 0) : high - first].copy())
            if high > last:
                still.append(item)
            else:
                rows = np.concatenate(parts)
                yield segment.id, rows if ranges is None else _means(rows, ranges - low)
        waiting, first = still, last


def _means(rows: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """(units, d): the mean over each range of what is finite in it; NaN where nothing is."""
    finite = np.isfinite(rows)
    totals = np.zeros((len(rows) + 1, rows.shape[1]))
    counts = np.zeros((len(rows) + 1, rows.shape[1]))
    np.cumsum(np.where(finite, rows, 0), axis=0, out=totals[1:], dtype=np.float64)
    np.cumsum(finite, axis=0, out=counts[1:])
    low, high = ranges[:, 0], ranges[:, 1]
    with np.errstate(invalid="ignore"):
        return ((totals[high] - totals[low]) / (counts[high] - counts[low])).astype(np.float32)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
