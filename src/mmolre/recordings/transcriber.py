"""Speech to words with their times, by faster-whisper, block by block: memory does not grow with the length."""

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmolre.encoders.weights import SOURCES, digest, locate
from mmolre.errors import UserError
from mmolre.recordings.sound import SAMPLE_RATE, Sound
from mmolre.recordings.words import Passage, Transcript, Word, clock

DEFAULT = "whisper-tiny-en"

BLOCK_SECONDS = 120.0
_SEARCH_SECONDS = 15.0  # a block ends at the quietest moment of its last seconds
_QUIET_SECONDS = 0.4
_BATCH = 2  # windows of 30 s at a time; more is hardly faster on two cores, and costs memory
_BEAM = 5
_REPEATING = 2.4  # Whisper's own mark: text that compresses better than this goes round in circles
_UNSURE = -1.0  # mean log-probability; Whisper's own mark too
_NO_SPEECH = 0.6


class Transcriber:
    """A Whisper model. Loaded when it is first used.

    Args:
        source: a role (``mmolre encoders list``), a folder with a CTranslate2 Whisper, or a size that faster-whisper
            knows (``small``, ``large-v3``), which it downloads.
    """

    def __init__(self, source: str = DEFAULT) -> None:
        self.source = source

    @cached_property
    def identity(self) -> str:
        """What tells one transcriber from another; loads nothing."""
        if self._is_size or (SOURCES.get(self.source) is None and not Path(self.source).is_dir()):
            return self.source
        return digest(self._folder / "model.bin")

    @cached_property
    def _folder(self) -> Path:
        folder = locate(self.source)
        if not (folder / "model.bin").is_file():
            raise UserError(f"transcriber {self.source!r}: {folder} holds no model.bin of a CTranslate2 Whisper")
        return folder

    @cached_property
    def _is_size(self) -> bool:
        if self.source in SOURCES or Path(self.source).is_dir():
            return False
        return self.source in _package().available_models()

    @cached_property
    def _model(self) -> Any:
        package = _package()
        where = self.source if self._is_size else str(self._folder)
        threads = int(os.environ.get("OMP_NUM_THREADS") or 0) or min(os.cpu_count() or 1, 4)
        try:
            return package.WhisperModel(where, device="cpu", compute_type="int8", cpu_threads=threads)
        except Exception as error:  # the loader raises RuntimeError, ValueError, OSError and the hub's own kinds alike
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"cannot load the transcriber {self.source!r}: {reason}") from error

    def transcribe(self, sound: Sound, progress: Callable[[float], None] = lambda _: None) -> Transcript:
        """All that is said. Silence and music give no passages.

        Args:
            sound: of the recording.
            progress: called with the seconds that are done.
        """
        language = None if self._model.model.is_multilingual else "en"
        checked = language is None
        notes: list[str] = []
        passages = []
        for start, end in _blocks(sound):
            segments, info = self._decode(sound.piece(start, end), language)
            if segments and language is None:
                language = info.language
            for segment in segments:
                if reason := _useless(segment):
                    if reason == "repeats":
                        notes.append(
                            f"The transcriber went round in circles from {clock(start + segment.start)} to "
                            f"{clock(start + segment.end)}: what it wrote there is left out."
                        )
                    continue
                words = tuple(
                    Word(start + float(w.start), start + float(w.end), w.word.strip())
                    for w in segment.words or ()
                    if w.word.strip()
                )
                if words:
                    passages.append(Passage(words))
            progress(end)
        how = "detected from the sound" if checked and passages else "not checked: the transcriber knows English only"
        return Transcript(
            tuple(_whole(passages)),
            f"an automatic transcription ({self.source})",
            language if checked else None,
            how if passages else "not checked",
            tuple(notes),
        )

    def _decode(self, wave: np.ndarray, language: str | None) -> tuple[list[Any], Any]:
        from faster_whisper import BatchedInferencePipeline

        options = {"language": language, "beam_size": _BEAM, "batch_size": _BATCH, "word_timestamps": True}
        segments, info = BatchedInferencePipeline(self._model).transcribe(wave, vad_filter=True, **options)
        found = []
        for segment in segments:
            if segment.compression_ratio > _REPEATING:  # once more, with repetitions made dear
                piece = wave[int(segment.start * SAMPLE_RATE) : int(segment.end * SAMPLE_RATE)]
                again, _ = BatchedInferencePipeline(self._model).transcribe(
                    piece, vad_filter=True, repetition_penalty=1.2, no_repeat_ngram_size=5, **options
                )
                found += [_shifted(s, segment.start) for s in again]
            else:
                found.append(segment)
        return found, info


def _shifted(segment: Any, by: float) -> Any:
    for word in segment.words or ():
        word.start, word.end = word.start + by, word.end + by
    segment.start, segment.end = segment.start + by, segment.end + by
    return segment


def _useless(segment: Any) -> str | None:
    if segment.compression_ratio > _REPEATING:
        return "repeats"
    if segment.avg_logprob < _UNSURE and segment.no_speech_prob > _NO_SPEECH:
        return "no speech"
    return None


def _whole(passages: list[Passage]) -> Iterator[Passage]:
    """Sentences run over the transcriber's windows: one passage."""
    if passages:
        yield Passage(tuple(sorted((w for p in passages for w in p.words), key=lambda w: w.start)))


def _blocks(sound: Sound) -> Iterator[tuple[float, float]]:
    """Stretches of at most ``BLOCK_SECONDS`` that end where it is quiet."""
    start = 0.0
    while start < sound.seconds:
        end = start + BLOCK_SECONDS
        if end >= sound.seconds:
            end = sound.seconds
        else:
            tail = sound.piece(end - _SEARCH_SECONDS, end)
            width = int(_QUIET_SECONDS * SAMPLE_RATE)
            power = np.add.reduceat(tail**2, np.arange(0, len(tail) - width + 1, width // 4))
            window = np.convolve(power, np.ones(4), "valid")
            end += -_SEARCH_SECONDS + (int(window.argmin()) * (width // 4) + width / 2) / SAMPLE_RATE
        yield start, end
        start = end


def _package() -> Any:
    try:
        import faster_whisper
    except ImportError:
        raise UserError(
            "transcription needs faster-whisper: pip install 'mmolre[analyze]', or give --transcript"
        ) from None
    return faster_whisper
