"""Figures, as PNG and SVG. Rows and cells are labelled where they stand; colours differ in lightness too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmolre.evaluate.report import direction
from mmolre.experiments.table import NAMES, SHOWN
from mmolre.experiments.variants import MMOLRE
from mmolre.plotting import HIGHLIGHT, PLAIN, pyplot, save


def rows_figure(path: Path, title: str, content: Mapping[str, Any]) -> list[Path]:
    """A panel per metric, a line per row: the mean, its standard deviation over seeds, and each seed as a small dot.

    Returns:
        the files written: ``path`` with ``.png`` and ``.svg``.
    """
    plt = pyplot()
    rows = content["rows"]
    keys = [key for key in SHOWN if any(key in row["metrics"] for row in rows.values())]
    columns = min(4, len(keys))
    lines = -(-len(keys) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(2.2 + 2.6 * columns, 0.9 + lines * (0.8 + 0.3 * len(rows))), sharey=True, squeeze=False
    )
    places = np.arange(len(rows))[::-1]  # the first row on top
    for axis, key in zip(axes.flat, keys, strict=False):
        for place, (name, row) in zip(places, rows.items(), strict=True):
            if key not in row["metrics"]:
                continue
            metric, colour = row["metrics"][key], HIGHLIGHT if name == MMOLRE else PLAIN
            axis.plot(metric["values"], [place] * len(metric["values"]), ".", color=colour, alpha=0.5, markersize=4)
            axis.errorbar(metric["mean"], place, xerr=metric["sd"], fmt="o", color=colour, capsize=3)
        best = rows.get(MMOLRE, {}).get("metrics", {}).get(key)
        if best:  # a line down the panel: left and right of it are read at a glance
            axis.axvline(best["mean"], color=HIGHLIGHT, linewidth=0.8, alpha=0.5, zorder=0)
        axis.set_title(f"{NAMES[key]}: {_better(key)}", fontsize=10)
        axis.set_yticks(places, [row["title"] for row in rows.values()])
        axis.tick_params(axis="x", labelsize=8)
        axis.xaxis.set_major_locator(plt.MaxNLocator(4))
        axis.margins(y=0.08)
        for label in axis.get_yticklabels():
            if MMOLRE in rows and label.get_text() == rows[MMOLRE]["title"]:
                label.set_color(HIGHLIGHT)
                label.set_fontweight("bold")
    for axis in list(axes.flat)[len(keys) :]:
        axis.set_visible(False)
    seeds = content["seeds"]
    spread = f"{seeds} seeds (small dots), mean ± standard deviation" if seeds > 1 else "one seed"
    figure.suptitle(f"{title}: {content.get('scored_on', 'test')}, {content['n']:,} utterances; {spread}", fontsize=11)
    return save(figure, path)


def heat_maps(path: Path, title: str, cells: Mapping[tuple[int, int], Mapping[str, Any]], seeds: int) -> list[Path]:
    """A panel per metric: N across, k upwards, the value in each cell; darker is better, the best one framed.

    Args:
        cells: (N, k) -> dotted metric -> ``{"mean": …}``; a metric that is NaN in all of them has no panel.
    """
    plt = pyplot()
    keys = [key for key in SHOWN if any(key in m and not np.isnan(m[key]["mean"]) for m in cells.values())]
    experts, top_k = sorted({n for n, _ in cells}), sorted({k for _, k in cells})
    columns = min(4, len(keys))
    lines = -(-len(keys) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(columns * (1 + 0.7 * len(experts)), 0.6 + lines * (1.1 + 0.6 * len(top_k))),
        squeeze=False,
    )
    for axis, key in zip(axes.flat, keys, strict=False):
        values = np.full((len(top_k), len(experts)), np.nan)
        for (n, k), metrics in cells.items():
            values[top_k.index(k), experts.index(n)] = metrics[key]["mean"] if key in metrics else np.nan
        good = values if direction(key) == "max" else -values
        axis.imshow(good, cmap="cividis_r", origin="lower", aspect="auto")
        low, high = np.nanmin(good), np.nanmax(good)
        for (i, j), value in np.ndenumerate(values):
            if np.isnan(value):
                continue
            dark = high > low and (good[i, j] - low) / (high - low) > 0.5
            axis.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
        i, j = np.unravel_index(np.nanargmax(good), good.shape)
        axis.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2.5))
        axis.set_title(f"{NAMES[key]}: {_better(key)}", fontsize=10)
        axis.set_xticks(range(len(experts)), [str(n) for n in experts])
        axis.set_yticks(range(len(top_k)), [str(k) for k in top_k])
        axis.set_xlabel("shared experts N")
        axis.set_ylabel("kept by a router, k")
    for axis in list(axes.flat)[len(keys) :]:
        axis.set_visible(False)
    told = f"{seeds} seeds" if seeds > 1 else "one seed"
    figure.suptitle(f"{title}: test, {told}; darker is better, the best framed", fontsize=11)
    return save(figure, path)


def _better(key: str) -> str:
    return "lower is better" if direction(key) == "min" else "higher is better"
