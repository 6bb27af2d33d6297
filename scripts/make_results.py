"""Make docs/results.md, and the table in README.md, from the summaries under results/.

`--check` fails where they are not what the summaries say.
"""

import json
import math
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiment_sections import sections

from mmolre.evaluate.report import ON_ITS_OWN, best_trivial, direction

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
NOTES = ROOT / "results" / "notes"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"

SENTIMENT = ("mae", "corr", "acc2_has0", "acc2_non0", "f1_non0", "acc7", "acc5")
EMOTION = (
    *("wa_mean", "micro_f1", "macro_f1", "jaccard", "jaccard_empty1"),
    *("hamming", "ap_mean", "auc_mean", "top_accuracy"),
)
COLUMNS = (
    *(("sentiment", name) for name in ("mae", "corr", "acc2_non0", "acc7")),
    *(("emotion", name) for name in ("wa_mean", "micro_f1", "macro_f1", "jaccard", "top_accuracy")),
)
"""README's."""
SHIPPED = "everyday-voices-refit"
BEFORE_SHIPPED = "everyday-voices"
"""Says of words what the shipped one says: in README only where that has learned what would be scored."""
LEFT_OUT = ("everyday",)
"""As that, and older; on the page alone."""
FRACTIONS = {"mae", "corr"}
"""Shown as they are; all others in percent."""

HEAD = """# Results

Made by `python scripts/make_results.py` from the files under `results/`, which `python scripts/record_run.py` and
`python scripts/record_experiment.py` write; do not edit. Choices (epoch, thresholds, hyper-parameters) were made on
valid, but for these, made with test seen: a rule for `top` that was taken back, and two about RAVDESS, that `ravdess`
keeps its last epoch and that it stays the recipe for voices ([the log](log.md)); of MELD, all of valid had been seen.
Test was scored once per run, and again where new thresholds or `context` were fitted on valid ([the log](log.md)
says for which; that context helps was first seen on valid and test together, so that test is no untouched figure for
it). Mean ± standard deviation over seeds where there are several. MAE and Corr as they are, the rest in percent. The
metrics are defined in `src/mmolre/evaluate/`. Rows in italics are trivial predictors: a model that is not clearly above
them has learned nothing. Where a row is *without `context`*, the model reads an utterance also in the light of what it
says of the others of its video ([how](method.md#the-rest-of-the-recording)) or, of acted voices, of its speaker
([how](method.md#the-speakers-other-utterances)); that row is the same model without them, which is what to compare with
the figures of others. `mosei-surrounded` reads the words of its neighbours as well, in
every row. What was tried and did not help is in [the log](log.md).

In short, of the paper's claims, on CMU-MOSEI: **no design of the middle, MMoLRE's included, is better than plain hard
sharing beyond chance, and the tasks are not seen to hurt each other; what holds is the price**, a tenth of the
parameters of full-rank experts (MMoE, PLE) for the same scores, which plain hard sharing has, too, in two thirds of the
time. What moves the scores is the encoder, what is read with an utterance, and who teaches.
"""


def runs_by_recipe() -> dict[str, list[dict[str, Any]]]:
    """Recipe -> its runs, by seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((ROOT / "results").glob("*/seed*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(run["recipe"], []).append(run)
    return found


def cell(name: str, values: Iterable[float | None]) -> str:
    """One table cell: the value, or mean ± standard deviation; a dash where not all have one."""
    several = [math.nan if value is None else value for value in values]
    if not several or any(map(math.isnan, several)):
        return "–"
    scale, digits = (1, 3) if name in FRACTIONS else (100, 1)
    text = f"{scale * statistics.mean(several):.{digits}f}"
    return text if len(several) < 2 else f"{text} ± {scale * statistics.stdev(several):.{digits}f}"


def table(task: str, names: tuple[str, ...], metrics: list[dict[str, Any]]) -> list[str]:
    """A Markdown table of one task on one data set, the trivial predictors below."""
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    rows = {"**model**": [m[task] for m in metrics]}
    if all(ON_ITS_OWN in m for m in metrics):
        rows["without `context`"] = [m[ON_ITS_OWN][task] for m in metrics]
    for trivial in metrics[0]["trivial"].get(task, {}):
        rows[f"_{trivial.replace('_', ' ')}_"] = [metrics[0]["trivial"][task][trivial]]
    for title, values in rows.items():
        lines.append("| " + " | ".join([title, *(cell(n, (v.get(n) for v in values)) for n in names)]) + " |")
    return [*lines, ""]


def scored_on(runs: list[dict[str, Any]]) -> list[str]:
    """Everything that any of these runs was scored on."""
    return list(dict.fromkeys(name for run in runs for name in run["metrics"]))


def chosen(runs: list[dict[str, Any]]) -> str:
    """Which epoch was kept, and by what."""
    epochs = ", ".join(str(run["best_epoch"]) for run in runs)
    if runs[0].get("refit"):
        told = "train and valid learned together; epoch and thresholds are those of the same seed's run without valid"
        return f"{told}: epoch {epochs}."
    return f"best epoch {epochs}. Epoch chosen by {' and '.join(runs[0]['primary'])} on valid."


def parameters(run: dict[str, Any]) -> str:
    """How many learned, ours and the encoders' apart."""
    of_encoders = run["parameters_by_part"]["uppers"]
    own = f"{run['parameters'] - of_encoders:,} parameters"
    return f"{own}, and {of_encoders:,} of what learns in the encoders" if of_encoders else own


