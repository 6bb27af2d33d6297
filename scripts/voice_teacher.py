"""What strangers hear in acted voices: a file of predictions from which the recipe `ravdess` learns, as a teacher.

    mmolre encoders fetch whisper-tiny-en whisper-base
    python scripts/voice_teacher.py data/ravdess/manifest.csv --out data/ravdess/said.jsonl
    python scripts/voice_teacher.py data/ravdess/manifest.csv --folds 4 --out "data/ravdess/said-{fold}.jsonl"

A logistic regression reads of each training utterance the mean and the deviation over time of the upper layers of two
frozen encoders, one of which is larger than the recipe's own. Each speaker is read by one that learned from the others:
what had learned an utterance itself would repeat its label. The only choice, how hard it is drawn to 0, was made with
speakers that are in train (docs/log.md). The second command makes a file for each fold of `mmolre crossvalidate --by
speaker`, by what that fold learns alone.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import build_dataset
from mmolre.data.manifest import read_manifest
from mmolre.encoders.audio import AudioEncoder
from mmolre.encoders.weights import home
from mmolre.errors import UserError, run_script
from mmolre.experiments.crossvalidate import FOLD, deal
from mmolre.files import write_text
from mmolre.schema import EMOTIONS, Utterance

ENCODERS = {"whisper-tiny-en": (2, 3, 4), "whisper-base": (3, 4, 5, 6)}
"""Role -> its upper layers."""
STRIDE = 4
STRENGTH = 0.001
"""scikit-learn's C."""
DIGITS = 4


def emotion_of(utterance: Utterance) -> int | None:
    """The index of its one emotion, 6 for none; ``None`` where that is not known, or there are several."""
    present = [i for i, intensity in enumerate(utterance.emotions) if intensity]
    if len(present) > 1 or None in utterance.emotions:
        return None
    return present[0] if present else len(EMOTIONS)


def statistics(utterances: Sequence[Utterance], cache: FeatureCache) -> NDArray[np.float32]:
    """Mean and deviation over time of all layers of all encoders, (n, width)."""
    parts = []
    for role, layers in ENCODERS.items():
        dataset = build_dataset(utterances, {"audio": AudioEncoder(role, layers, STRIDE)}, cache)
        if dataset.failed:
            raise SystemExit(f"{dataset.failed[0].row}: {dataset.failed[0].reason}")
        frames = [np.asarray(x["audio"], np.float32) for x in dataset.arrays]
        parts.append(np.stack([np.concatenate([x.mean(0), x.std(0)]).ravel() for x in frames]))
    return np.concatenate(parts, axis=1)


def said_by_strangers(x: NDArray[np.float32], y: NDArray[np.int64], speakers: NDArray) -> NDArray[np.float64]:
    """Probabilities of the emotions and none, (n, 7), of each speaker by a regression that learned from the others."""
    found = np.zeros((len(y), len(EMOTIONS) + 1))
    for speaker in np.unique(speakers):
        own = speakers == speaker
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
        regression.fit(x[~own], y[~own])
        found[np.ix_(own, regression.classes_)] = regression.predict_proba(x[own])
    return found


def write_said(utterances: Sequence[Utterance], out: Path) -> None:
    """The file of what strangers hear in those of them that are trained on."""
    known = [(u, emotion_of(u)) for u in utterances if u.split == "train" and u.audio and u.speaker]
    rows, y = [u for u, e in known if e is not None], np.array([e for _, e in known if e is not None])
    if len({u.speaker for u in rows}) < 2:
        raise UserError(f"{out}: at least two speakers are needed among the training rows that it is made of")
    x = statistics(rows, FeatureCache(home() / "features"))
    found = said_by_strangers(x, y, np.array([u.speaker for u in rows]))
    lines = [
        {"id": u.id, "emotions": dict(zip(EMOTIONS, np.round(p, DIGITS).tolist(), strict=False))}  # without "none"
        for u, p in zip(rows, found, strict=True)
    ]
    write_text(out, "".join(json.dumps(line) + "\n" for line in lines))
    right = np.mean(found.argmax(1) == y)
    print(f"{out}: {len(rows)} utterances; the likeliest of the seven is right for {right:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="with speakers; its training rows of at most one emotion are read")
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file; with {fold} where there are --folds")
    parser.add_argument("--folds", type=int, help="of mmolre crossvalidate --by speaker")
    options = parser.parse_args()
    make(options.manifest, options.out, options.folds)


def make(manifest: Path, out: Path, folds: int | None) -> None:
    """One file, or one for each fold.

    Raises:
        UserError: a bad manifest, too few speakers, or ``out`` names no fold.
    """
    utterances = read_manifest(manifest)
    if not folds:
        write_said(utterances, out)
        return
    if FOLD not in str(out):
        raise UserError(f"--out {out}: with --folds it needs {FOLD} in it, for the number of the fold")
    for number, fold in enumerate(deal(utterances, "speaker", folds), 1):
        write_said(fold.learned, Path(str(out).replace(FOLD, str(number))))


if __name__ == "__main__":
    run_script(main)
