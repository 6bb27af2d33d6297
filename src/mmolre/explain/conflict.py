"""Task conflict over training, from what runs logged with ``training.conflict_every``."""

import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmolre.errors import UserError
from mmolre.experiments.variants import MMOLRE
from mmolre.files import read_json_lines
from mmolre.plotting import HIGHLIGHT, PLAIN, pyplot, save
from mmolre.train.conflict import ALL
from mmolre.train.loop import LOG_FILE

OTHERS = (PLAIN, "#D55E00", "#009E73", "#CC79A7")
QUARTERS = 4


def recorded(run: Path) -> dict[int, dict[str, float]]:
    """Step -> layer -> cosine between the two tasks' gradients, as a run logged it; empty where it did not."""
    try:
        return {
            line["step"]: {layer: of["cosine"] for layer, of in line["layers"].items()}
            for line in read_json_lines(run / LOG_FILE)
            if line["event"] == "conflict" and line["layers"]  # none where a batch has no label of a task
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run / LOG_FILE} cannot be read ({error})") from None


def names_of(runs: Sequence[Path]) -> list[str]:
    """What a figure calls each run: its folder; of an experiment's runs (``hard/seed0``) the row, which seeds share.

    With as many of the folders above as it takes to tell them apart.
    """
    folders = [run.parent if re.fullmatch(r"seed\d+", run.name) else run for run in (run.resolve() for run in runs)]
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(set(folders)):
        depth += 1
    return ["/".join(folder.parts[-depth:]) for folder in folders]


def summarize(runs: Mapping[str, Sequence[Mapping[int, Mapping[str, float]]]]) -> dict[str, Any]:
    """The numbers behind the figure, JSON-able.

    Args:
        runs: name -> what :func:`recorded` gave, of one run or of several that differ in their seed alone.

    Returns:
        ``runs``: name -> ``seeds``, ``steps`` and ``layers``: layer -> ``cosines`` by step (mean over the seeds, null
        where none was recorded), and over all steps of all seeds their ``mean``, its standard error ``se``, the share
        that is ``negative``, and the mean in each quarter of the training.
    """
    return {"runs": {name: _summary(several) for name, several in runs.items()}}


def _summary(several: Sequence[Mapping[int, Mapping[str, float]]]) -> dict[str, Any]:
    steps = sorted({step for one in several for step in one})
    layers: dict[str, Any] = {}
    for layer in dict.fromkeys(layer for one in several for cosines in one.values() for layer in cosines):
        by_step = [[one[step][layer] for one in several if layer in one.get(step, {})] for step in steps]
        values = [value for at in by_step for value in at]
        cuts = [len(steps) * i // QUARTERS for i in range(QUARTERS + 1)]
        parts = [[v for at in by_step[a:b] for v in at] for a, b in itertools.pairwise(cuts)]
        layers[layer] = {
            "mean": statistics.fmean(values),
            "se": statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None,
            "negative": sum(value < 0 for value in values) / len(values),
            "quarters": [statistics.fmean(part) if part else None for part in parts],
            "cosines": [round(statistics.fmean(at), 4) if at else None for at in by_step],
        }
    return {"seeds": len(several), "steps": steps, "layers": layers}


def figure(path: Path, summary: Mapping[str, Any]) -> list[Path]:
    """A panel per layer that all runs have: the cosine over the steps, smoothed, each line named at its end."""
    plt = pyplot()
    runs = summary["runs"]
    common = [
        layer for layer in next(iter(runs.values()))["layers"] if all(layer in r["layers"] for r in runs.values())
    ]
    layers = [ALL, *(layer for layer in common if layer != ALL)]
    colours = {MMOLRE: HIGHLIGHT} | dict(
        zip((name for name in runs if name != MMOLRE), OTHERS * len(runs), strict=False)
    )
    columns = min(3, len(layers))
    lines = -(-len(layers) // columns)
    drawn, axes = plt.subplots(
        lines, columns, figsize=(0.6 + 3.6 * columns, 0.9 + 2.3 * lines), sharex=True, sharey=True, squeeze=False
    )
    for axis, layer in zip(axes.flat, layers, strict=False):
        axis.axhline(0, color="black", linewidth=0.8)
        told = []
        for name, run in runs.items():
            of, colour = run["layers"][layer], colours[name]
            known = [(step, c) for step, c in zip(run["steps"], of["cosines"], strict=True) if c is not None]
            steps, cosines = np.array([step for step, _ in known]), np.array([c for _, c in known])
            axis.plot(steps, cosines, ".", color=colour, markersize=2, alpha=0.3)
            width = max(1, len(cosines) // 12)
            smooth = np.convolve(cosines, np.ones(width) / width, mode="valid")
            axis.plot(steps[width - 1 :], smooth, color=colour, linewidth=1.8)
            axis.annotate(
                name, (steps[-1], smooth[-1]), (4, 0), textcoords="offset points", color=colour, fontsize=8, va="center"
            )
            told.append(f"{name}: mean {of['mean']:+.3f}, {100 * of['negative']:.0f} % below 0")
        title = "all that is shared" if layer == ALL else layer.replace(".", ", ").replace("block", "block ")
        axis.set_title("\n".join([title, *told]), fontsize=8)
    for axis in list(axes.flat)[len(layers) :]:
        axis.set_visible(False)
    last = max(step for run in runs.values() for step in run["steps"])
    axes[0, 0].set_xlim(-0.02 * last, 1.25 * last)  # room for the names; all panels share it
    for axis in axes[-1]:
        axis.set_xlabel("training step", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("cosine", fontsize=8)
    drawn.suptitle(
        "Cosine between the gradients of sentiment and emotions, running mean; below 0: conflict", fontsize=10
    )
    return save(drawn, path)
