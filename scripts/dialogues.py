"""What the recipe `everyday-dialogues` learns of a corpus that says of sentiment only its sign, as MELD does.

    python scripts/dialogues.py runs/mosei-mpnet --taught MOSEI.csv --taught MOSI/manifest.csv \\
        --dialogues data/meld/manifest.csv --out data/dialogues

Writes two files. ``manifest.jsonl``: the training rows of the dialogues, with their emotions, and with a sentiment
only where it is neutral, 0: "positive" does not say how positive, and a 1 for all of them teaches that nothing is more.
``teacher.jsonl``, for ``teachers``: what the model says of the training texts of the other corpora, each utterance on
its own; and of the dialogues' rows that are not neutral its sentiment, where it agrees with the sign.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mmolre.data.cache import FeatureCache
from mmolre.data.manifest import read_manifests, write_manifest
from mmolre.encoders.weights import home
from mmolre.files import write_text
from mmolre.schema import EMOTIONS, SENTIMENT_RANGE, TASKS, Utterance
from mmolre.train.teachers import Taught, ask_teachers

DIGITS = 4


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
        rows = [u for u in read_manifests(manifests) if u.split == "train" and u.text]
        with tempfile.TemporaryDirectory() as beside:
            cache = FeatureCache(home() / "features")
            return rows, ask_teachers([options.teacher], rows, TASKS, Path(beside), cache=cache, bf16=options.bf16)

    rows, said = ask(options.taught)
    lines = list(all_said(rows, said))
    rows, said = ask([options.dialogues])
    lines += agreeing(rows, said)
    write_text(options.out / "teacher.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_manifest(options.out / "manifest.jsonl", without_signs(rows))


if __name__ == "__main__":
    main()
