"""The results page's sections on experiments, from small records of ours."""

import copy
import json
from pathlib import Path

import pytest

from mmolre.experiments import table
from outside import load_file

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def scripts():
    if not SCRIPTS.is_dir():
        pytest.skip("an installed package has no scripts")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)  # they import each other
        names = ("experiment_sections", "record_experiment", "make_results")
        return {name: load_file(SCRIPTS / f"{name}.py") for name in names}


def metric(*values: float) -> dict:
    return {"mean": sum(values) / len(values), "sd": 0.1 if len(values) > 1 else None, "values": list(values)}


def row(title: str, mae: float) -> dict:
    return {"title": title, "metrics": {"sentiment.mae": metric(mae)}, "minutes": [1.0], "best_epochs": [1]}


def better(delta: float, p: float, low: float | None = -0.1) -> dict:
    return {"sentiment.mae": {"delta": delta, "low": low, "high": 0.2, "p": p}}


COMPARED = {
    "seeds": 1,
    "n": 8,
    "rows": {"single": row("Single-task models", 0.6), "hard": row("Hard sharing", 0.5), "mmolre": row("MMoLRE", 0.55)},
    "better": {
        "mmolre": {"hard": better(-0.05, 0.01), "single": better(0.05, 0.2)},
        "single": {"hard": better(-0.1, 1, None)},
    },
    "costs": {
        name: {"parameters": 9, "middle": middle, "flops": 1e6, "step_ms": 1.0}
        for name, middle in (("mmolre", 30), ("ple", 100), ("hard", 20))
    },
}


def page(scripts, root: Path) -> str:
    return "\n".join(scripts["experiment_sections"].sections(root))


def keep(scripts, root: Path, stem: str, content: dict, title: str = "CMU-MOSEI, text") -> Path:
    source = root / f"{stem}.json"
    source.write_text(json.dumps(content))
    return scripts["record_experiment"].record(source, "mosei", title, root)


def test_nothing_recorded_nothing_said(scripts, tmp_path):
    assert scripts["experiment_sections"].sections(tmp_path) == []


def test_claims_that_hold_and_that_do_not(scripts, tmp_path):
    (tmp_path / "compare.svg").write_text("<svg/>")
    assert keep(scripts, tmp_path, "compare", COMPARED) == tmp_path / "results/experiments/compare-mosei.json"
    (tmp_path / "results/notes").mkdir()
    (tmp_path / "results/notes/compare-mosei.md").write_text("In our words.\n")
    told = page(scripts, tmp_path)
    assert told.startswith("## Comparison: CMU-MOSEI, text\n\nIn our words.\n")
    lines = [line for line in told.splitlines() if line.startswith(("| better", "| at most"))]
    assert [line.split("**")[1] for line in lines] == ["did not hold", "not shown", "did not hold"]
    assert "1/3.3" in lines[2]
    assert "#### Against: Hard sharing" in told
    assert "![Comparison](figures/compare-mosei.svg)" in told
    assert (tmp_path / "docs/figures/compare-mosei.svg").exists()
    held = copy.deepcopy(COMPARED)
    held["better"]["mmolre"]["hard"]["sentiment.mae"] |= {"delta": 0.01}
    keep(scripts, tmp_path, "compare", held)
    assert page(scripts, tmp_path).count("**held by these trainings**") == 1
    keep(scripts, tmp_path, "compare", held | {"resampled": table.UTTERANCES_AND_SEEDS})
    assert page(scripts, tmp_path).count("**held**") == 1


def test_a_figure_of_other_numbers_goes(scripts, tmp_path):
    (tmp_path / "compare.svg").write_text("<svg/>")
    keep(scripts, tmp_path, "compare", COMPARED)
    assert "figures/compare-mosei.svg" in page(scripts, tmp_path)
    (tmp_path / "compare.svg").unlink()
    keep(scripts, tmp_path, "compare", COMPARED)
    assert "figures/compare-mosei.svg" not in page(scripts, tmp_path)


def test_a_mean_is_of_all_seeds_or_there_is_none(scripts):
    cell = scripts["make_results"].cell
    assert cell("mae", [0.5, 0.7]) == "0.600 ± 0.141"
    assert cell("wa_mean", [0.5]) == "50.0"
    assert cell("mae", [0.5, None, 0.7]) == cell("mae", [0.5, float("nan")]) == cell("mae", []) == "–"


