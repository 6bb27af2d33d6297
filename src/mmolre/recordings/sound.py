"""A recording's sound, decoded once into a temporary file and read from there, so that length costs no memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmolre.data.media import duration, says_duration, stream_audio
from mmolre.files import cannot_write

SAMPLE_RATE = 16_000
MP3_BITS_A_SECOND = 32_000
"""Of the sound in the report: speech stays clear, and an hour is 14 MB."""

_TOLERATED_SECONDS = 2.0  # headers are often a little wrong


@dataclass(frozen=True, slots=True)
class Sound:
    """Mono sound at 16 kHz.

    Attributes:
        samples: int16; its slices are read from a file.
        promised: seconds that the file's header says; what could be read where it says nothing.
    """

    samples: "np.ndarray | _Stored"
    promised: float

    @property
    def seconds(self) -> float:
        """How much could be read."""
        return len(self.samples) / SAMPLE_RATE

    @property
    def cut_off(self) -> bool:
        """Whether clearly less could be read than the header promises."""
        return self.promised - self.seconds > max(_TOLERATED_SECONDS, 0.01 * self.promised)

    def piece(self, start: float, end: float) -> np.ndarray:
        """The sound from ``start`` to ``end`` in seconds: float32 in [-1, 1]."""
        first, last = (round(t * SAMPLE_RATE) for t in (max(start, 0.0), end))
        return self.samples[first:last].astype(np.float32) / 32768


class _Stored:
    """Samples in a file. Not mapped: pages of a mapping count as this process's memory."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice) -> np.ndarray:
        first, last, _ = part.indices(self._count)
        return np.fromfile(self._path, "<i2", max(last - first, 0), offset=2 * first)


@contextmanager
def open_sound(path: Path, progress: Callable[[float], None] = lambda _: None) -> Iterator[Sound]:
    """Decode a recording; the sound can be used within the ``with``.

    Args:
        path: any media file with sound.
        progress: called with the seconds that are decoded.

    Raises:
        MediaError: not media, no sound in it, not there.
        UserError: the disk of the temporary folder is full.
    """
    promised = duration(path)
    with TemporaryDirectory(prefix="mmolre-", ignore_cleanup_errors=True) as folder:
        raw = Path(folder) / "sound.s16"
        count = 0
        try:
            with raw.open("wb") as file:
                for block in stream_audio(path, SAMPLE_RATE):
                    file.write((block * 32767).round().astype("<i2").tobytes())
                    count += len(block)
                    progress(count / SAMPLE_RATE)
        except OSError as error:
            raise cannot_write(raw, error) from error
        yield Sound(_Stored(raw, count), promised if says_duration(path) else count / SAMPLE_RATE)


def write_mp3(sound: Sound, path: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """The sound as a small mono mp3, which every browser plays.

    Args:
        stopped: asked once a minute of sound; where it says so, the file stays unfinished.
    """
    import av

    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono", options={"compression_level": "7"})
        stream.bit_rate = MP3_BITS_A_SECOND
        block = 60 * SAMPLE_RATE
        for first in range(0, len(sound.samples), block):
            if stopped():
                break
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(sound.samples[first : first + block])[None], format="s16p", layout="mono"
            )
            frame.sample_rate, frame.pts = SAMPLE_RATE, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
