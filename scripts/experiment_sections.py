"""The sections of docs/results.md that tell of experiments, from what scripts/record_experiment.py has kept."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import ttest_ind

from mmolre.evaluate.report import direction
from mmolre.experiments import table

CLAIMED = ("sentiment.mae", "sentiment.corr", "emotion.wa_mean", "emotion.macro_f1")
"""The metrics that claims are made of."""
FIRST = ("compare-mosei",)
"""Of several of a kind those that the others are to be read beside."""
REFERENCES = ("hard", "single")
SHARE = 1 / 5
"""Of the middle's parameters of full-rank PLE: what MMoLRE may have at most."""
LEVEL = 0.05
BETTER_MAE = 0.02
"""How much lower, relatively, MAE has to be than that of the best of MMSA's models."""

Page = list[str]


def sections(root: Path) -> Page:
    """All sections, in a fixed order; a kind without any result has none."""
    kinds: dict[str, tuple[str, Callable[[Mapping[str, Any]], Page]]] = {
        "compare": ("Comparison", comparison),
        "ablate": ("Ablation", ablation),
        "sweep": ("Number of shared experts, and how many are kept", sweep),
        "conflict": ("Task conflict", conflict),
        "efficiency": ("Efficiency", efficiency),
        "peers": ("Beside MMSA", peers),
        "few-labels": ("From few labels", few_labels),
    }
    lines: Page = []
    for kind, (heading, write) in kinds.items():
        found = (root / "results" / "experiments").glob(f"{kind}*.json")
        for path in sorted(found, key=lambda path: (path.stem not in FIRST, path.stem)):
            content = json.loads(path.read_text(encoding="utf-8"))
            title = content.get("title", "")
            lines += [f"## {heading}{': ' if title else ''}{title}", ""]
            note = root / "results" / "notes" / f"{path.stem}.md"
            if note.exists():
                lines += [note.read_text(encoding="utf-8").strip(), ""]
            lines += write(content)
            earlier = path.with_name(f"{path.stem}-earlier.json")
            if kind == "compare" and earlier.exists():
                lines += together([content, json.loads(earlier.read_text(encoding="utf-8"))])
            if (root / "docs" / "figures" / f"{path.stem}.svg").exists():
                lines += [f"![{heading}](figures/{path.stem}.svg)", ""]
    return lines


def comparison(content: Mapping[str, Any]) -> Page:
    """What was claimed, and whether it held; then the tables of `mmolre compare`."""
    rows = list(_claims(content))
    lines: Page = []
    if rows:
        as_given = (
            " **p takes the trained models as given: it does not say that trainings with other draws would do the "
            "same.**"
            if not _draws_trainings(content)
            else ""
        )
        lines += [
            "What MMoLRE is for is to be better than hard sharing and than a model for each task, at a fraction of "
            "the parameters of full-rank experts. Held: better, and p below 0.05; not shown: better, but chance would "
            "do as much; did not hold: no better." + as_given,
            "",
            *_table(["claim", "metric", "MMoLRE", "the other", "difference, 95 % interval, p", "verdict"], rows),
        ]
    return lines + _tables("", content)


def together(contents: Sequence[Mapping[str, Any]]) -> Page:
    """Comparisons of the same rows and data, trained apart, as one with all their runs; Welch's t-test over runs."""
    body = []
    for reference in REFERENCES:
        for key in CLAIMED:
            own, other = (
                [value for content in contents for value in content["rows"][name]["metrics"][key]["values"]]
                for name in ("mmolre", reference)
            )
            if None in own + other:  # of a model that says the same of all
                continue
            sign = 1 if direction(key) == "max" else -1
            delta = sign * (mean(own) - mean(other))
            test = ttest_ind(own, other, equal_var=False)
            _, p = tuple(test)
            low, high = sorted(sign * bound for bound in test.confidence_interval(0.95))
            title = contents[0]["rows"][reference]["title"]
            both = [f"{mean(values):.4f} ± {stdev(values):.4f}" for values in (own, other)]
            body.append([title, table.NAMES[key], *both, f"{delta:+.4f} [{low:+.4f}, {high:+.4f}]", f"{p:.2f}"])
    runs = sum(content["seeds"] for content in contents)
    return [
        f"Together with the comparison with other draws, {runs} runs a row; difference of the means, above 0 where "
        "MMoLRE is better; p by Welch's t-test over runs, which takes the test utterances as given, and the runs, "
        "some of which share a seed, as independent; not corrected for several tests:",
        "",
        *_table(["the other", "metric", "MMoLRE", "the other", "difference, 95 % interval", "p"], body),
    ]


