#!/usr/bin/env python3
"""What `mmolre analyze` costs, and what its transcription does to the scores.

    python benchmarks/analyze.py speed RECORDING [--transcript T.srt] [--model RUN] [--repeat N]
    python benchmarks/analyze.py words MANIFEST --audio-root DIR [--model RUN]
    python benchmarks/analyze.py band MANIFEST [--split test] [--model RUN]

`speed` prints the share of the recording's length that the analysis takes and the largest resident memory; a long
recording is made with `--repeat N` of a short one. `words` predicts the sentiment of each clip of a manifest with
reference texts and labels, once from these texts and sound, once from our transcription and the same sound, and prints
both correlations with the labels. `band` prints how many labelled sentiments of a split lie within the band that a
report shows, which is meant to hold four of five.
"""

import argparse
import os
import resource
import tempfile
import time
import wave
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmolre.errors import UserError, run_script

if TYPE_CHECKING:
    from mmolre.data.cache import FeatureCache
    from mmolre.data.dataset import FailedRow
    from mmolre.predictor import Prediction, Predictor
    from mmolre.schema import Utterance

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does


def speed(path: Path, transcript: Path | None, model: str | None, repeat: int) -> None:
    from mmolre.data.media import stream_audio
    from mmolre.recordings.analysis import Analyzer

    with tempfile.TemporaryDirectory() as folder:
        if repeat > 1:
            long = Path(folder) / "long.wav"
            with wave.open(str(long), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(16_000)
                for _ in range(repeat):
                    for block in stream_audio(path):
                        file.writeframes((block * 32767).astype("<i2").tobytes())
            path = long
        started, before = time.perf_counter(), time.process_time()
        timeline = Analyzer(model).analyze(path, transcript, Path(folder) / "out")
        seconds, cpu = time.perf_counter() - started, time.process_time() - before
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    share = timeline.seconds / seconds
    print(
        f"{timeline.seconds:.0f} s in {seconds:.0f} s ({cpu:.0f} s of processor time): 1/{share:.1f} of its length; "
        f"at most {memory:.2f} GiB"
    )


def _in_context(
    predictor: "Predictor", rows: "Sequence[Utterance]", cache: "FeatureCache | None" = None
) -> "list[Prediction | FailedRow]":
    """Each row's prediction, read as `mmolre analyze` reads it: with the rest of its recording."""
    from mmolre.data.dataset import FailedRow

    found = list(predictor.predict_many(rows, cache))
    read = [i for i, p in enumerate(found) if not isinstance(p, FailedRow)]
    alone = [p for p in found if not isinstance(p, FailedRow)]
    for i, p in zip(read, predictor.in_context(alone, [rows[i].recording for i in read]), strict=True):
        found[i] = p
    return found


def words(manifest: Path, audio_root: Path | None, model: str | None) -> None:
    from mmolre.data.dataset import FailedRow
    from mmolre.data.manifest import read_manifest
    from mmolre.predictor import load
    from mmolre.recordings.sound import open_sound
    from mmolre.recordings.transcriber import Transcriber
    from mmolre.recordings.words import joined

    rows = [
        u
        for u in read_manifest(manifest, audio_root=audio_root)
        if u.text and u.audio and u.audio.is_file() and u.sentiment is not None
    ]
    predictor, transcriber = load(model), Transcriber()
    truth = np.array([u.sentiment for u in rows])
    heard = []
    for u in rows:
        assert u.audio is not None
        with open_sound(u.audio) as sound:
            passages = transcriber.transcribe(sound).passages
        heard.append(replace(u, text=" ".join(joined(p.words) for p in passages) or None))
    for name, utterances in (("reference text", rows), ("our transcription", heard)):
        found = _in_context(predictor, utterances)
        values = np.array([np.nan if isinstance(p, FailedRow) else p.sentiment for p in found], dtype=float)
        kept = ~np.isnan(values)
        print(f"{name}: correlation {np.corrcoef(values[kept], truth[kept])[0, 1]:.4f} on {kept.sum()} clips")
    missing = sum(u.text is None for u in heard)
    print(f"nothing heard in {missing} of {len(rows)} clips; those are predicted from sound alone")


def band(manifest: Path, split: str, model: str | None) -> None:
    from mmolre.data.cache import FeatureCache
    from mmolre.data.dataset import FailedRow
    from mmolre.data.manifest import read_manifest
    from mmolre.encoders.weights import home
    from mmolre.evaluate import residuals
    from mmolre.predictor import load

    predictor = load(model)
    rows = [u for u in read_manifest(manifest) if u.split == split and u.sentiment is not None]
    held = []
    for u, p in zip(rows, _in_context(predictor, rows, FeatureCache(home() / "features")), strict=True):
        if isinstance(p, FailedRow) or p.sentiment is None or u.sentiment is None:
            continue
        ends = residuals.band(predictor.bundle.about, "+".join(p.modalities))
        if ends is None:
            raise UserError("this model does not say how uncertain it is")
        held.append(ends[0] <= u.sentiment - p.sentiment <= ends[1])
    print(f"{np.mean(held):.1%} of {len(held)} within the band")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "words", "band"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--transcript", type=Path)
    parser.add_argument("--audio-root", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--split", default="test")
    parser.add_argument("--repeat", type=int, default=1)
    given = parser.parse_args()
    if given.what == "speed":
        speed(given.path, given.transcript, given.model, given.repeat)
    elif given.what == "band":
        band(given.path, given.split, given.model)
    else:
        words(given.path, given.audio_root, given.model)


if __name__ == "__main__":
    run_script(main)
