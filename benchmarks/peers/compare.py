"""MMSA's models and MMoLRE side by side: same features, seeds and validation rule, one run.

    bash benchmarks/peers/environment.sh VENV
    mmolre import csv segments.csv --features audio45=audio45.npz --out DATA
    python benchmarks/peers/features.py DATA/manifest.csv FEATURES --audio audio45
    python benchmarks/peers/compare.py FEATURES --python VENV/bin/python --out runs/peers --seeds 5 --epochs 20 \\
        --patience 5

MMSA's models and the row "sentiment alone" learn sentiment; the rows with both tasks learn the emotions' labels, too.
Run again to go on where it was stopped. ``peers.json`` holds no label and no prediction: metrics by seed, parameters,
CPU seconds per epoch (training and validation), predictions per CPU second from features. Each seed trains every model
before the next begins.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmolre.data.dataset import build_dataset
from mmolre.data.manifest import read_manifest
from mmolre.encoders.weights import sha256
from mmolre.errors import run_script
from mmolre.evaluate.sentiment import sentiment_metrics
from mmolre.experiments.crossvalidate import PREDICTIONS_FILE, crossvalidate
from mmolre.experiments.runs import Where, facts
from mmolre.experiments.table import over_seeds, write_json
from mmolre.files import write_text
from mmolre.inference import infer
from mmolre.model.mmolre import MMoLRE
from mmolre.train.recipe import load_recipe
from mmolre.train.run import Callbacks, make_sources, train, versions

HERE = Path(__file__).parent
PEERS = {"lf_dnn": "LF-DNN", "mlf_dnn": "MLF-DNN", "tfn": "TFN", "lmf": "LMF", "mfn": "MFN", "mult": "MulT"}
OURS = {
    "mmolre": "MMoLRE, sentiment alone",
    "mmolre-both": "MMoLRE, both tasks",
    "mmolre-reborn": "MMoLRE, sentiment alone, taught by its like",
    "mmolre-both-reborn": "MMoLRE, both tasks, taught by its like",
    "mmolre-taught": "MMoLRE, both tasks, taught across folds",
}
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""As many for both, where nothing is set: CPU seconds count those of all threads."""
FIRST_SEED = 1111
"""MMSA's own first one."""
TEACHERS = 2
"""Models of the same settings, each of another seed, that say what they think of the training utterances."""
SEEDS_APART = 100
"""A teacher's seed and its pupil's, and two teachers' of one pupil: no two pupils share one."""
FOLDS = 5
FOLDS_SEED = 21
FOLDS_PATIENCE = 4


def budget(recipe: Path, epochs: int, patience: int) -> dict[str, str]:
    """Settings for at most so many epochs; fewer where the recipe says so, for its learning rate falls to 0 by then."""
    return {
        "training.epochs": str(min(load_recipe(recipe).training.epochs, epochs)),
        "training.patience": str(patience),
    }


def like(of: Path, manifest: Path, settings: dict[str, str], seed: int, folder: Path) -> list[Path]:
    """Models of other seeds that learned the same utterances by the same settings (born-again networks; Furlanello et
    al., ICML 2018)."""
    made = []
    for number in range(1, TEACHERS + 1):
        other = seed + number * SEEDS_APART
        made.append(folder.with_name(f"{folder.name}-teacher-{other}"))
        print(f"  its teacher of seed {other}", flush=True)
        train(load_recipe(of, settings | {"seed": str(other)}), [manifest], made[-1])
    return made


def said_across_folds(recipe: Path, features: Path, out: Path, epochs: int) -> Path:
    """A file of what models say of training utterances of videos that they have not learned from, five in all.

    No more is read than what every model is given: they choose their epoch by the same valid rows.
    """
    settings = budget(recipe, epochs, FOLDS_PATIENCE) | {"seed": str(FOLDS_SEED)}
    folder = out / "across-folds"
    crossvalidate(
        load_recipe(recipe, settings),
        Where([features / "manifest.csv"], folder),
        by="recording",
        folds=FOLDS,
        tell=print,
    )
    return folder / PREDICTIONS_FILE


def ours(of: Path, features: Path, name: str, seed: int, folder: Path, epochs: int, patience: int) -> dict[str, Any]:
    """Train and score MMoLRE; the same shape of result as peer.py's."""
    manifest = features / "manifest.csv"
    settings = budget(of, epochs, patience) | {"seed": str(seed)}
    if name in ("mmolre", "mmolre-reborn"):
        settings["model.tasks"] = "[sentiment]"
    if name.endswith("-reborn"):
        settings["objective.r_drop"] = "0"  # to agree with teachers does what it is for, and takes half the time
        settings["teachers"] = json.dumps([str(model) for model in like(of, manifest, settings, seed, folder)])
    if name == "mmolre-taught":
        settings["teachers"] = json.dumps([str(said_across_folds(of, features, folder.parent, epochs))])
    recipe = load_recipe(of, settings)
    began: list[float] = []

    def log(line: dict[str, Any]) -> None:
        if line["event"] in ("started", "resumed", "epoch"):
            began.append(time.process_time())

    state = train(recipe, [manifest], folder, callbacks=Callbacks(log_line=log)).state
    if len(began) < 2:  # trained before, and stopped before it was scored
        began = [0.0, 60 * facts(folder).minutes / state["epoch"]]
    sources = make_sources(recipe)
    test = build_dataset([u for u in read_manifest(manifest) if u.split == "test"], sources, None)
    model = MMoLRE.from_pretrained(folder / "model")
    arrays = [dict(x) for x in test.arrays]
    start = time.process_time()
    raw = infer(model, arrays, each_alone=False)
    seconds = time.process_time() - start
    return {
        "model": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": state["epoch"],
        "best_epoch": state["best_epoch"],
        "epoch_seconds": np.diff(began).tolist(),
        "test_seconds": seconds,
        "predictions": raw.sentiment.tolist(),
    }