def ablation(content: Mapping[str, Any]) -> Page:
    """The tables of `mmolre ablate`, after a sentence on what was no loss to remove."""
    idle = [
        f"{content['rows'][name]['title']} ({', '.join(table.NAMES[key] for key in keys)})"
        for name, per in content["better"].items()
        if (keys := [key for key in CLAIMED if (of := per["mmolre"].get(key)) and (of["delta"] or 0) > 0])
    ]
    lines = [f"Better without, on the metrics named (chance included): {'; '.join(idle)}.", ""] if idle else []
    return lines + _tables("", content)


def sweep(content: Mapping[str, Any]) -> Page:
    """A table per metric: N across, k down, the best cell in bold."""
    cells: dict[tuple[int, int], Mapping[str, Any]] = {}
    for name, row in content["rows"].items():
        n, k = map(int, re.findall(r"n(\d+)-k(\d+)", name)[0])
        cells[n, k] = row["metrics"]
    experts, kept = sorted({n for n, _ in cells}), sorted({k for _, k in cells})
    equal = "equal total rank" if content["equal"] == "total" else "equal rank per expert"
    lines = [f"{_seeds(content)}, {content['n']:,} utterances of test, {equal}.", ""]
    for key in CLAIMED:
        values = {
            cell: metrics[key]["mean"]
            for cell, metrics in cells.items()
            if key in metrics and metrics[key]["mean"] is not None
        }
        if not values:
            continue
        best = (min if direction(key) == "min" else max)(values.values())
        body = [[f"k = {k}", *(_best(values.get((n, k)), best) for n in experts)] for k in kept]
        lines += _table([table.NAMES[key], *(f"N = {n}" for n in experts)], body)
    return lines


def conflict(content: Mapping[str, Any]) -> Page:
    """The cosine between the tasks' gradients per layer, and over the quarters of the training."""
    body = []
    for name, run in content["runs"].items():
        for layer, of in run["layers"].items():
            spread = f" ± {of['se']:.3f}" if of["se"] is not None else ""
            quarters = " → ".join("–" if q is None else f"{q:+.3f}" for q in of["quarters"])
            body.append([name, layer, f"{of['mean']:+.3f}{spread}", f"{100 * of['negative']:.0f} %", quarters])
    heads = ["run", "layer", "mean cosine ± standard error", "below 0", "by quarter of the training"]
    return [
        "Cosine between the gradients of the two tasks' losses of one batch, of what both tasks reach; below 0 they "
        "conflict. The standard error takes the batches for independent.",
        "",
        *_table(heads, body),
    ]


