#!/usr/bin/env python3
"""VADER's own lexicon on a split of a manifest: the correlation that `recipes/first-steps.yaml` has to beat.

python -m pip install --no-deps vaderSentiment==3.3.2 requests
python benchmarks/vader_lexicon.py data/vader/manifest.csv
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from mmolre.data.manifest import read_manifest
from mmolre.errors import UserError, run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    rows = read_manifest(arguments.manifest)
    correlations = score(_analyzer(), [row for row in rows if row.split == arguments.split])
    for name, (count, correlation) in correlations.items():
        print(f"{name:8} {count:6} texts  correlation {correlation:.4f}")


def _analyzer() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install --no-deps vaderSentiment==3.3.2 requests") from None
    return SentimentIntensityAnalyzer()


def score(analyzer: Any, rows: list[Any]) -> dict[str, tuple[int, float]]:
    """Of all labelled texts, and of each part of the corpus: how many, and Pearson's correlation with the labels."""
    rows = [row for row in rows if row.text is not None and row.sentiment is not None]
    predicted = np.array([analyzer.polarity_scores(row.text)["compound"] for row in rows])
    truth = np.array([row.sentiment for row in rows])
    parts = np.array([row.id.partition("-")[0] for row in rows])
    groups = {"all": np.full(len(rows), True)} | {part: parts == part for part in sorted(set(parts))}
    return {name: (int(of.sum()), float(np.corrcoef(predicted[of], truth[of])[0, 1])) for name, of in groups.items()}


if __name__ == "__main__":
    run_script(main)
