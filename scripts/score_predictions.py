"""Score predictions that are kept under results/, for which no model is needed, only the corpus.

    python scripts/score_predictions.py results/mosei-mpnet/predictions-seed0.jsonl --data MOSEI.csv --out scores

Of several files the mean is scored, which is an ensemble of their models. Thresholds are fitted on the valid rows, as
in training; ``metrics-valid.json`` and ``metrics-test.json`` are written to ``--out``, each where labels are at hand.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmolre.data.batching import targets
from mmolre.data.manifest import read_manifest
from mmolre.errors import UserError
from mmolre.evaluate.report import metrics_table, write_metrics
from mmolre.evaluate.thresholds import EmotionThresholds, fit_thresholds
from mmolre.experiments.scored import Scored
from mmolre.files import read_json_lines
from mmolre.schema import EMOTIONS


def score(files: Sequence[Path], data: Path) -> dict[str, dict[str, Any]]:
    """Split -> metrics, of valid and test, where labels are at hand."""
    kept = [_read(path) for path in files]
    utterances = read_manifest(data)
    labelled = [u.sentiment for u in utterances if u.split == "train" and u.sentiment is not None]
    thresholds = EmotionThresholds.default()
    scores = {}
    for split in ("valid", "test"):
        rows = [u for u in utterances if u.split == split and all(u.id in rows for rows in kept)]
        sentiment, emotions = (t.numpy().astype(np.float64) for t in targets(rows))
        if np.isnan(sentiment).all() and np.isnan(emotions).all():  # so it is, too, where no row is predicted
            continue
        mean = np.mean([[_values(of[u.id]) for u in rows] for of in kept], axis=0)
        if split == "valid" and not np.isnan(mean[:, 1:]).all():
            thresholds = fit_thresholds(mean[:, 1:], emotions, calibrated=True)
        elif split == "test" and "valid" not in scores and not np.isnan(mean[:, 1:]).all():
            raise UserError("no valid row of the emotions is among the predictions, by which thresholds are fitted")
        scores[split] = Scored(
            [(u.id, 0) for u in rows],
            mean[:, 0],
            mean[:, 1:],
            sentiment,
            emotions,
            [("text",)] * len(rows),
            {"text": thresholds},
            float(np.median(labelled)) if labelled else None,
        ).metrics()
    if not scores:
        raise UserError(
            f"{data}: no valid or test row with a label is among the predictions: give the corpus they are of"
        )
    return scores


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return {row["id"]: row for row in read_json_lines(path)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no readable predictions ({type(error).__name__}: {error})") from None


def _values(row: dict[str, Any]) -> list[float]:
    """Sentiment and the six probabilities; NaN where the model lacks the task."""
    emotions = row.get("emotions", {})
    return [row.get("sentiment", np.nan), *(emotions.get(name, np.nan) for name in EMOTIONS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    try:
        scores = score(options.predictions, options.data)
    except UserError as error:
        parser.error(str(error))
    for split, metrics in scores.items():
        print(f"{split}\n{metrics_table(metrics)}\n")
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            write_metrics(options.out / f"metrics-{split}.json", metrics)


if __name__ == "__main__":
    main()