def efficiency(content: Mapping[str, Any]) -> Page:
    """Parameters, FLOPs, time and memory against N; the crossing of gathering and masking."""
    cells, experts = content["cells"], content["experts"]
    body = []
    for i, n in enumerate(experts):
        row = [str(n)]
        for key, form in (
            ("parameters", lambda v: f"{v / 1e6:.2f}"),
            ("flops", lambda v: f"{v / 1e6:.0f}"),
            ("step_ms", lambda v: f"{v:.0f}"),
            ("memory_bytes", lambda v: f"{v / 1e6:.0f}"),
        ):
            low, full = cells["low"][key][i], cells["full"][key][i]
            row.append(f"{form(low)} / {form(full)} ({full / low:.1f})" if low else f"– / {form(full)}")
        body.append(row)
    heads = ["N", "parameters, M", "MFLOPs per utterance", "CPU ms per step", "MB per step"]
    crossing = []
    for kept, ratios in content["gathering"].items():
        of = experts[len(experts) - len(ratios) :]
        first = next((n for n, ratio in zip(of, ratios, strict=True) if ratio > 1), None)
        told = ", ".join(f"N = {n}: {ratio:.2f}" for n, ratio in zip(of, ratios, strict=True))
        crossing.append([f"k = {kept}", told, f"N = {first}" if first else "never"])
    return [
        f"Low rank (r = {content['ranks']['low']}) / full rank (r = {content['ranks']['full']}), in brackets how many "
        "times as much full rank takes. The middle of one modality, two blocks, "
        f"d = {content['width']}, k = {content['kept']}, batches of {content['batch']} utterances of "
        f"{content['time_steps']} time steps; time is of the process on one thread of a CPU shared with other work, "
        f"the median of {content['repeats']} turns: read the ratios. `python benchmarks/efficiency.py --out "
        "results/experiments/efficiency.json --figure docs/figures/efficiency`.",
        "",
        *_table(heads, body),
        "Time of computing all low-rank experts and masking, over that of gathering the kept ones' columns (forward "
        "and backward, the second block); above 1 gathering wins; where it does clearly, the bank does it by itself:",
        "",
        *_table(["", "all and masked ÷ gathered", "gathering wins from"], crossing),
    ]


def peers(content: Mapping[str, Any]) -> Page:
    """Accuracy, size and speed beside MMSA's models, and whether what was aimed at was reached."""
    rows, counts = content["rows"], content["utterances"]
    keys = [key for key in table.SHOWN if all(key in row["metrics"] for row in rows.values())]
    body = [
        [
            row["title"],
            *(table.cell(row["metrics"][key]) for key in keys),
            f"{row['parameters']:,}",
            f"{row['epoch_seconds']:.1f}",
            f"{row['predictions_per_second']:,.0f}",
            str(len(row["metrics"]["sentiment.mae"]["values"])),
            ", ".join(map(str, row["best_epochs"])),
        ]
        for row in rows.values()
    ]
    heads = [
        "",
        *(table.NAMES[key] for key in keys),
        "parameters",
        "CPU s per epoch",
        "predictions per CPU s",
        "seeds",
        "best epochs",
    ]
    counts_of = {len(row["metrics"]["sentiment.mae"]["values"]) for row in rows.values()}
    trained = _seeds(content).lower() if len(counts_of) == 1 else "as many seeds as the table says"
    theirs = {name: row for name, row in rows.items() if not name.startswith("mmolre")}
    heard = "acoustic" in content.get("features", ["acoustic"])  # records did not say so before there were words alone
    given = "CMU-MOSEI's utterances with text and 45 numbers of audio" if heard else "CMU-MOSEI's words, without audio"
    verdicts = []
    for name, row in rows.items():
        if name in theirs or not theirs:
            continue
        best = min(theirs.values(), key=lambda r: r["metrics"]["sentiment.mae"]["mean"])
        own, other = row["metrics"]["sentiment.mae"], best["metrics"]["sentiment.mae"]
        less = 1 - own["mean"] / other["mean"]
        held = "held" if less >= BETTER_MAE else "did not hold"
        verdicts.append(
            f"- {row['title']}: MAE at least {BETTER_MAE:.0%} below the best of MMSA's ({best['title']}): **{held}** "
            f"({less:+.1%}{_interval(other, own)})."
        )
        if "mult" in theirs:
            ratio = theirs["mult"]["epoch_seconds"] / row["epoch_seconds"]
            held = "held" if ratio > 1 else "did not hold"
            verdicts.append(f"- {row['title']}: faster per epoch than MulT: **{held}** ({ratio:.1f} times as fast).")
    return [
        f"{given} ({counts['train']:,} to train, {counts['valid']:,} valid, {counts['test']:,} test); sentiment; the "
        f"same frozen features for all, {trained}, at most {content['budget']['epochs']} epochs, patience "
        f"{content['budget']['patience']}, the epoch with the lowest MAE on valid. CPU "
        "seconds, one thread, from features; the machine was shared: read the ratios. "
        f"{_constant(content)}"
        "[benchmarks/peers](../benchmarks/peers/README.md) says how MMSA is run.",
        "",
        *_table(heads, body),
        *verdicts,
        "",
    ]


