"""From a media file to its timeline, and to the files that show it."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from mmolre.data import language as languages
from mmolre.encoders.weights import sha256
from mmolre.errors import UserError
from mmolre.files import cannot_write, refuse_inputs
from mmolre.recordings.alignment import align_text
from mmolre.recordings.cut import cut
from mmolre.recordings.outputs import as_csv, as_json, as_vtt
from mmolre.recordings.sound import Sound, open_sound, write_mp3
from mmolre.recordings.timeline import FORMAT, Timeline, read_timeline
from mmolre.recordings.transcriber import DEFAULT, Transcriber
from mmolre.recordings.transcript_file import read_transcript, within
from mmolre.recordings.words import Transcript, clock, joined, name_of

if TYPE_CHECKING:
    from mmolre.predictor import Predictor

TIMELINE, TABLE, SUBTITLES, REPORT, SOUND = "timeline.json", "timeline.csv", "subtitles.vtt", "report.html", "sound.mp3"
"""The files of an analysis. The timeline is written last: where it is, all are."""
MARK = b"Made by mmolre"
"""In each report of ours."""

EMBEDDED_BYTES = 20_000_000
"""Sound up to this size is inside the report, else beside it."""

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of the whole that is done (0 to 1)."""


def analyze(
    path: Path | str,
    *,
    transcript: Path | str | None = None,
    model: "Predictor | Path | str | None" = None,
    transcriber: str = DEFAULT,
    out: Path | str | None = None,
    progress: Progress = lambda *_: None,
) -> Timeline:
    """Analyse a recording: what is said when, and the sentiment and emotions of it from words and voice.

    Args:
        path: any audio or video file that PyAV decodes, of any length.
        transcript: .srt, .vtt, .json or .txt; without it the recording is transcribed by faster-whisper.
        model: a loaded one, a run's folder, a model's folder or a hub id; by default the one in the package.
        transcriber: a role, a folder with a CTranslate2 Whisper, or a size that faster-whisper knows.
        out: a folder to write timeline.json, timeline.csv, subtitles.vtt and report.html to; nothing without it.
        progress: see :data:`Progress`.

    Returns:
        The timeline; without moments where nothing is said.

    Raises:
        UserError: no such file, not media, no sound, a transcript that does not fit, a folder that cannot be written.
    """
    return Analyzer(model, transcriber).analyze(
        Path(path), Path(transcript) if transcript else None, Path(out) if out else None, progress
    )


class Analyzer:
    """A model and a transcriber, loaded once for any number of recordings. Arguments as for :func:`analyze`."""

    def __init__(self, model: "Predictor | Path | str | None" = None, transcriber: str = DEFAULT) -> None:
        self._model = model
        self.transcriber = Transcriber(transcriber)

    @cached_property
    def predictor(self) -> "Predictor":
        """The model, loaded on first use."""
        from mmolre.predictor import load

        if self._model is None or isinstance(self._model, (str, Path)):
            return load(self._model)
        return self._model

    @cached_property
    def _model_digest(self) -> str:
        from mmolre.bundle import bundle_digest

        if self._model is None or isinstance(self._model, (str, Path)):
            return bundle_digest(self._model)  # what is done already needs no model
        return self._model.bundle.digest

    def key(self, path: Path, transcript: Path | None) -> str:
        """The same iff recording, transcript, their names, transcriber and model are.

        Raises:
            UserError: a file cannot be read.
        """
        needs_hearing = transcript is None or transcript.suffix.lower() == ".txt"
        words = f"{transcript.name}\0{digest_of(transcript)}" if transcript else ""  # a name tells language and format
        parts = [
            *(str(FORMAT), path.name, digest_of(path), words),
            *(self.transcriber.identity if needs_hearing else "", self._model_digest),
        ]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()

    def done(self, path: Path, transcript: Path | None, out: Path) -> Timeline | None:
        """The timeline in ``out`` if it is this very analysis, else ``None``."""
        kept = read_timeline(out / TIMELINE)
        if kept is None or not (out / REPORT).is_file():
            return None
        return kept if kept.key == self.key(path, transcript) else None

    def analyze(
        self, path: Path, transcript: Path | None = None, out: Path | None = None, progress: Progress = lambda *_: None
    ) -> Timeline:
        """See :func:`analyze`. What ``out`` holds of the same recording is replaced."""
        if out is not None:
            _check_other(out, path, transcript)
        from mmolre.data.media import duration

        with contextlib.ExitStack() as stack:
            if out is not None:
                stack.enter_context(_folder(out))
            end = 0.1 if transcript is None or transcript.suffix.lower() == ".txt" else 0.2
            total = max(duration(path), 0.1)  # what is no media is refused here, before it is read whole
            # Before anything is read: a file that is saved meanwhile does not give its new key to what it was.
            identity = digest_of(path), self.key(path, transcript)

            def decoded(seconds: float) -> None:
                progress("reading the sound", end * min(seconds / total, 1.0))

            sound = stack.enter_context(open_sound(path, decoded))
            mp3 = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmolre-"))) / SOUND
            pool = stack.enter_context(ThreadPoolExecutor(1))
            left = Event()
            stack.callback(left.set)  # the pool waits for its work: by Ctrl-C or an error it is not needed any more
            encoding = pool.submit(write_mp3, sound, mp3, left.is_set) if out is not None else None
            timeline = self._timeline(path, transcript, sound, identity, progress, end)
            if out is not None and encoding is not None:
                progress("writing", 0.99)
                encoding.result()
                _write(timeline, mp3, out)
        progress("done", 1.0)
        return timeline

    def _timeline(
        self,
        path: Path,
        transcript: Path | None,
        sound: Sound,
        identity: tuple[str, str],
        progress: Progress,
        begin: float,
    ) -> Timeline:
        """``identity``: the recording's digest and the analysis's key; ``begin``: the share that is done."""
        from mmolre.recordings.score import recording_encoders, score

        encoders = recording_encoders(self.predictor)
        source, key = identity
        notes = []
        if sound.cut_off:
            notes.append(
                f"The file is cut off or damaged: of {clock(sound.promised)} only {clock(sound.seconds)} could be read."
            )
        heard_until = begin
        if transcript is not None and transcript.suffix.lower() != ".txt":
            words = read_transcript(transcript, max(sound.seconds, sound.promised))
            words = within(words, sound.seconds)
        else:
            heard_until = 0.7
            span = heard_until - begin
            words = self.transcriber.transcribe(
                sound, lambda s: progress("transcribing", begin + span * min(s / max(sound.seconds, 0.1), 1.0))
            )
            if transcript is not None and words.passages:
                words = align_text(transcript, words)
        words = _with_language(words)
        unreadable = None
        if self.predictor.reads_english_only and words.language not in (None, "en"):
            unreadable = f"the words are in {languages.name(words.language)}, and this model reads English only"
            notes.append(f"Nothing is scored: {unreadable}.")
        fits = lambda _: True  # noqa: E731
        if "text" in encoders:
            text = encoders["text"]
            fits = lambda s: len(text.tokenizer(s, verbose=False)["input_ids"]) <= text.window  # type: ignore[attr-defined]  # noqa: E731
        cuts = cut(words.passages, fits=fits)
        span = 0.98 - heard_until
        moments = score(
            self.predictor,
            cuts,
            sound,
            unreadable=unreadable,
            progress=lambda share: progress("scoring", heard_until + span * share),
        )
        return Timeline(
            recording=name_of(path),
            source=source,
            seconds=round(sound.seconds, 3),
            moments=moments,
            language=words.language,
            language_source=words.language_source,
            transcript=words.origin,
            model=self._facts(list(encoders)),
            notes=[*notes, *words.notes],
            key=key,
        )

    def _facts(self, reads: list[str]) -> dict[str, object]:
        bundle = self.predictor.bundle
        about = bundle.about
        kept = ("recipe", "seed", "train_utterances", "train_with_sentiment", "train_with_emotions", "valid_learned")
        return {
            "reads": reads,
            "tasks": list(bundle.model.config.tasks),
            "late_fusion": bundle.decision.late,
            "context": self.predictor.reads_context,
            **{name: about[name] for name in kept if name in about},
            "sentiment_error_quantiles": about.get("sentiment_error_quantiles") or None,
        }