def section(recipe: str, runs: list[dict[str, Any]]) -> list[str]:
    """Everything about one recipe."""
    first = runs[0]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    minutes = statistics.mean(run["minutes"] for run in runs)
    device = first["versions"].get("device", "cpu")
    where = device if device != "cpu" else f"{first['versions']['torch_threads']} CPU thread(s)"
    lines = [
        f"## {recipe}",
        "",
        f"Seed {seeds}; {parameters(first)}; "
        f"{first['train_utterances']:,} training utterances; {minutes:.1f} minutes of training on "
        f"{where}, torch {first['versions']['torch']}; {chosen(runs)}",
        "",
    ]
    note = NOTES / f"{recipe}.md"
    if note.exists():
        lines += [note.read_text(encoding="utf-8").strip(), ""]
    for name in scored_on(runs):
        of = [run for run in runs if name in run["metrics"]]
        metrics = [run["metrics"][name] for run in of]
        only = "" if len(of) == len(runs) else f"; seed {', '.join(str(run['seed']) for run in of)} alone"
        lines += [f"### {recipe}: {name} ({metrics[0]['n']:,} utterances{only})", ""]
        for task, names in (("sentiment", SENTIMENT), ("emotion", EMOTION)):
            if task in metrics[0]:
                lines += table(task, names, metrics)
    return lines


def page() -> str:
    """The whole page."""
    lines: list[str] = []
    for recipe, runs in runs_by_recipe().items():
        lines += section(recipe, sorted(runs, key=lambda run: run["seed"]))
    lines += sections(ROOT)
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    lines = [HEAD, *(f"- [{title}](#{_anchor(title)})" for title in titles), "", *lines]
    return "\n".join(lines).rstrip() + "\n"


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def summary() -> str:
    """README's table: recipes on the test splits that were scored, or on valid where test is withheld, by corpus; below
    each corpus the best that a trivial predictor has."""
    titles = ("MAE", "Corr", "Acc-2", "Acc-7", "WA", "micro-F1", "macro-F1", "Jaccard", "`top`")
    rows: dict[str, list[str]] = {}
    trivial: dict[str, list[dict[str, Any]]] = {}
    for recipe, runs in _for_readme().items():
        names = scored_on(runs)
        tested = {name.split()[0] for name in names if " test" in name}
        if recipe == BEFORE_SHIPPED:
            names = [name for name in names if name.split()[0] not in {corpus.split()[0] for corpus in rows}]
        for name in (n for n in names if " test" in n or n.split()[0] not in tested):
            metrics = [run["metrics"][name] for run in runs if name in run["metrics"]]
            title = f"`{recipe}`" + (" (shipped)" if recipe == SHIPPED else "")
            readings = {title: metrics}
            if all(ON_ITS_OWN in m for m in metrics):
                readings = {f"{title}, context": metrics, title: [m[ON_ITS_OWN] for m in metrics]}
            told = {
                title: [cell(key, (m.get(task, {}).get(key) for m in read)) for task, key in COLUMNS]
                for title, read in readings.items()
            }
            if len({tuple(cells) for cells in told.values()}) == 1:  # no recordings, so no context
                told = {title: next(iter(told.values()))}
            corpus = name.split(",")[0]
            if how := re.sub(r"\(.*?\)", "", name).split(", ")[2:]:  # the split, once more in another way
                told = {f"{title}; {', '.join(how)}": cells for title, cells in told.items()}
            trivial.setdefault(corpus, []).append(metrics[0])
            rows.setdefault(corpus, []).extend(
                _row(title, corpus, str(len(metrics)), *cells) for title, cells in told.items()
            )
    lines = [_row("recipe", "scored on", "seeds", *titles), "|---" * (len(titles) + 3) + "|"]
    for corpus, of_corpus in rows.items():
        lines += [*of_corpus, _row("_the best trivial predictor_", corpus, "", *_best(trivial[corpus]))]
    return "\n".join(lines)


def _for_readme() -> dict[str, list[dict[str, Any]]]:
    """The shipped model's runs first."""
    found = runs_by_recipe()
    return {SHIPPED: found[SHIPPED]} | {recipe: runs for recipe, runs in found.items() if recipe not in LEFT_OUT}


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("–", "")


def _best(several: Sequence[dict[str, Any]]) -> list[str]:
    """Of each column the best value that any trivial predictor has in any of these."""
    cells = []
    for task, key in COLUMNS:
        values = [x for metrics in several if (x := best_trivial(metrics, task, key)) is not None]
        best = min if direction(f"{task}.{key}") == "min" else max
        cells.append(cell(key, [best(values)]) if values else "")
    return cells


def readme() -> str:
    """README with the table between its two markers."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{summary()}\n\n{END}{after}"


def main() -> None:
    made = {PAGE: page(), README: readme()}
    if "--check" in sys.argv[1:]:
        for path, content in made.items():
            if not path.exists() or path.read_text(encoding="utf-8") != content:
                sys.exit(f"{path.name} is not what results/ says: run python scripts/make_results.py")
        return
    for path, content in made.items():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
