"""Sound from any media file that PyAV decodes (wav, flac, mp3, m4a, ogg, mp4, …): mono, at the wanted rate.

Exactness. Times are on the media's own clock, as players show it (0 is where the container starts). A cut is made in
samples of the file's own rate, before resampling: far into a file the decoder seeks to a little before the start, then
drops samples by their timestamps. So a cut of a lossless file equals the slice of the full decode to within one sample.
For mp3 and AAC the same holds of the time, and nearly of the samples (decoding that starts half-way rounds otherwise);
a container with a coarse clock (Matroska: 1 ms) is exact to that. Only the cut is held in memory, and only what
surrounds it is decoded.

A file that is cut off or damaged gives what can be read of it. Channels are averaged. A playlist cannot reach the
network.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmolre.errors import UserError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

MIN_SECONDS = 0.1
"""Less sound than this is refused: no encoder here makes anything of it."""

MAX_SECONDS = 60.0
"""More sound than this in one utterance is refused by default."""

_SLACK_SECONDS = 0.1  # codecs pad the last frame: what was cut at the limit is a little over it
_SEEK_FROM_SECONDS = 20.0  # nearer to the start, decoding up to it is as fast and needs no index
_GAP_SECONDS = 0.1  # less is rounding of timestamps
_LONGEST_GAP_SECONDS = 6 * 3600.0  # where no length bounds it: more is a damaged timestamp, and 700 MB of silence
_PREROLL_SECONDS = 1.0  # what a decoder may need before its output is right: Opus 0.08, mp3's bit reservoir less
_CLOCK_TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")

Piece = tuple[int, np.ndarray]


class MediaError(UserError):
    """A media file that gives no usable sound: one line, naming the file."""


def load_audio(
    path: Path,
    *,
    start: float | None = None,
    end: float | None = None,
    sample_rate: int = 16_000,
    max_seconds: float = MAX_SECONDS,
) -> np.ndarray:
    """The sound of a file, or of the part from ``start`` to ``end``: float32 of shape (samples,), mono, in [-1, 1].

    Args:
        start, end: seconds; ``None`` is the file's own. A negative start is 0; an end beyond the file is the file's.
        sample_rate: of the result, in Hz.
        max_seconds: longer sound is refused, not cut.

    Raises:
        MediaError: no such file, a folder, an empty file, not media, no audio track, nothing decodable, start not
            before end, start beyond the end of the file, less than :data:`MIN_SECONDS` or more than ``max_seconds``.
    """
    path = Path(path)
    first = max(start or 0.0, 0.0)
    last = math.inf if end is None else end
    if first >= last:
        raise MediaError(f"{path}: start {first:g} s is not before end {last:g} s")
    pieces: list[Piece] = []
    seconds = 0.0
    for rate, samples in _pieces(path, first, last):
        pieces.append((rate, samples))
        seconds += len(samples) / rate
        if seconds > max_seconds + _SLACK_SECONDS:
            raise MediaError(
                f"{path}: more than {max_seconds:g} s of audio in one utterance: split it into rows of at most "
                f"{max_seconds:g} s, each with the columns start and end"
            )
    if not pieces:
        if first:
            raise MediaError(f"{path}: start {first:g} s is beyond the end of the audio ({duration(path):.3f} s)")
        raise MediaError(f"{path}: no audio could be decoded")
    if round(seconds, 3) < MIN_SECONDS:  # a cut of just that may be a sample short
        raise MediaError(f"{path}: {seconds:.3f} s of audio, at least {MIN_SECONDS:g} s needed")
    return _join(pieces, sample_rate)[: math.ceil(max_seconds * sample_rate) if math.isfinite(max_seconds) else None]


def stream_audio(path: Path, sample_rate: int = 16_000) -> Iterator[np.ndarray]:
    """All the sound of a file of any length, block by block: float32 of shape (samples,), mono, in [-1, 1].

    On the media's own clock: sound that begins later than 0, and longer gaps in it, are filled with silence. A gap of
    more than 6 hours in Matroska, or where the file does not say how long it is, is taken for damage, and is not.

    Raises:
        MediaError: as :func:`load_audio` for a file that cannot be opened or gives no sound; for no length.
    """
    import soxr

    resampler: tuple[int, soxr.ResampleStream] | None = None
    for rate, samples in _on_clock(Path(path)):
        if resampler is None or resampler[0] != rate:
            if resampler is not None:
                yield _clipped(resampler[1].resample_chunk(np.zeros(0, np.float32), last=True))
            resampler = rate, soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
        yield _clipped(resampler[1].resample_chunk(samples))
    if resampler is None:
        raise MediaError(f"{path}: no audio could be decoded")
    yield _clipped(resampler[1].resample_chunk(np.zeros(0, np.float32), last=True))


def duration(path: Path) -> float:
    """Seconds of sound, as the file's header says; decoded where it says nothing.

    A file that is cut off holds less than it says, and for an mp3 of varying bit rate without a header it is a guess;
    for an AAC stream without a container, which has no header, see :func:`says_duration`.

    Raises:
        MediaError: as :func:`load_audio`, for a file that cannot be opened or holds no audio.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        # Matroska's own length is that of the whole, whose picture may go on after the sound.
        if found := _CLOCK_TIME.fullmatch(stream.metadata.get("DURATION", "")):
            hours, minutes, seconds = found.groups()
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        if container.duration is not None:
            return container.duration / 1e6
    return sum(len(samples) / rate for rate, samples in _on_clock(path))