def peer(python: Path, features: Path, name: str, seed: int, out: Path, epochs: int, patience: int) -> dict[str, Any]:
    """Train and score one of MMSA's models in its own environment."""
    command = [python, HERE / "peer.py", features / "mmsa.pkl", name, seed, out, "--epochs", epochs]
    environment = THREADS | {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in [*command, "--patience", patience]], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name}, seed {seed}: {done.stderr[-2000:]}")
    return json.loads(out.read_text(encoding="utf-8"))


def features_digest(folder: Path) -> str:
    """Of what MMSA's models are given, from which ours is known, too: one was written from the other."""
    return sha256(folder / "mmsa.pkl")


def summarize(results: dict[str, list[dict[str, Any]]], truth: np.ndarray, about: dict[str, Any]) -> dict[str, Any]:
    """What is kept of it: no prediction and no label."""
    rows: dict[str, Any] = {}
    for name, several in results.items():
        metrics = [sentiment_metrics(np.array(one["predictions"]), truth) for one in several]
        rows[name] = {
            "title": (OURS | PEERS)[name],
            "parameters": several[0]["parameters"],
            "epochs": [one["epochs"] for one in several],
            "best_epochs": [one["best_epoch"] for one in several],
            "epoch_seconds": statistics.median(s for one in several for s in one["epoch_seconds"]),
            "predictions_per_second": statistics.median(len(truth) / one["test_seconds"] for one in several),
            "metrics": {
                f"sentiment.{key}": over_seeds([of[key] for of in metrics])
                for key in ("mae", "corr", "acc2_has0", "acc2_non0", "acc7")
            },
        }
    return about | {"rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help="what features.py made")
    parser.add_argument("--python", type=Path, required=True, help="of the environment with MMSA in it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--patience", type=int, default=4)
    parser.add_argument("--recipe", type=Path, default=HERE / "ours.yaml", help="MMoLRE's settings")
    parser.add_argument("--only", nargs="*", choices=[*OURS, *PEERS], help="names of models")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    options.out.mkdir(parents=True, exist_ok=True)
    rows = read_manifest(options.features / "manifest.csv")
    truth = np.array([u.sentiment for u in rows if u.split == "test"], np.float64)
    learned_from = [u.sentiment for u in rows if u.split == "train" and u.sentiment is not None]
    constant = np.full(len(truth), statistics.median(learned_from))
    of_ours = load_recipe(options.recipe)
    about = {
        "seeds": options.seeds,
        "features": sorted(of_ours.features),
        "utterances": {s: sum(u.split == s for u in rows) for s in ("train", "valid", "test")},
        "train_median": {"sentiment.mae": sentiment_metrics(constant, truth)["mae"]},
        "budget": {"epochs": options.epochs, "patience": options.patience},
        "versions": versions() | {"MMSA": "2.2.1"},
    }
    learned = {"features": features_digest(options.features)}
    recipe = of_ours.model_dump(mode="json")
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        for name in (n for n in [*OURS, *PEERS] if not options.only or n in options.only):
            path = options.out / f"{name}-{seed}.json"
            made_of = {"budget": about["budget"]} | learned | ({"recipe": recipe} if name in OURS else {})
            if not path.exists():
                print(f"{name}, seed {seed}", flush=True)
                limits = (options.epochs, options.patience)
                if name in OURS:
                    folder = options.out / f"{name}-{seed}"
                    made = ours(options.recipe, options.features, name, seed, folder, *limits)
                else:
                    beside = path.with_suffix(".part")
                    made = peer(options.python.absolute(), options.features, name, seed, beside, *limits)
                    beside.unlink()
                write_text(path, json.dumps(made | {"of": made_of}))
            kept = json.loads(path.read_text(encoding="utf-8"))
            if other := [key for key in made_of if kept.get("of", {}).get(key) != made_of[key]]:
                raise SystemExit(f"{path} is of another {' and '.join(other)}: give another --out, or delete it")
            results.setdefault(name, []).append(kept)
            write_json(options.out / "peers.json", summarize(results, truth, about))


if __name__ == "__main__":
    run_script(main)
