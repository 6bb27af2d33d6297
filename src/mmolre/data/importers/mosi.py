"""CMU-MOSI: opinions from 93 videos, with sentiment (Zadeh et al., IEEE Intelligent Systems 2016, 31(6)).

Expected is a folder with ``segments.csv`` (video_id, clip_id, start, end, split, text, sentiment) and, for as many
segments as there are, one file each: ``audio/VIDEO_CLIP.flac`` (or wav, mp3, m4a, ogg), else ``video/VIDEO_CLIP.mp4``.
"""

from dataclasses import replace
from pathlib import Path

from mmolre.data.importers._common import ImportSummary, check_source, finish
from mmolre.data.manifest import read_manifest
from mmolre.errors import UserError

_EXPECTED = "segments.csv, and the clips as audio/VIDEO_CLIP.flac (or .wav) or video/VIDEO_CLIP.mp4"
_FOLDERS = ("audio", "video")
_SUFFIXES = (".flac", ".wav", ".mp3", ".m4a", ".ogg", ".mp4")


def import_mosi(source: Path, out: Path) -> ImportSummary:
    """Write the manifest of CMU-MOSI: text, sentiment, and audio where the segment's own file is there.

    A file is one clip, so rows with audio get no start and end: those of ``segments.csv`` are times in the source
    video. They stay, as information, in rows without audio. A blank sentiment stays blank. A video's rows stand in the
    order in which they were said.

    Raises:
        UserError: no folder, no ``segments.csv`` in it, or one that is no manifest.
    """
    source = check_source(source, _EXPECTED)
    segments = source / "segments.csv"
    if not segments.is_file():
        raise UserError(f"{source}: no segments.csv: expected {_EXPECTED}")
    # Once the times are gone, the order alone tells what was said before what; the file has 10 before 2.
    utterances = sorted(read_manifest(segments), key=lambda u: (u.video_id or "", u.start or 0.0))
    clips = _clips(source)
    rows = []
    for utterance in utterances:
        clip = clips.pop(utterance.id, None)
        rows.append(utterance if clip is None else replace(utterance, audio=clip, start=None, end=None, cut=False))
    dropped = [(str(path.relative_to(source)), "no such segment in segments.csv") for path in clips.values()]
    n_audio = sum(row.audio is not None for row in rows)
    notes = [f"{n_audio} of {len(rows)} utterances have audio"]
    return finish("mosi", rows, out, audio_root=source, dropped=dropped, notes=notes, inputs=[segments])


def _clips(source: Path) -> dict[str, Path]:
    """Each clip's file by its name; of several the first by folder, then by the order of the endings."""
    clips: dict[str, Path] = {}
    for folder in _FOLDERS:
        for suffix in _SUFFIXES:
            for path in sorted((source / folder).glob(f"*{suffix}")):
                clips.setdefault(path.stem, path)
    return clips
