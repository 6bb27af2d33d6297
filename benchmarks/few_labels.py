"""How many labelled utterances of one's own are needed, from new weights and from the shipped model's?

    python benchmarks/few_labels.py --data OWN/manifest.csv --out runs/few-labels

Of a corpus that the shipped model has not learned (MELD, of which the kept figures are, it has since).

For each size and seed, so many training rows are drawn, by whole recordings, and the recipe `everyday` learns them
from new weights, for its 4 epochs and for 12, and with ``start_from: shipped``. 200 of the rows of valid choose epoch
and thresholds, as people with few labels have few there, too; the other recordings of valid, or test where there is
any, are scored once. The shipped model as it is stands beside. Where one task alone is labelled, it alone is learned. A
finished run is not trained again; ``few-labels.json`` holds metrics alone.
"""

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmolre.bundle import load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.manifest import read_manifests
from mmolre.encoders.weights import home
from mmolre.errors import run_script
from mmolre.evaluate.report import best_trivial, lookup
from mmolre.evaluate.run import evaluate_on
from mmolre.experiments.table import over_seeds, write_json
from mmolre.schema import Utterance
from mmolre.train.named import find_recipe
from mmolre.train.recipe import Recipe, load_recipe
from mmolre.train.run import train_on, versions

VALID = 200
WAYS: dict[str, dict[str, str]] = {
    "new": {},
    "new-longer": {"training.epochs": "12"},
    "shipped": {"start_from": "shipped"},
}
AS_IT_IS = "as-it-is"
PRIMARY_OF = {"sentiment": "sentiment.corr", "emotion": "emotion.macro_f1"}
METRICS = (
    *("sentiment.mae", "sentiment.corr"),
    *("emotion.wa_mean", "emotion.macro_f1", "emotion.auc_mean", "emotion.top_accuracy"),
)


def drawn(utterances: Sequence[Utterance], size: int, seed: int) -> list[Utterance]:
    """``size`` training rows, :data:`VALID` rows of valid, and what is scored, which is the same for all."""
    by_split = {split: [u for u in utterances if u.split == split] for split in ("train", "valid", "test")}
    train, valid = _shuffled(by_split["train"], seed), _shuffled(by_split["valid"], 0)
    chosen_by = {u.recording for u in valid[:VALID]}
    rest = [replace(u, split="test") for u in valid[VALID:] if u.recording is None or u.recording not in chosen_by]
    if len(train) < size or len(valid) < VALID or not (by_split["test"] or rest):
        raise SystemExit(f"{len(train)} train and {len(valid)} valid rows are too few for {size} and {VALID}")
    return [*train[:size], *valid[:VALID], *(by_split["test"] or rest)]


def _shuffled(utterances: Sequence[Utterance], seed: int) -> list[Utterance]:
    """Whole recordings after one another, as people label them; an utterance of none is one by itself."""
    recordings: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        recordings.setdefault(utterance.recording or utterance.id, []).append(utterance)
    order = sorted(recordings)
    random.Random(seed).shuffle(order)
    return [utterance for recording in order for utterance in recordings[recording]]


def one_task(utterances: Sequence[Utterance]) -> dict[str, str]:
    """What of the recipe changes where one task alone is labelled."""
    tasks = {task for u in utterances for task in u.labelled_for}
    if len(tasks) > 1:
        return {}
    (task,) = tasks
    return {"model.tasks": f"[{task}]", "training.primary": f"[{PRIMARY_OF[task]}]"}


def recipe_of(name: str, changes: dict[str, str]) -> Recipe:
    return load_recipe(find_recipe(name), changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", default="everyday")
    options = parser.parse_args()
    cache = FeatureCache(home() / "features")
    utterances = read_manifests([options.data])
    changed = one_task(utterances)
    ways = {way: changed | changes for way, changes in WAYS.items()}

    def scored(model: Path | str, rows: Sequence[Utterance]) -> dict[str, Any]:
        held_out = [u for u in rows if u.split == "test"]
        return evaluate_on(load_bundle(model), held_out, named=str(options.data), cache=cache).metrics

    rows: dict[str, dict[str, Any]] = {}
    for size in options.sizes:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for seed in range(options.seeds):
            chosen = drawn(utterances, size, seed)
            for way, changes in ways.items():
                recipe = recipe_of(options.recipe, {"seed": str(seed)} | changes)
                run = options.out / f"{way}-{size}-{seed}"
                train_on(recipe, chosen, run, named=str(options.data), cache=cache)
                found[way].append(_shown(scored(run, chosen)))
                print(run.name, {key: round(value, 3) for key, value in found[way][-1].items()}, flush=True)
        rows[str(size)] = {way: _together(several) for way, several in found.items()}
    some = drawn(utterances, options.sizes[0], 0)
    as_it_is = scored("shipped", some)
    about = {
        "seeds": options.seeds,
        "n": as_it_is["n"],
        "recipe": options.recipe,
        "epochs": {way: recipe_of(options.recipe, changes).training.epochs for way, changes in ways.items()},
        "valid": VALID,
        AS_IT_IS: _together([_shown(as_it_is)]),
        "trivial": _together([_best_trivial(as_it_is)]),
        "versions": versions(),
    }
    write_json(options.out / "few-labels.json", about | {"rows": rows})


def _shown(metrics: dict[str, Any]) -> dict[str, float]:
    return {key: lookup(metrics, key) for key in _labelled(metrics)}


def _best_trivial(metrics: dict[str, Any]) -> dict[str, float]:
    """The best that any trivial predictor reaches in each metric."""
    best = {key: best_trivial(metrics, *key.split(".")) for key in _labelled(metrics)}
    return {key: math.nan if value is None else value for key, value in best.items()}


def _together(several: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {key: over_seeds([of[key] for of in several]) for key in several[0]}


def _labelled(metrics: dict[str, Any]) -> list[str]:
    return [key for key in METRICS if key.split(".")[0] in metrics]


if __name__ == "__main__":
    run_script(main)