def test_the_figure_says_what_was_scored(scripts, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    source = tmp_path / "compare.json"
    source.write_text(json.dumps(COMPARED))
    (tmp_path / "compare.svg").write_text("<svg>: test, </svg>")
    record = scripts["record_experiment"].record
    record(source, "mosi", "CMU-MOSI", tmp_path, scored_on="valid")
    assert "Comparison: valid, 8 utterances" in (tmp_path / "docs/figures/compare-mosi.svg").read_text()
    sweep = tmp_path / "sweep-total.json"
    sweep.write_text("{}")
    with pytest.raises(SystemExit, match="--scored-on is for compare and ablate"):
        record(sweep, "mosi", "CMU-MOSI", tmp_path, scored_on="valid")


def test_two_comparisons_are_told_together(scripts, tmp_path):
    sections = scripts["experiment_sections"]

    def compared(own: list[float], other: list[float]) -> dict:
        keys = ("sentiment.mae", "sentiment.corr", "emotion.wa_mean", "emotion.macro_f1")
        values = {"mmolre": own, "hard": other, "single": other}
        rows = {n: {"title": n, "metrics": {k: {"values": v} for k in keys}} for n, v in values.items()}
        return {"seeds": len(own), "rows": rows}

    told = sections.together([compared([0.5, 0.6], [0.7, 0.8]), compared([0.4], [0.3])])
    assert "3 runs a row" in told[0]
    # Means .5 and .6, variances .01 and .07 of three each: t = -.1 / sqrt(.08 / 3) = -.612, 2.56 degrees of freedom,
    # whose 97.5th percentile is 3.516: +-.574.
    spread = "0.5000 ± 0.1000 | 0.6000 ± 0.2646"
    assert f"| hard | MAE | {spread} | +0.1000 [-0.4741, +0.6741] | 0.59 |" in told
    assert f"| hard | Corr | {spread} | -0.1000 [-0.6741, +0.4741] | 0.59 |" in told


def test_p_over_utterances_alone_is_told_so(scripts, tmp_path):
    content = json.loads(json.dumps(COMPARED)) | {"seeds": 3}
    keep(scripts, tmp_path, "compare", content)
    assert "trained models as given" in page(scripts, tmp_path)
    keep(scripts, tmp_path, "compare", content | {"resampled": "utterances and, for each row apart, over seeds"})
    assert "trained models as given" not in page(scripts, tmp_path)


def test_ablation_and_sweep(scripts, tmp_path):
    rows = {"mmolre": row("The whole model", 0.5), "no-shared": row("Without shared experts", 0.4)}
    ablated = {"seeds": 1, "n": 8, "rows": rows, "better": {"no-shared": {"mmolre": better(0.1, 0.2)}}}
    keep(scripts, tmp_path, "ablate", ablated)
    cells = {"total-n2-k1": row("", 0.5), "total-n4-k1": row("", 0.4), "total-n4-k2": row("", 0.6)}
    keep(scripts, tmp_path, "sweep-total", {"seeds": 1, "n": 8, "equal": "total", "rows": cells, "better": {}})
    told = page(scripts, tmp_path)
    assert "Better without, on the metrics named (chance included): Without shared experts (MAE)." in told
    assert "| k = 1 | 0.5000 | **0.4000** |" in told
    assert "| k = 2 |  | 0.6000 |" in told
    assert told.index("## Ablation") < told.index("## Number of shared experts")


def test_few_labels(scripts, tmp_path):
    metrics = {"sentiment.mae": metric(0.5, 0.7), "emotion.top_accuracy": metric(0.25, 0.35)}
    as_it_is = {"sentiment.mae": metric(0.9), "emotion.top_accuracy": metric(0.2)}
    content = {
        "seeds": 2,
        "n": 1234,
        "valid": 50,
        "as-it-is": as_it_is,
        "recipe": "r",
        "epochs": {"new": 4, "shipped": 3},
        "trivial": as_it_is,
    }
    content |= {"rows": {"1600": {"new": metrics, "shipped": metrics}}}
    keep(scripts, tmp_path, "few-labels", content, "MELD, text")
    told = page(scripts, tmp_path)
    assert told.startswith("## From few labels: MELD, text\n\nRecipe `r`. 2 seeds, ")
    assert "| labelled utterances | first weights | epochs | MAE | `top` |" in told
    assert "| 0 | shipped, as it is |  | 0.9000 | 0.2000 |" in told
    assert "| 1,600 | `start_from: shipped` | 3 | 0.6000 ± 0.1000 | 0.3000 ± 0.1000 |" in told


def test_conflict_efficiency_peers(scripts, tmp_path):
    of = {"mean": -0.1, "se": 0.02, "negative": 0.75, "quarters": [0.1, None, -0.2, -0.3], "cosines": [0.1]}
    kept = keep(scripts, tmp_path, "conflict", {"runs": {"hard": {"seeds": 1, "steps": [0], "layers": {"all": of}}}})
    assert "cosines" not in kept.read_text()
    cell = {"parameters": [1e6, 2e6], "flops": [1e6, 2e6], "step_ms": [1, 2], "memory_bytes": [1e6, 2e6]}
    full = {key: [5 * v for v in values] for key, values in cell.items()}
    content = {"experts": [2, 4], "kept": 2, "width": 8, "ranks": {"low": 2, "full": 8}, "batch": 1, "time_steps": 3}
    content |= {"repeats": 3, "cells": {"low": cell, "full": full}, "gathering": {"1": [0.9, 1.2], "2": [0.8]}}
    (tmp_path / "results/experiments/efficiency.json").write_text(json.dumps(content))
    models = {"mmolre": ("MMoLRE", 0.60, 4.0), "tfn": ("TFN", 0.61, 1.0), "mult": ("MulT", 0.65, 9.0)}
    rows = {
        name: {"title": title, "parameters": 1000, "epoch_seconds": seconds, "predictions_per_second": 10.0}
        | {"best_epochs": [1], "metrics": {"sentiment.mae": metric(mae)}}
        for name, (title, mae, seconds) in models.items()
    }
    about = {"seeds": 1, "utterances": {"train": 9, "valid": 3, "test": 3}, "budget": {"epochs": 5, "patience": 2}}
    keep(scripts, tmp_path, "peers", about | {"rows": rows}, "")
    told = page(scripts, tmp_path)
    assert "| hard | all | -0.100 ± 0.020 | 75 % | +0.100 → – → -0.200 → -0.300 |" in told
    assert "| 4 | 2.00 / 10.00 (5.0) | 2 / 10 (5.0) | 2 / 10 (5.0) | 2 / 10 (5.0) |" in told
    assert "| k = 1 | N = 2: 0.90, N = 4: 1.20 | N = 4 |" in told
    assert "| k = 2 | N = 4: 0.80 | never |" in told
    assert "at least 2% below the best of MMSA's (TFN): **did not hold** (+1.6%)" in told
    assert "CMU-MOSEI's utterances with text and 45 numbers of audio (9 to train" in told
    assert "faster per epoch than MulT: **held** (2.2 times as fast)" in told
    # By hand: .01 of .62, its standard error (.0002 / 2 + .0002 / 2) ** .5, 4.303 of these with 2 degrees of freedom.
    rows["mmolre"]["metrics"] = {"sentiment.mae": metric(0.60, 0.62)}
    rows["tfn"]["metrics"] = {"sentiment.mae": metric(0.61, 0.63)}
    assert "always, has MAE" not in page(scripts, tmp_path)
    more = {"features": ["words"], "train_median": {"sentiment.mae": 0.8125}, "rows": rows}
    keep(scripts, tmp_path, "peers", about | more, "")
    assert "The median of the training labels, always, has MAE 0.8125. " in page(scripts, tmp_path)
    assert "CMU-MOSEI's words, without audio (9 to train" in page(scripts, tmp_path)
    assert "**did not hold** (+1.6%; 95 % over seeds -8.2% to +11.4%)" in page(scripts, tmp_path)


def test_other_files_are_refused(scripts, tmp_path):
    with pytest.raises(SystemExit, match=r"not one of compare\.json"):
        keep(scripts, tmp_path, "metrics-test", {})
