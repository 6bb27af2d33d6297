"""From finished runs to numbers: metrics over seeds, bootstraps, costs; and these as JSON and Markdown."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmolre.bundle import MODEL_FOLDER
from mmolre.errors import UserError
from mmolre.evaluate.report import PRIMARY, direction
from mmolre.experiments import bootstrap, cost
from mmolre.experiments.runs import Job, facts, jobs
from mmolre.experiments.scored import Scored, combine, common_keys, read_predictions
from mmolre.experiments.variants import Row
from mmolre.files import write_text
from mmolre.model.config import ModelConfig
from mmolre.model.mmolre import CONFIG_FILE
from mmolre.train.run import VERSIONS_FILE

SHOWN = (
    *("sentiment.mae", "sentiment.corr", "sentiment.acc2_non0", "sentiment.acc7"),
    *("emotion.wa_mean", "emotion.macro_f1", "emotion.micro_f1", "emotion.jaccard"),
)
"""The metrics of tables and figures; the JSON file holds all."""

NAMES = {
    "sentiment.mae": "MAE", "sentiment.corr": "Corr", "sentiment.acc2_non0": "Acc-2 (non0)", "sentiment.acc7": "Acc-7",
    "emotion.wa_mean": "WA", "emotion.macro_f1": "macro-F1", "emotion.micro_f1": "micro-F1",
    "emotion.jaccard": "Jaccard",
}  # fmt: skip


UTTERANCES = "utterances"
UTTERANCES_AND_SEEDS = "utterances and, for each row apart, over seeds"
"""What a bootstrap resamples. Older files do not say it: theirs is the first."""


def collect(
    rows: Sequence[Row], seeds: int, out: Path, references: Sequence[str] = (), device: str = "cpu"
) -> dict[str, Any]:
    """Everything known of finished runs, on the test utterances that every row can read.

    Returns:
        ``seeds``, ``n`` (utterances), ``versions``, ``rows``: name -> ``title``, ``metrics``: dotted name -> ``mean``,
        ``sd`` (``None`` of one seed) and ``values`` by seed, ``minutes`` and ``best_epochs`` of each model; and
        ``better``: row -> reference -> metric -> a :class:`~mmolre.evaluate.significance.BootstrapResult` of the means
        over the seeds; ``resampled``: of what, in words.

    Raises:
        UserError: a run's files are damaged or of other data; no row has any metric.
    """
    scored: dict[str, list[Scored]] = {row.name: [] for row in rows}
    seen: dict[str, list[Any]] = {row.name: [] for row in rows}
    by_row: dict[tuple[str, int], list[Job]] = {}
    for job in jobs(rows, seeds, out):
        by_row.setdefault((job.row.name, job.seed), []).append(job)
        seen[job.row.name].append(facts(job.folder))
    for (name, _), models in by_row.items():
        scored[name].append(combine({job.task: read_predictions(job.folder) for job in models}))
    keys = common_keys(s for several in scored.values() for s in several)
    scored = {name: [s.at(keys) for s in several] for name, several in scored.items()}
    found = {name: _metrics(several) for name, several in scored.items()}
    if not any(key in metrics for metrics in found.values() for key in SHOWN):
        raise UserError(
            f"{out}: no row has any metric: of the {len(keys)} utterances of test that all can read, none is labelled "
            "for what they predict; compare fewer rows (--only), or label some"
        )
    return {
        "seeds": seeds,
        "n": len(keys),
        "versions": versions_of([job.folder for models in by_row.values() for job in models]),
        "rows": {
            row.name: {
                "title": row.title,
                "metrics": found[row.name],
                "minutes": [run.minutes for run in seen[row.name]],
                "best_epochs": [run.best_epoch for run in seen[row.name]],
            }
            for row in rows
        },
        "better": _better(scored, found, references),
        "resampled": UTTERANCES_AND_SEEDS if seeds > 1 else UTTERANCES,
    }


def versions_of(runs: Iterable[Path]) -> dict[str, str]:
    """What the runs were computed with and on; where they differ in something, all of it."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in json.loads((run / VERSIONS_FILE).read_text(encoding="utf-8")).items():
            found.setdefault(key, {})[value] = None
    return {key: ", ".join(values) for key, values in found.items()}


def costs(rows: Sequence[Row], out: Path, device: str = "cpu") -> dict[str, dict[str, float]]:
    """Each row's cost, measured now and on this device, by the shapes that the first seed's models have."""
    measured: dict[str, list[cost.Measured]] = {}
    for job in jobs(rows, 1, out):
        config = ModelConfig.model_validate_json((job.folder / MODEL_FOLDER / CONFIG_FILE).read_bytes())
        measured.setdefault(job.row.name, []).append(cost.Measured(config, job.recipe.objective))
    return {name: one._asdict() for name, one in cost.measure(measured, device=device).items()}


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """``mean``, ``sd`` (of the runs that there may be, ``None`` of one) and the ``values`` themselves, by seed.

    NaN where one of them is: a model that says the same of all utterances has no correlation.
    """
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "values": list(values)}