def _constant(content: Mapping[str, Any]) -> str:
    """What a predictor has that learned the median of the training labels alone; older records do not say it."""
    known = content.get("train_median")
    return f"The median of the training labels, always, has MAE {known['sentiment.mae']:.4f}. " if known else ""


def _interval(other: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Of how much less the own is, relatively, over trainings: Welch's 95 %; nothing where there are too few."""
    if min(len(other["values"]), len(own["values"])) < 2:
        return ""
    bounds = ttest_ind(other["values"], own["values"], equal_var=False).confidence_interval(0.95)
    low, high = (bound / other["mean"] for bound in bounds)
    return f"; 95 % over seeds {low:+.1%} to {high:+.1%}"


def _draws_trainings(content: Mapping[str, Any]) -> bool:
    """Whether p also says what trainings with other draws would do."""
    return content.get("resampled", table.UTTERANCES) != table.UTTERANCES


def _claims(content: Mapping[str, Any]) -> Iterator[list[str]]:
    rows = content["rows"]
    held = "held" if _draws_trainings(content) else "held by these trainings"
    for reference in (r for r in REFERENCES if r in rows):
        for key in CLAIMED:
            of = content["better"].get("mmolre", {}).get(reference, {}).get(key)
            if of is None or of["delta"] is None:
                continue
            verdict = "did not hold" if of["delta"] <= 0 else held if of["p"] < LEVEL else "not shown"
            own, other = (table.cell(rows[name]["metrics"][key]) for name in ("mmolre", reference))
            interval = "" if of["low"] is None else f" [{of['low']:+.4f}, {of['high']:+.4f}]"
            told = f"{of['delta']:+.4f}{interval}, {of['p']:.3f}"
            better = f"better than {rows[reference]['title'].lower()}"
            yield [better, table.NAMES[key], own, other, told, f"**{verdict}**"]
    costs = content.get("costs", {})
    if {"mmolre", "ple"} <= costs.keys():
        own, other = (costs[name]["middle"] for name in ("mmolre", "ple"))
        verdict = "held" if own <= SHARE * other else "did not hold"
        claim = "at most 1/5 of full-rank PLE's middle"
        yield [claim, "parameters", f"{own:,}", f"{other:,}", f"1/{other / own:.1f}", f"**{verdict}**"]


def few_labels(content: Mapping[str, Any]) -> Page:
    """From new weights, and from the shipped model's, by how many labelled utterances there are."""
    names = table.NAMES | {"emotion.auc_mean": "AUC", "emotion.top_accuracy": "`top`"}
    firsts = {"new": "new", "new-longer": "new", "shipped": "`start_from: shipped`"}
    epochs, as_it_is = content["epochs"], content["as-it-is"]
    lines = [["", "_the best trivial predictor_", "", content["trivial"]], ["0", "shipped, as it is", "", as_it_is]]
    lines += [
        [f"{int(size):,}", firsts[way], str(epochs[way]), metrics]
        for size, ways in content["rows"].items()
        for way, metrics in ways.items()
    ]
    body = [[*about, *(table.cell(metrics[key]) for key in as_it_is)] for *about, metrics in lines]
    return [
        f"Recipe `{content['recipe']}`. {_seeds(content)}, each with utterances of its own to learn from; "
        f"{content['valid']} more choose epoch and thresholds; {content['n']:,} are scored, the same for all.",
        "",
        *_table(["labelled utterances", "first weights", "epochs", *(names[key] for key in as_it_is)], body),
    ]


def _tables(title: str, content: Mapping[str, Any]) -> Page:
    """The package's own page of an experiment, its headings two levels down, without the first."""
    lines = table.markdown(title, content).splitlines()[2:]
    return [*(f"##{line}" if line.startswith("#") else line for line in lines), ""]


def _seeds(content: Mapping[str, Any]) -> str:
    return f"{content['seeds']} seeds" if content["seeds"] > 1 else "One seed"


def _best(value: float | None, best: float) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"**{value:.4f}**" if value == best else f"{value:.4f}"


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> Page:
    return [
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
        *("| " + " | ".join(line) + " |" for line in body),
        "",
    ]
