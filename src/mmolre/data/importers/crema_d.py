"""CREMA-D: 91 actors speak twelve sentences in six emotions (Cao et al., IEEE Trans. Affective Computing 2014, 5(4)).

Its file names say all: actor_sentence_emotion_level, as in ``1001_DFA_ANG_XX.wav``. The labels made of them are ours:
the intended emotion gets intensity 1 (low or not said), 2 (medium) or 3 (high), the other five 0, and neutral is six
zeros. Sentiment is not labelled. The text is left absent: the sentences are the same in every emotion.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mmolre.data.importers._common import (
    EMOTION_OF,
    MEDIA_SUFFIXES,
    ImportSummary,
    check_source,
    count_splits,
    finish,
    one_emotion,
)
from mmolre.errors import UserError
from mmolre.schema import Utterance

_EXPECTED = "1001_DFA_ANG_XX.wav and so on (wav, flac, mp3 or mp4), in AudioWAV or any folder below"
_NAME = re.compile(r"(?P<actor>10\d\d)_[A-Z]{3}_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<level>LO|MD|HI|XX|X)")
_LEVELS = {"LO": 1.0, "MD": 2.0, "HI": 3.0}
_FIRST_VALID, _FIRST_TEST = 1067, 1076


def import_crema_d(sources: Sequence[Path], out: Path) -> ImportSummary:
    """Write the manifest: audio, emotions, speaker ``crema-d-1001``; actors 1001-1066 train, to 1075 valid, then test.

    Raises:
        UserError: no usable file below the folder.
    """
    folder = check_source(Path(sources[0]), _EXPECTED)
    rows: dict[str, Utterance] = {}
    dropped: list[tuple[str, str]] = []
    files = [path for path in folder.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES and path.is_file()]
    for path in sorted(files, key=lambda path: (MEDIA_SUFFIXES.index(path.suffix.lower()), path.name, path)):
        name = _NAME.fullmatch(path.stem)
        if name is None:
            dropped.append((str(path.relative_to(folder)), "not named actor_sentence_emotion_level"))
        elif path.stem in rows:
            dropped.append((str(path.relative_to(folder)), "the same recording as another file"))
        else:
            rows[path.stem] = _utterance(path, name)
    if not rows:
        raise UserError(f"{folder}: nothing of CREMA-D found: expected {_EXPECTED}")
    utterances = sorted(rows.values(), key=lambda row: row.id)
    notes = [f"split by actor: {count_splits(utterances)}"]
    return finish("crema-d", utterances, out, audio_root=folder, dropped=dropped, notes=notes)


def _utterance(path: Path, name: re.Match[str]) -> Utterance:
    actor = int(name["actor"])
    return Utterance(
        id=path.stem,
        audio=path,
        split="test" if actor >= _FIRST_TEST else "valid" if actor >= _FIRST_VALID else "train",
        speaker=f"crema-d-{actor}",
        emotions=one_emotion(EMOTION_OF[name["emotion"].lower()], _LEVELS.get(name["level"], 1.0)),
    )
