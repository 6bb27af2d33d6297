"""Does a voice help where there are words? A recipe in 4 folds by video over the utterances that have both.

    python benchmarks/mosi_folds.py RECIPE --folds-of mosi/manifest.csv --data mosei.csv --data ravdess.csv --out DIR

In each fold the recipe is trained on everything but the fold's videos (all of their utterances, with sound or not), and
predicts the sentiment of the fold's utterances from text alone, from audio alone, and from both. The pooled predictions
are scored, and both is compared with the better of the two by a paired bootstrap over videos. A finished fold is not
trained again. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmolre.bundle import MODEL_FOLDER, load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import build_dataset
from mmolre.data.manifest import read_manifest, read_manifests
from mmolre.encoders.weights import home
from mmolre.errors import run_script
from mmolre.evaluate.run import only
from mmolre.evaluate.sentiment import sentiment_metrics
from mmolre.evaluate.significance import paired_bootstrap
from mmolre.inference import infer
from mmolre.schema import Utterance
from mmolre.train.recipe import Recipe, load_recipe
from mmolre.train.run import Callbacks, train_on

FOLDS = 4
SETS = {"text": ("text",), "audio": ("audio",), "both": ("text", "audio")}


def assign_folds(utterances: Sequence[Utterance], seed: int = 0) -> dict[str, int]:
    """Video -> fold, so that folds hold about as many utterances with both modalities each."""
    counts: dict[str, int] = {}
    for u in utterances:
        if len(u.modalities) > 1 and u.sentiment is not None:
            counts[str(u.video_id)] = counts.get(str(u.video_id), 0) + 1
    videos = np.random.default_rng(seed).permutation(sorted(counts)).tolist()
    sizes = [0] * FOLDS
    folds = {}
    for video in sorted(videos, key=lambda v: -counts[v]):
        folds[video] = int(np.argmin(sizes))
        sizes[folds[video]] += counts[video]
    return folds


def run_fold(
    recipe: Recipe, utterances: Sequence[Utterance], held_out: Sequence[Utterance], data: Sequence[Path], out: Path
) -> dict[str, np.ndarray]:
    """Train without the held-out videos and predict the held-out utterances from each set of modalities."""
    cache = FeatureCache(home() / "features")
    videos = {u.video_id for u in held_out}
    kept = [replace(u, split=None if u.video_id in videos else u.split) for u in utterances]

    def said(line: dict) -> None:
        print(out.name, line.get("epoch"), line.get("score"), flush=True)

    rows = [*kept, *read_manifests(data)]
    train_on(recipe, rows, out, named=out.name, cache=cache, callbacks=Callbacks(log_line=said))
    bundle = load_bundle(out / MODEL_FOLDER)
    predictions = {}
    for name, modalities in SETS.items():
        dataset = build_dataset([only(u, modalities) for u in held_out], bundle.encoders, cache)
        if dataset.failed:
            raise SystemExit(f"{dataset.failed[0].row}: {dataset.failed[0].reason}")
        predictions[name] = bundle.decision.sentiment(infer(bundle.model, dataset.arrays))
    return predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--folds-of", type=Path, required=True, help="manifest whose utterances with both are folded")
    parser.add_argument("--data", type=Path, action="append", default=[], help="further training manifests")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, dict(item.split("=", 1) for item in options.set))
    utterances = read_manifest(options.folds_of)
    folds = assign_folds(utterances)
    truth, videos = [], []
    pooled: dict[str, list[np.ndarray]] = {name: [] for name in SETS}
    for fold in range(FOLDS):
        held_out = [
            u
            for u in utterances
            if len(u.modalities) > 1 and u.sentiment is not None and folds[str(u.video_id)] == fold
        ]
        predictions = run_fold(recipe, utterances, held_out, options.data, options.out / f"fold-{fold}")
        for name, values in predictions.items():
            pooled[name].append(values)
        truth += [u.sentiment for u in held_out]
        videos += [u.video_id for u in held_out]
        fold_truth = np.array([u.sentiment for u in held_out], np.float64)
        print(fold, {name: sentiment_metrics(v, fold_truth)["corr"] for name, v in predictions.items()}, flush=True)
    y = np.array(truth, np.float64)
    arrays = {name: np.concatenate(parts) for name, parts in pooled.items()}
    metrics = {name: sentiment_metrics(values, y) for name, values in arrays.items()}
    result = {"recipe": recipe.name, "seed": recipe.seed, "utterances": len(y), "videos": len(set(videos))}
    for key, higher in (("corr", True), ("mae", False)):
        better = max(("text", "audio"), key=lambda name: metrics[name][key] * (1 if higher else -1))
        comparison = paired_bootstrap(
            lambda p, t, key=key: sentiment_metrics(p, t)[key],
            arrays["both"],
            arrays[better],
            y,
            higher_is_better=higher,
            groups=np.array(videos),
        )
        result[key] = {name: metrics[name][key] for name in SETS} | {
            "better_of_the_two": better,
            "both_minus_better": comparison.delta,
            "low": comparison.low,
            "high": comparison.high,
            "p": comparison.p,
        }
    print(json.dumps(result))


if __name__ == "__main__":
    run_script(main)