def _write(timeline: Timeline, mp3: Path, out: Path) -> None:
    from mmolre.recordings.report import render

    """All files beside first, so that a full disk leaves ``out`` as it was."""
    embedded = mp3.stat().st_size <= EMBEDDED_BYTES
    names = [REPORT, *([] if embedded else [SOUND]), SUBTITLES, TABLE, TIMELINE]
    try:
        with tempfile.TemporaryDirectory(prefix=".mmolre-", dir=out) as folder:
            beside = Path(folder)
            if not embedded:
                shutil.copyfile(mp3, beside / SOUND)
            with (beside / REPORT).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(render(timeline, mp3.read_bytes() if embedded else SOUND))
            for name, content in ((SUBTITLES, as_vtt), (TABLE, as_csv), (TIMELINE, as_json)):
                (beside / name).write_bytes(content(timeline).encode())
            for name in (TIMELINE, SOUND):  # what was there is not whole from here on
                (out / name).unlink(missing_ok=True)
            for name in names:
                (beside / name).replace(out / name)
    except OSError as error:
        raise cannot_write(out / TIMELINE, error) from error


@contextlib.contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Make the folder, and see that it can be written to before hours of work; taken away again if nothing came."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def _check_other(out: Path, path: Path, transcript: Path | None) -> None:
    """A :class:`UserError` where anything would be overwritten but an analysis of this very recording."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as --out")
    names = (TIMELINE, TABLE, SUBTITLES, REPORT, SOUND)
    for name in names:
        refuse_inputs(out / name, [path, *([transcript] if transcript else [])])
    kept = read_timeline(out / TIMELINE)
    if kept is not None and kept.recording != name_of(path):
        raise UserError(f"{out} holds the analysis of {kept.recording}: give another --out")
    if kept is not None and kept.source != digest_of(path):
        raise UserError(
            f"{out} holds the analysis of another {kept.recording}, or of what it was before: give another --out, or "
            f"delete {out / TIMELINE} to replace it"
        )
    if kept is None and not is_ours(out / REPORT, MARK):  # a report without a timeline: written until it was stopped
        refuse_foreign(out / name for name in names)


def is_ours(page: Path, mark: bytes) -> bool:
    """Whether a page was written by this package."""
    return page.is_file() and mark in page.read_bytes()


def refuse_foreign(files: Iterable[Path]) -> None:
    """A :class:`UserError` where one of the files is there."""
    for file in files:
        if file.exists():
            raise UserError(f"{file} is not of an analysis, and would be overwritten: give another --out")


def _with_language(words: Transcript) -> Transcript:
    if words.language is not None or not words.passages:
        return words
    found = languages.detect(" ".join(joined(passage.words) for passage in words.passages))
    if found is None or words.language_source.startswith("not checked:"):  # who hears English only writes English only
        return words
    return replace(words, language=found, language_source="detected from the words")


def digest_of(path: Path) -> str:
    """The SHA-256 of a file; UserError where it cannot be read."""
    try:
        about = path.stat()
        return _digest(path.resolve(), about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


@cache
def _digest(path: Path, _size: int, _changed: int) -> str:
    """Large recordings are read once for it, as long as they stay as they are."""
    return sha256(path)
