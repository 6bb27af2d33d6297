"""How well are acted voices of unseen speakers read? A recipe in 4 folds by speaker.

    python benchmarks/voice_folds.py recipes/ravdess.yaml --folds-of RAVDESS/manifest.csv --out DIR

The speakers of train and valid are dealt out to four folds, in the order of their names; those of test are left alone,
so that what is chosen here has not seen them. In each fold the recipe is trained without the fold's speakers, two of
the next fold's being valid, and reads the fold's utterances from the voice alone. ``--data`` adds manifests that are
trained on in every fold. A finished fold is not trained again. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmolre.bundle import MODEL_FOLDER, load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.manifest import read_manifest, write_manifest
from mmolre.encoders.weights import home
from mmolre.evaluate.run import evaluate
from mmolre.schema import Utterance
from mmolre.train.recipe import load_recipe
from mmolre.train.run import Callbacks, train

FOLDS = 4
VALID_SPEAKERS = 2
METRICS = ("top_accuracy", "auc_mean", "ap_mean", "wa_mean", "macro_f1")


def assign_splits(utterances: Sequence[Utterance], fold: int) -> list[Utterance]:
    """The utterances of train and valid, with the splits of a fold, whose own speakers are ``test``."""
    kept = [u for u in utterances if u.split in ("train", "valid") and u.speaker is not None]
    speakers = sorted({str(u.speaker) for u in kept})
    split = dict.fromkeys(speakers, "train")
    split |= dict.fromkeys(speakers[(fold + 1) % FOLDS :: FOLDS][:VALID_SPEAKERS], "valid")
    split |= dict.fromkeys(speakers[fold::FOLDS], "test")
    return [replace(u, split=split[str(u.speaker)]) for u in kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--folds-of", type=Path, required=True, help="manifest whose speakers are folded")
    parser.add_argument("--data", type=Path, action="append", default=[], help="further training manifests")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)), help="only these, from 0")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, dict(item.split("=", 1) for item in options.set))
    utterances = read_manifest(options.folds_of)
    folder = next(u.audio for u in utterances if u.audio is not None).parent
    cache = FeatureCache(home() / "features")
    found = []
    for fold in options.folds:
        out = options.out / f"fold-{fold}"
        manifest = out / "manifest.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        write_manifest(manifest, assign_splits(utterances, fold), audio_root=folder)
        said = Callbacks(log_line=lambda line: print(out.name, line.get("epoch"), line.get("score"), flush=True))  # noqa: B023
        train(recipe, [manifest, *options.data], out, cache=cache, callbacks=said)
        scored = evaluate(load_bundle(out / MODEL_FOLDER), [manifest], "test", modalities=["audio"], cache=cache)
        found.append({key: scored.metrics["emotion"][key] for key in METRICS})
        print(out.name, {key: round(value, 3) for key, value in found[-1].items()}, flush=True)
    means = {key: float(np.mean([fold[key] for fold in found])) for key in METRICS}
    print(json.dumps({"recipe": recipe.name, "seed": recipe.seed, "folds": options.folds} | means | {"each": found}))


if __name__ == "__main__":
    main()
