"""Keep a finished run's small summary under results/, from which docs/results.md is made.

    python scripts/record_run.py runs/mosei-frozen-seed0 "MOSEI test=runs/mosei-frozen-seed0/metrics-test.json"

Each further argument names what was scored and the metrics file that `mmolre evaluate` wrote.
"""

import argparse
import json
from pathlib import Path

from mmolre.bundle import MODEL_FOLDER, PIPELINE_FILE
from mmolre.errors import run_script
from mmolre.files import read_json_lines, write_text
from mmolre.model.mmolre import MMoLRE
from mmolre.train.loop import LOG_FILE
from mmolre.train.recipe import read_recipe
from mmolre.train.run import VERSIONS_FILE

RESULTS = Path(__file__).parent.parent / "results"


def summary(run: Path, scored: dict[str, Path]) -> dict:
    """All that the results page says of a run."""
    recipe = read_recipe(run)
    if recipe.refit and (learned := [name for name in scored if "valid" in name]):
        raise SystemExit(f"{run} has learned valid, too: {learned[0]!r} is no figure of it")
    epochs = [line for line in read_json_lines(run / LOG_FILE) if line["event"] == "epoch"]
    model = MMoLRE.from_pretrained(run / MODEL_FOLDER)
    about = json.loads((run / MODEL_FOLDER / PIPELINE_FILE).read_text(encoding="utf-8"))["about"]
    return {
        "recipe": recipe.title,
        "seed": recipe.seed,
        "primary": recipe.training.primary,
        "refit": recipe.refit is not None,
        "parameters": sum(model.parameters_by_part().values()),
        "parameters_by_part": model.parameters_by_part(),
        "train_utterances": about["train_utterances"],
        "epochs": len(epochs),
        "best_epoch": max((line for line in epochs if line["best"]), key=lambda line: line["epoch"])["epoch"],
        "minutes": round(epochs[-1]["seconds"] / 60, 1),
        "versions": json.loads((run / VERSIONS_FILE).read_text(encoding="utf-8")),
        "metrics": {name: json.loads(path.read_text(encoding="utf-8")) for name, path in scored.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("scored", nargs="+", help="NAME=METRICS.json")
    options = parser.parse_args()
    pairs = (item.split("=", 1) for item in options.scored)
    content = summary(options.run, {name: Path(path) for name, path in pairs})
    path = RESULTS / content["recipe"] / f"seed{content['seed']}.json"
    write_text(path, json.dumps(content, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    run_script(main)