def cell(metric: Mapping[str, Any] | None) -> str:
    """What :func:`over_seeds` gave, or its JSON, as text; a dash where there is no mean."""
    if metric is None or metric["mean"] is None or np.isnan(metric["mean"]):
        return "–"
    return f"{metric['mean']:.4f}" + (f" ± {metric['sd']:.4f}" if metric["sd"] is not None else "")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """NaN is written as null."""
    write_text(path, json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n")


def markdown(title: str, content: Mapping[str, Any]) -> str:
    """The tables of :func:`collect`'s result (and of :func:`costs`, under ``costs``) as a page."""
    rows, seeds = content["rows"], content["seeds"]
    keys = [key for key in SHOWN if any(key in row["metrics"] for row in rows.values())]
    what = f"{seeds} seeds: mean ± standard deviation" if seeds > 1 else "one seed"
    lines = [
        f"# {title}",
        "",
        f"{content.get('scored_on', 'test').capitalize()}, {content['n']:,} utterances; {what}.",
        "",
    ]
    lines += _table("", [f"{NAMES[key]} {_arrow(key)}" for key in keys], {
        row["title"]: [cell(row["metrics"].get(key)) for key in keys] for row in rows.values()
    })  # fmt: skip
    if content.get("costs"):
        heads = ["parameters", "of the middle", "MFLOPs per utterance", "ms per step", "minutes of training"]
        lines += [
            "## Cost",
            "",
            f"Without the frozen encoders. FLOPs of a forward pass, {cost.TIME_STEPS} time steps per modality; a step "
            f"is forward, backward and AdamW on {cost.BATCH} such utterances. Of a row of two models, both together; "
            "minutes are the median over seeds.",
            "",
        ]
        lines += _table("", heads, {
            row["title"]: [
                f"{c['parameters']:,}", f"{c['middle']:,}", f"{c['flops'] / 1e6:,.1f}", f"{c['step_ms']:,.1f}",
                f"{_minutes(row['minutes'], seeds):.1f}",
            ]
            for name, row in rows.items() if (c := content["costs"].get(name))
        })  # fmt: skip
    for reference in dict.fromkeys(ref for per in content["better"].values() for ref in per):
        against = rows[reference]["title"]
        lines += [
            f"## Against: {against}",
            "",
            "Difference of the means over the seeds, above 0 where the row is better; 95 % interval and p by a paired "
            f"bootstrap over {content.get('resampled', UTTERANCES)}.",
            "",
        ]
        lines += _table("", [NAMES[key] for key in keys], {
            rows[name]["title"]: [_difference(per[reference].get(key)) for key in keys]
            for name, per in content["better"].items() if reference in per
        })  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _metrics(several: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    values: dict[str, list[float]] = {}
    for metrics in (scored.metrics() for scored in several):
        for key in (key for key in PRIMARY if key.count(".") == 1):
            task, name = key.split(".")
            if task in metrics and metrics[task][name] is not None:
                values.setdefault(key, []).append(metrics[task][name])
    return {key: over_seeds(v) for key, v in values.items() if len(v) == len(several)}


def _better(
    scored: Mapping[str, Sequence[Scored]], found: Mapping[str, Mapping[str, Any]], references: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    references = [name for name in references if name in scored]
    if not references:
        return {}
    counts = bootstrap.draw(len(next(iter(scored.values()))[0].keys))
    drawn = {name: [bootstrap.resampled(s, counts) for s in several] for name, several in scored.items()}
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for name, a in drawn.items():
        for reference in (ref for ref in references if ref != name):
            if name in result.get(reference, {}):  # the same draws, seen from the other side
                result.setdefault(name, {})[reference] = _turned(result[reference][name])
                continue
            b = drawn[reference]
            both = [key for key in a[0] if key in b[0] and key in found[name] and key in found[reference]]
            result.setdefault(name, {})[reference] = {
                key: asdict(
                    bootstrap.compare(
                        key,
                        [seed[key] for seed in a],
                        [seed[key] for seed in b],
                        found[name][key]["mean"] - found[reference][key]["mean"],
                    )
                )
                for key in both
            }
    return result


def _turned(compared: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: {**of, "delta": -of["delta"], "low": -of["high"], "high": -of["low"]} for key, of in compared.items()}


def _minutes(each: Sequence[float], seeds: int) -> float:
    """Of a row's models of one seed together; the median over the seeds, as a machine may be busy during one."""
    per = len(each) // seeds
    return statistics.median(sum(each[i * per : (i + 1) * per]) for i in range(seeds))


def _table(corner: str, heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join([corner, *heads]) + " |", "|---" * (len(heads) + 1) + "|"]
    return [*lines, *("| " + " | ".join([title, *cells]) + " |" for title, cells in rows.items()), ""]


def _difference(result: Mapping[str, float | None] | None) -> str:
    if result is None or result["low"] is None or np.isnan(result["low"]):
        return "–"
    return f"{result['delta']:+.4f} [{result['low']:+.4f}, {result['high']:+.4f}], p {result['p']:.3f}"


def _arrow(key: str) -> str:
    return "↓" if direction(key) == "min" else "↑"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
