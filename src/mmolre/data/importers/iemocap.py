"""IEMOCAP: ten actors in five sessions (Busso et al., Language Resources and Evaluation 2008, 42(4)).

Expected is the release's own folder: ``Session1`` to ``Session5`` with ``dialog/EmoEvaluation/*.txt``,
``dialog/transcriptions/*.txt``, and ``sentences/wav/DIALOG/UTTERANCE.wav`` or ``dialog/wav/DIALOG.wav``.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmolre.data.importers._common import (
    EMOTION_OF,
    ImportSummary,
    check_source,
    clip_file,
    count_splits,
    finish,
    one_emotion,
    rescale,
)
from mmolre.errors import UserError
from mmolre.schema import EMOTIONS, Utterance

_EXPECTED = "IEMOCAP's folders Session1 to Session5, with dialog/EmoEvaluation and dialog/transcriptions in them"
_LABEL = re.compile(
    r"\[(?P<start>\d+\.\d+) - (?P<end>\d+\.\d+)\]\t(?P<id>Ses\d\d\w+)\t(?P<emotion>\w+)\t"
    r"\[(?P<valence>\d+\.\d+), [\d.]+, [\d.]+\]\s*"
)
_LINE = re.compile(r"(?P<id>Ses\d\d\w+) \[[\d.]+-[\d.]+\]: (?P<text>.*)")
_VALENCE = (1.0, 5.0)
_VALID, _TEST = 4, 5


def import_iemocap(sources: Sequence[Path], out: Path) -> ImportSummary:
    """Write the manifest: text, audio, sentiment (the valence of 1 to 5, rescaled), emotions, speaker.

    The categorical label gets intensity 1 and the other emotions 0 (excited counts as happy; neutral is six zeros);
    frustrated, other and undecided are left blank. Sessions 1-3 are train, 4 valid, 5 test: no speaker is in two.

    Raises:
        UserError: none of the folders, or no labelled utterance in them.
    """
    folder = check_source(Path(sources[0]), _EXPECTED)
    sessions = {int(path.name[-1]): path for path in sorted(folder.glob("Session[1-5]")) if path.is_dir()}
    if not sessions:
        raise UserError(f"{folder}: no session there: expected {_EXPECTED}")
    inputs: list[Path] = []
    rows: dict[str, Utterance] = {}
    dropped: list[tuple[str, str]] = []
    for number, session in sessions.items():
        texts = dict(_texts(session, inputs))
        for path in _files(session / "dialog" / "EmoEvaluation", inputs):
            for match in filter(None, map(_LABEL.fullmatch, _lines(path))):
                row = _utterance(match, number, session, path.stem, texts.get(match["id"]))
                if row.id in rows:
                    dropped.append((row.id, "the id was there before"))
                rows.setdefault(row.id, row)
    if not rows:
        raise UserError(f"{folder}: no labelled utterance there: expected {_EXPECTED}")
    utterances = list(rows.values())
    notes = [
        f"split by session: {count_splits(utterances)}",
        f"{sum(row.audio is not None for row in utterances)} of {len(utterances)} utterances have audio",
        f"{sum(row.emotions[0] is None for row in utterances)} have an emotion that is none of the six: left blank",
        "sentiment is the valence, rescaled from [1, 5] to [-3, 3]",
    ]
    return finish("iemocap", utterances, out, audio_root=folder, dropped=dropped, notes=notes, inputs=inputs)


def _files(folder: Path, inputs: list[Path]) -> list[Path]:
    found = sorted(path for path in folder.glob("Ses*.txt") if path.is_file())
    inputs += found
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _texts(session: Path, inputs: list[Path]) -> Iterator[tuple[str, str]]:
    for path in _files(session / "dialog" / "transcriptions", inputs):
        for match in filter(None, map(_LINE.fullmatch, _lines(path))):
            yield match["id"], match["text"].strip()


def _utterance(match: re.Match[str], number: int, session: Path, dialog: str, text: str | None) -> Utterance:
    key, emotion, valence = match["id"], match["emotion"].lower(), float(match["valence"])
    start, end = float(match["start"]), float(match["end"])
    audio = clip_file(session / "sentences" / "wav" / dialog, key)
    whole = clip_file(session / "dialog" / "wav", dialog) if audio is None else None
    low, high = _VALENCE
    return Utterance(
        id=key,
        text=text or None,
        audio=audio or whole,
        start=None if audio else start,
        end=None if audio else end,
        cut=whole is not None and start < end,
        split="test" if number == _TEST else "valid" if number == _VALID else "train",
        speaker=f"{key[:5]}{key.rpartition('_')[2][:1]}",  # the turn's letter: the other one wears the dialogue's
        video_id=dialog,
        sentiment=rescale(valence, low, high) if low <= valence <= high else None,
        emotions=one_emotion(EMOTION_OF[emotion]) if emotion in EMOTION_OF else (None,) * len(EMOTIONS),
    )
