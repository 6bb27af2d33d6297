"""Keep a run's predictions under results/, so that anybody who has the corpus can score them again.

    python scripts/record_predictions.py runs/mosei-minilm --data MOSEI.csv --split valid --split test

Predicts every row of the splits; what is kept of a row is its id, and of each task that the model
has, its sentiment in [-3, 3] and its calibrated probabilities of the six emotions. No label and no text.
"""

import argparse
import json
from pathlib import Path

from mmolre.data.dataset import FailedRow
from mmolre.data.manifest import read_manifest
from mmolre.errors import run_script
from mmolre.files import write_text
from mmolre.predictor import load
from mmolre.train.recipe import read_recipe

RESULTS = Path(__file__).parent.parent / "results"
DIGITS = 4


def kept(prediction: dict) -> dict:
    """What is kept of a prediction's JSON object."""
    row = {"id": prediction["id"]}
    if prediction["sentiment"] is not None:
        row["sentiment"] = round(prediction["sentiment"], DIGITS)
    if prediction["emotions"]:
        row["emotions"] = {name: round(p, DIGITS) for name, p in prediction["emotions"].items()}
    return row


def record(run: Path, data: Path, splits: list[str], results: Path = RESULTS) -> Path:
    """Write the record; returns its file."""
    if "valid" in splits and read_recipe(run).refit:
        raise SystemExit(f"{run} has learned valid, too: what it says of valid is no record of it")
    predictor = load(run)
    utterances = [u for u in read_manifest(data) if u.split in splits]
    predictions = []
    for result in predictor.predict_many(utterances):
        if isinstance(result, FailedRow):
            raise SystemExit(f"{result.row} could not be predicted: {result.reason}")
        predictions.append(result)
    recordings, speakers = ([getattr(u, key) for u in utterances] for key in ("recording", "speaker"))
    together = predictor.in_context(predictions, recordings, speakers)
    rows = [kept(prediction.to_json()) for prediction in together]
    recipe = read_recipe(run)
    target = results / recipe.title / f"predictions-seed{recipe.seed}.jsonl"
    write_text(target, "".join(json.dumps(row) + "\n" for row in rows))
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", action="append", required=True)
    options = parser.parse_args()
    print(record(options.run, options.data, options.split))


if __name__ == "__main__":
    run_script(main)
