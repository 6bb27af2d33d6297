"""Keep an experiment's finished runs in small files, so that it can go on elsewhere, and be compared anew.

    python scripts/keep_runs.py keep runs/mosei results/experiments/runs-mosei
    python scripts/keep_runs.py restore results/experiments/runs-mosei runs/mosei --data MOSEI.csv

Of each run its recipe, its log, how it reads its outputs, and what it predicted of test (120 kB for CMU-MOSEI): no
weights, no label, no text. `restore` takes the labels from the corpus, and `mmolre compare`, `ablate` and `sweep` with
the same folder then take the runs for done.
"""

import argparse
import json
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmolre.bundle import MODEL_FOLDER, PIPELINE_FILE
from mmolre.data.manifest import read_manifests
from mmolre.errors import UserError
from mmolre.experiments.scored import PREDICTIONS_FILE, write_predictions
from mmolre.files import read_json_lines, replacing, write_text
from mmolre.model.mmolre import CONFIG_FILE
from mmolre.schema import EMOTIONS, Utterance
from mmolre.train.loop import LOG_FILE
from mmolre.train.recipe import RECIPE_FILE
from mmolre.train.run import VERSIONS_FILE

KEPT = (RECIPE_FILE, VERSIONS_FILE, LOG_FILE, f"{MODEL_FOLDER}/{PIPELINE_FILE}", f"{MODEL_FOLDER}/{CONFIG_FILE}")
"""Of a run's folder, word for word."""


def keep(experiment: Path, target: Path) -> list[Path]:
    """Write a file per finished run of an experiment's folder; returns those that are new.

    Raises:
        UserError: what is kept is of another run than the experiment has.
    """
    written = []
    for predictions in sorted((experiment / "runs").glob(f"*/*/{PREDICTIONS_FILE}")):
        run = predictions.parent
        path = target / f"{run.parent.name}.{run.name}.npz"
        texts = {name: (run / name).read_text(encoding="utf-8") for name in KEPT}
        if path.exists():
            with np.load(path, allow_pickle=False) as file:
                if json.loads(str(file["texts"])) != texts:
                    raise UserError(f"{path} is of an earlier run than {run}: delete it to keep this one")
            continue
        rows = read_json_lines(predictions)
        probabilities = np.array([[row["emotions"][name] for name in EMOTIONS] for row in rows], np.float64)
        sets = sorted({tuple(row["modalities"]) for row in rows})
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez_compressed(
                file,
                ids=np.array([_short(row["id"]) for row in rows], np.uint32),
                sentiment=np.array([row["sentiment"] for row in rows], np.float32),  # None becomes NaN
                emotions=probabilities.astype(np.float32),
                modalities=json.dumps(sets),
                modality_set=np.array([sets.index(tuple(row["modalities"])) for row in rows], np.uint8),
                texts=json.dumps(texts),
            )
        written.append(path)
    return written


def restore(kept: Path, experiment: Path, data: Sequence[Path]) -> list[Path]:
    """Put back the runs that ``experiment`` does not have; returns their folders.

    Raises:
        UserError: the test rows of ``data`` are not the ones that were predicted.
    """
    test: dict[int, list[Utterance]] = defaultdict(list)
    for u in read_manifests(list(data)):
        if u.split == "test":
            test[_short(u.id)].append(u)
    restored = []
    for path in sorted(kept.glob("*.npz")):
        row, name = path.stem.split(".")
        run = experiment / "runs" / row / name
        if (run / PREDICTIONS_FILE).exists():
            continue
        with np.load(path, allow_pickle=False) as file:
            left = {key: iter(rows) for key, rows in test.items()}
            found = [next(left.get(key, iter(())), None) for key in file["ids"].tolist()]
            utterances = [u for u in found if u is not None]
            if len(utterances) < len(found):
                raise UserError(f"{path} is of other test rows than {', '.join(map(str, data))} has")
            sets = json.loads(str(file["modalities"]))
            texts = json.loads(str(file["texts"]))
            modalities = [sets[which] for which in file["modality_set"]]
            predicted = modalities, file["sentiment"], file["emotions"]
        for inside in KEPT:
            write_text(run / inside, texts[inside])
        write_predictions(run / PREDICTIONS_FILE, utterances, *predicted)
        restored.append(run)
    return restored


def _short(utterance: str) -> int:
    """An id in four bytes. Two ids of one corpus that share them would have to stand in the same order in it."""
    return zlib.crc32(utterance.encode("utf-8", "surrogatepass"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("keep")
    one.add_argument("experiment", type=Path, help="the folder given as --out")
    one.add_argument("target", type=Path)
    two = verbs.add_parser("restore")
    two.add_argument("kept", type=Path)
    two.add_argument("experiment", type=Path, help="the folder to give as --out")
    two.add_argument("--data", type=Path, action="append", required=True)
    options = parser.parse_args()
    try:
        if options.verb == "keep":
            done = keep(options.experiment, options.target)
        else:
            done = restore(options.kept, options.experiment, options.data)
    except UserError as error:
        parser.error(str(error))
    print("\n".join(map(str, done)) or "nothing new")


if __name__ == "__main__":
    main()
