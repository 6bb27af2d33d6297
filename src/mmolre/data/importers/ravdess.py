"""RAVDESS: 24 actors speak two sentences in eight emotions (Livingstone & Russo, PLOS ONE 2018, 13(5): e0196391).

Its file names say all: modality-channel-emotion-intensity-statement-repetition-actor. The labels made of them are ours:
the named emotion gets intensity 1 (normal) or 2 (strong), the other five 0, and neutral and calm are six zeros; what
training and evaluation use is presence (> 0). Sentiment is not labelled. The text is left absent: the two sentences
are the same in every emotion.
"""

import re
from collections.abc import Collection
from pathlib import Path

from mmolre.data.importers._common import ImportSummary, check_source, count_splits, finish, one_emotion
from mmolre.errors import UserError
from mmolre.schema import Utterance

TEST_ACTORS = (17, 18, 19, 20)
VALID_ACTORS = (15, 16)

_EXPECTED = "03-01-05-02-01-01-12.wav and so on (wav, flac or mp4), in Actor_01, Actor_02, … or any folder below"
_SUFFIXES = {".flac", ".wav", ".mp4"}
_NAME = re.compile(
    r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])"
    r"-(?P<statement>0[12])-(?P<repetition>0[12])-(?P<actor>[01]\d|2[0-4])"
)
_EMOTION_OF = {"03": "happy", "04": "sad", "05": "anger", "06": "fear", "07": "disgust", "08": "surprise"}
_VIDEO_ONLY, _AUDIO_ONLY = "02", "03"
_SONG = "02"


def import_ravdess(
    source: Path,
    out: Path,
    *,
    test_actors: Collection[int] = TEST_ACTORS,
    valid_actors: Collection[int] = VALID_ACTORS,
) -> ImportSummary:
    """Write the manifest of RAVDESS's speech: audio, emotions, speaker ``ravdess-07``, split by actor.

    Dropped are songs, files without sound, files named otherwise, and a recording's second copy (the video of an
    audio file that is there too, the same file in two folders).

    Args:
        source: a folder with the files at any depth.
        test_actors, valid_actors: 1 to 24, not overlapping; all others are train.

    Raises:
        UserError: no usable file below ``source``, or the two groups of actors overlap.
    """
    source = check_source(source, _EXPECTED)
    both = sorted(set(test_actors) & set(valid_actors))
    if both:
        raise UserError(f"actor {both[0]} is in both test and valid: no actor may be in two splits")
    rows: dict[str, Utterance] = {}
    dropped: list[tuple[str, str]] = []
    files = (path for path in source.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    # Audio before video, so that of a recording there as both the smaller file is taken.
    for path in sorted(files, key=lambda path: (not path.stem.startswith(_AUDIO_ONLY), path.name, path)):
        shown = str(path.relative_to(source))
        name = _NAME.fullmatch(path.stem)
        recording = path.stem[2:]  # all but the modality
        if name is None:
            dropped.append((shown, "not named modality-channel-emotion-intensity-statement-repetition-actor"))
        elif name["channel"] == _SONG:
            dropped.append((shown, "song, not speech"))
        elif name["modality"] == _VIDEO_ONLY:
            dropped.append((shown, "video without sound"))
        elif recording in rows:
            dropped.append((shown, f"the same recording as {rows[recording].id}"))
        else:
            rows[recording] = _utterance(path, name, set(test_actors), set(valid_actors))
    if not rows:
        raise UserError(f"{source}: no RAVDESS speech found: expected {_EXPECTED}")
    utterances = sorted(rows.values(), key=lambda row: row.id)
    notes = [f"split by actor: {count_splits(utterances)}"]
    options = {"test_actors": sorted(test_actors), "valid_actors": sorted(valid_actors)}
    return finish("ravdess", utterances, out, audio_root=source, dropped=dropped, notes=notes, options=options)


def _utterance(path: Path, name: re.Match[str], test: set[int], valid: set[int]) -> Utterance:
    actor = int(name["actor"])
    emotion = _EMOTION_OF.get(name["emotion"])
    return Utterance(
        id=path.stem,
        audio=path,
        split="test" if actor in test else "valid" if actor in valid else "train",
        speaker=f"ravdess-{actor:02d}",
        emotions=one_emotion(emotion, float(name["intensity"])),
    )
