"""What the recipe `everyday-dialogues` learns of a corpus that says of sentiment only its sign, as MELD does.

    python scripts/dialogues.py runs/mosei-mpnet --taught MOSEI.csv --taught MOSI/manifest.csv \\
        --dialogues data/meld/manifest.csv --out data/dialogues

Writes two files. ``manifest.jsonl``: the dialogues, with their emotions, and with a sentiment only where it is neutral,
0: "positive" does not say how positive, and a 1 for all of them teaches that nothing is more. Of valid's dialogues some
200 rows stay valid, so that `top` is fitted to speech without emotion as well, and the other corpora, of which most of
valid is, go on deciding the rest; the others become test, with all their labels, to which nothing is fitted.
``teacher.jsonl``, for ``teachers``: what the model says of the training texts of the other corpora, each utterance on
its own; and of the dialogues' rows that are not neutral its sentiment, where it agrees with the sign.
"""

import argparse
import json
import math
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from mmolre.data.cache import FeatureCache
from mmolre.data.manifest import read_manifests, write_manifest
from mmolre.encoders.weights import home
from mmolre.errors import run_script
from mmolre.files import write_text
from mmolre.schema import EMOTIONS, SENTIMENT_RANGE, TASKS, Utterance
from mmolre.train.teachers import Taught, ask_teachers

DIGITS = 4
VALID = 200


def split_valid(utterances: Sequence[Utterance], rows: int = VALID) -> list[Utterance]:
    """Whole recordings, in the order of a shuffle, stay valid until there are so many ``rows``; the rest are test."""
    recordings = sorted({u.recording or u.id for u in utterances})
    random.Random(0).shuffle(recordings)
    of = Counter(u.recording or u.id for u in utterances)
    before = dict(zip(recordings, accumulate((of[r] for r in recordings), initial=0), strict=False))
    return [u if before[u.recording or u.id] < rows else replace(u, split="test") for u in utterances]


def without_signs(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Unlabelled where the sentiment is not 0."""
    return [u if u.sentiment == 0 else replace(u, sentiment=None) for u in utterances]


def all_said(utterances: Sequence[Utterance], taught: Taught) -> Iterator[dict]:
    """Lines of a file of predictions: sentiment and emotions, of those of whom anything was said."""
    for utterance, sentiment, emotions in zip(utterances, *(t.tolist() for t in taught), strict=True):
        if math.isnan(sentiment):  # a text that its encoder does not take
            continue
        probabilities = {name: round(p, DIGITS) for name, p in zip(EMOTIONS, emotions, strict=True)}
        yield {"id": utterance.id, "sentiment": _within(sentiment), "emotions": probabilities}


def agreeing(utterances: Sequence[Utterance], taught: Taught) -> Iterator[dict]:
    """The sentiment alone, where it has the sign of the label."""
    for utterance, sentiment in zip(utterances, taught.sentiment.tolist(), strict=True):
        if utterance.sentiment is not None and utterance.sentiment * sentiment > 0:
            yield {"id": utterance.id, "sentiment": _within(sentiment)}


def _within(sentiment: float) -> float:
    low, high = SENTIMENT_RANGE
    return round(min(max(sentiment, low), high), DIGITS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="a run, a model's folder or a hub id")
    parser.add_argument("--taught", type=Path, action="append", required=True, help="manifests of which all is taught")
    parser.add_argument("--dialogues", type=Path, required=True, help="manifest with -1, 0 and 1 for sentiment")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--bf16", action="store_true", help="faster on CPUs with AMX")
    options = parser.parse_args()

    def ask(manifests: Sequence[Path]) -> tuple[list[Utterance], Taught]:
        precision = "bf16" if options.bf16 else "fp32"
        rows = [u for u in read_manifests(manifests) if u.split == "train" and u.text]
        with tempfile.TemporaryDirectory() as beside:
            cache = FeatureCache(home() / "features")
            return rows, ask_teachers([options.teacher], rows, TASKS, Path(beside), cache=cache, precision=precision)

    rows, said = ask(options.taught)
    lines = list(all_said(rows, said))
    rows, said = ask([options.dialogues])
    lines += agreeing(rows, said)
    write_text(options.out / "teacher.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    valid = split_valid([u for u in read_manifests([options.dialogues]) if u.split == "valid"])
    learned = [*rows, *(u for u in valid if u.split == "valid")]
    held_out = [u for u in valid if u.split == "test"]
    write_manifest(options.out / "manifest.jsonl", [*without_signs(learned), *held_out])


if __name__ == "__main__":
    run_script(main)
