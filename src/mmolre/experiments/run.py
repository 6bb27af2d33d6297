"""The experiments, each one call: train what is not trained yet, then tables, numbers and figures."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmolre.errors import UserError
from mmolre.experiments import figures, table
from mmolre.experiments.runs import Where, run_all
from mmolre.experiments.table import SHOWN
from mmolre.experiments.variants import MMOLRE, Row, ablation, comparison, fewer_modalities, must_be_new, sweep
from mmolre.files import write_text
from mmolre.plotting import pyplot
from mmolre.train.recipe import Recipe

REFERENCES = ("hard", "single")
"""The rows that a comparison's claims are against."""

Tell = Callable[[str], None]


def compare(
    recipes: Sequence[Recipe],
    where: Where,
    *,
    seeds: int,
    only: Sequence[str] = (),
    tell: Tell = lambda _: None,
) -> int:
    """The first recipe's MMoLRE against the baselines, each further recipe as one more row.

    Writes ``compare.md``, ``.json``, ``.png`` and ``.svg`` into ``where.out``, anew after each seed.

    Args:
        only: names of rows; all by default.

    Returns:
        how many rows of the data could not be used.
    """
    for recipe in recipes[1:]:
        must_be_new(recipe)
    rows = comparison(recipes[0])
    rows += [Row(recipe.name, recipe.name, {"": recipe}) for recipe in recipes[1:]]
    if len({row.name for row in rows}) < len(rows):
        raise UserError(f"two rows bear one name: {', '.join(row.name for row in rows)}; rename a recipe")
    return _rows("compare", "Comparison", _chosen(rows, only), REFERENCES, where, seeds, tell)


def ablate(recipe: Recipe, where: Where, *, seeds: int, only: Sequence[str] = (), tell: Tell = lambda _: None) -> int:
    """Each part of the recipe's model removed alone; ``ablate.md``, ``.json``, ``.png`` and ``.svg``, as `compare`."""
    rows = _chosen(ablation(recipe), only)
    fewer_modalities(rows, recipe)
    return _rows("ablate", "Ablation", rows, (MMOLRE,), where, seeds, tell)


def run_sweep(
    recipe: Recipe,
    where: Where,
    *,
    experts: Sequence[int],
    top_k: Sequence[int],
    equal: Literal["total", "each"],
    seeds: int,
    tell: Tell = lambda _: None,
) -> int:
    """Heat maps over N and k: ``sweep-EQUAL.png`` and ``.svg``, numbers as ``.json`` and ``.csv``."""
    pyplot()  # before anything takes long
    cells = sweep(recipe, experts, top_k, equal)
    path = where.out / f"sweep-{equal}"

    def write(done: int) -> None:
        content = table.collect(list(cells.values()), done, where.out, device=where.device)
        _tell_replaced(path.with_suffix(".json"), content, tell)
        metrics = {cell: content["rows"][row.name]["metrics"] for cell, row in cells.items()}
        table.write_json(path.with_suffix(".json"), {"equal": equal} | content)
        write_text(path.with_suffix(".csv"), _csv(metrics))
        per = "equal total rank" if equal == "total" else "equal rank per expert"
        figures.heat_maps(path, f"Shared experts and routers, {per}", metrics, done)

    failed = run_all(list(cells.values()), seeds, where, tell=tell, after_seed=write)
    tell(f"written: {path}.png, .svg, .json, .csv")
    return failed


def _rows(
    name: str, title: str, rows: list[Row], references: Sequence[str], where: Where, seeds: int, tell: Tell
) -> int:
    pyplot()  # before anything takes long
    path = where.out / name

    def write(done: int) -> None:
        content = table.collect(rows, done, where.out, references, where.device)
        known = _tell_replaced(path.with_suffix(".json"), content, tell).get("costs", {})
        if costs := {row.name: known[row.name] for row in rows if row.name in known}:
            content["costs"] = costs
        save(content)
        if done == seeds:  # once more: what took hours is not to wait for what takes minutes, and may fail
            save(content | {"costs": table.costs(rows, where.out, where.device)})

    def save(content: dict[str, Any]) -> None:
        table.write_json(path.with_suffix(".json"), content)
        write_text(path.with_suffix(".md"), table.markdown(title, content))
        figures.rows_figure(path, title, content)

    failed = run_all(rows, seeds, where, tell=tell, after_seed=write)
    tell(f"written: {path}.md, .json, .png, .svg")
    return failed


def _tell_replaced(path: Path, content: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """The table that will be replaced, empty where none can be read; says so where it has what the new one lacks."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        seeds = before["seeds"]
        gone = [row["title"] for name, row in before["rows"].items() if name not in content["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    more = [f"{seeds} seeds"] if seeds > content["seeds"] else []
    more += [f"the row{'s' if len(gone) > 1 else ''} {', '.join(gone)}"] if gone else []
    if more:
        tell(f"replaced: {path}, which had {' and '.join(more)}; the runs are kept, so to ask for all again is quick")
    return before


def _chosen(rows: list[Row], only: Sequence[str]) -> list[Row]:
    if unknown := set(only) - {row.name for row in rows}:
        known = ", ".join(row.name for row in rows)
        raise UserError(f"--only {sorted(unknown)[0]}: no such row; there are {known}")
    return [row for row in rows if not only or row.name in only]


def _csv(cells: dict[tuple[int, int], dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [key for key in SHOWN if any(key in metrics for metrics in cells.values())]
    writer.writerow(["experts", "top_k", *keys])
    for (n, k), metrics in cells.items():
        writer.writerow([n, k, *(metrics[key]["mean"] if key in metrics else "" for key in keys)])
    return text.getvalue()