def says_duration(path: Path) -> bool:
    """Whether a file's header says how long it is: of an AAC stream without a container the first frames are judged by.

    Raises:
        MediaError: as :func:`duration`.
    """
    with _opened(Path(path)) as (container, _):
        return container.format.name != "aac"


def _join(pieces: list[Piece], sample_rate: int) -> np.ndarray:
    import soxr

    parts = []
    for rate, group in groupby(pieces, key=lambda piece: piece[0]):  # a rare stream changes its rate half-way
        samples = np.concatenate([samples for _, samples in group])
        parts.append(samples if rate == sample_rate else soxr.resample(samples, rate, sample_rate))
    return np.clip(np.concatenate(parts), -1.0, 1.0, dtype=np.float32)


def _clipped(samples: np.ndarray) -> np.ndarray:
    return np.clip(samples, -1.0, 1.0, dtype=np.float32)


def _on_clock(path: Path) -> Iterator[Piece]:
    """All frames, with silence where the clock says that something is missing; never beyond the file's own length."""
    with _opened(path) as (container, stream):
        # A live recording (a browser's, or one that was never finished) says no length, and of Matroska without one
        # FFmpeg guesses it by the bit rate.
        guessed = container.format.name.startswith("matroska")
        longest = container.duration / 1e6 if container.duration and not guessed else math.inf
        clock = 0.0
        for time, frame in _frames(container, stream):
            rate = frame.sample_rate
            gap = min(time, longest) - clock if time is not None else 0.0
            if math.isinf(longest) and gap > _LONGEST_GAP_SECONDS:
                gap = 0.0
            while gap > _GAP_SECONDS:
                silence = np.zeros(round(min(gap, 60.0) * rate), dtype=np.float32)
                yield rate, silence
                clock += len(silence) / rate
                gap -= len(silence) / rate
            yield rate, _mono(frame)
            clock += frame.samples / rate


def _pieces(path: Path, start: float, end: float) -> Iterator[Piece]:
    """The sound from ``start`` to ``end`` in seconds, frame by frame: (rate, mono float32 samples)."""
    if start >= _SEEK_FROM_SECONDS:
        with _opened(path) as (container, stream):
            frames = _frames(container, stream, seek_to=start - _PREROLL_SECONDS)
            found = next(frames, None)
            # A poor index may land behind the start, or beyond the end: then only reading from the beginning is right.
            if found is not None and found[0] is not None and found[0] <= start:
                yield from _window(found, frames, start, end)
                return
    with _opened(path) as (container, stream):
        frames = _frames(container, stream)
        found = next(frames, None)
        if found is not None:
            yield from _window(found, frames, start, end)


def _window(
    found: tuple[float | None, "AudioFrame"],
    frames: Iterator[tuple[float | None, "AudioFrame"]],
    start: float,
    end: float,
) -> Iterator[Piece]:
    """Of a first frame and those after it, the samples whose time is in [start, end)."""
    time, frame = found
    clock = time or 0.0
    inside = False
    while True:
        rate = frame.sample_rate
        # Timestamps lead up to the cut; inside it frames are joined as they come, so that rounding makes no gaps.
        if not inside and time is not None:
            clock = time
        low = max(round((start - clock) * rate), 0)
        high = frame.samples if math.isinf(end) else min(round((end - clock) * rate), frame.samples)
        if low < high:
            inside = True
            yield rate, _mono(frame)[low:high]
        clock += frame.samples / rate
        if clock >= end:
            return
        following = next(frames, None)
        if following is None:
            return
        time, frame = following


def _frames(
    container: "InputContainer", stream: "AudioStream", seek_to: float | None = None
) -> Iterator[tuple[float | None, "AudioFrame"]]:
    """Decoded frames with their time in seconds (``None`` where the file has none), damaged packets passed over."""
    from av.error import FFmpegError

    origin = (container.start_time or 0) / 1e6
    try:
        if seek_to is not None:
            container.seek(int((seek_to + origin) * 1e6), backward=True)
    except FFmpegError:
        pass  # not seekable: nothing has been read yet, so it goes on from the beginning
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = packet.decode()
        except FFmpegError:
            continue  # a damaged packet; where reading itself failed, the next turn ends it
        for frame in frames:
            if frame.samples:
                yield None if frame.time is None else frame.time - origin, frame


def _mono(frame: "AudioFrame") -> np.ndarray:
    """The mean of the channels, float32 in [-1, 1]: integers over their full scale, what is not finite as 0."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    if samples.dtype.kind == "u":  # only 8 bits are unsigned
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    else:
        samples = np.clip(np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)
    return samples.mean(axis=0, dtype=np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "AudioStream"]]:
    import av
    from av.error import FFmpegError, InvalidDataError

    if not path.exists():
        raise MediaError(f"{path}: no such file")
    if not path.is_file():
        raise MediaError(f"{path}: a folder or device, not a media file")
    try:
        if not path.stat().st_size:
            raise MediaError(f"{path}: the file is empty")
        # "file:" and the list of protocols: whatever the name or a playlist says, only local files are opened.
        container = av.open(f"file:{path.absolute()}", metadata_errors="ignore", options={"protocol_whitelist": "file"})
    except (FFmpegError, OSError) as error:
        reason = "not audio or video, or damaged" if isinstance(error, InvalidDataError) else error.strerror
        raise MediaError(f"{path}: cannot be opened: {reason}") from None
    with container:
        if not container.streams.audio:
            raise MediaError(f"{path}: no audio track")
        yield container, container.streams.audio[0]
