"""What a model says of words that people call neutral, and how many emotions it finds beside those that people saw.

    mmolre import vader --out data/vader
    python benchmarks/neutral.py data/vader/manifest.csv
    python benchmarks/neutral.py MOSEI.csv --model runs/mine

Prints one JSON object: of the rows of a split with text, how many emotions ``present`` names, and how many labels do;
of those whose sentiment is labelled within .3 of 0, the shares of which ``top`` is happy, and none.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

from mmolre.data.manifest import read_manifest
from mmolre.errors import UserError, run_script
from mmolre.predictor import Prediction, load

NEUTRAL = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default="shipped")
    options = parser.parse_args()
    rows = [replace(u, audio=None) for u in read_manifest(options.manifest) if u.split == options.split and u.text]
    if not rows:
        raise UserError(f"{options.manifest}: no row of split {options.split!r} has a text")
    said = [(u, p) for u, p in zip(rows, load(options.model).predict_many(rows), strict=True) if type(p) is Prediction]
    neutral = [p for u, p in said if u.sentiment is not None and abs(u.sentiment) < NEUTRAL]
    labelled = [u.emotions for u, _ in said if None not in u.emotions]
    found = {
        "n": len(said),
        "present": mean(len(p.present) for _, p in said),
        "labelled_present": mean(sum((e or 0) > 0 for e in of) for of in labelled) if labelled else None,
        "neutral": len(neutral),
        "neutral_happy": mean(p.top == "happy" for p in neutral) if neutral else None,
        "neutral_none": mean(p.top is None for p in neutral) if neutral else None,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    run_script(main)
