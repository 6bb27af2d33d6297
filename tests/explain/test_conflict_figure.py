import json
import statistics
from pathlib import Path

import pytest

from mmolre import UserError
from mmolre.explain import conflict
from mmolre.explain.run import explain_conflict
from tiny_runs import tiny_recipe


def write_run(folder: Path, cosines: list[float], layers: tuple[str, ...] = ("text.block1", "all")) -> Path:
    folder.mkdir(parents=True)
    lines = [{"event": "started"}]
    lines += [
        {"event": "conflict", "step": 10 * i, "layers": {layer: {"cosine": c} for layer in layers}}
        for i, c in enumerate(cosines)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_summary_by_hand(tmp_path):
    first = conflict.recorded(write_run(tmp_path / "hard" / "seed0", [0.5, -0.5, -0.1, 0.3, 0.1, 0.1, 0.1, -0.2]))
    second = conflict.recorded(write_run(tmp_path / "hard" / "seed1", [0.1] * 8))
    of = conflict.summarize({"hard": [first, second]})["runs"]["hard"]
    assert (of["seeds"], of["steps"]) == (2, [0, 10, 20, 30, 40, 50, 60, 70])
    layer = of["layers"]["text.block1"]
    values = [*first_values(first), *[0.1] * 8]
    assert layer["mean"] == pytest.approx(statistics.fmean(values))
    assert layer["se"] == pytest.approx(statistics.stdev(values) / 4)
    assert layer["negative"] == 3 / 16
    assert layer["quarters"] == pytest.approx([0.05, 0.1, 0.1, 0.025])
    assert layer["cosines"][:2] == [0.3, -0.2]


def first_values(run: dict) -> list[float]:
    return [cosines["text.block1"] for cosines in run.values()]


def test_names_and_nothing_recorded(tmp_path):
    assert conflict.names_of([Path("runs/hard/seed0"), Path("runs/hard/seed1"), Path("runs/mine")]) == [
        *("hard", "hard", "mine")
    ]
    assert conflict.names_of([Path("seedlings"), Path("seed-study")]) == ["seedlings", "seed-study"]
    assert conflict.names_of([Path("a/mine"), Path("b/mine")]) == ["a/mine", "b/mine"]
    one, other = "one/runs/hard/seed0", "other/runs/hard/seed0"
    assert conflict.names_of([Path(one), Path(other)]) == ["one/runs/hard", "other/runs/hard"]
    assert conflict.recorded(tmp_path) == {}
    (tmp_path / "log.jsonl").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        conflict.recorded(tmp_path)


def test_a_step_without_labels_of_a_task_is_none(tmp_path):
    run = write_run(tmp_path / "a", [0.5])
    with (run / "log.jsonl").open("a") as file:
        file.write(json.dumps({"event": "conflict", "step": 10, "layers": {}}) + "\n")
    assert list(conflict.recorded(run)) == [0]


def test_figure_names_each_line_where_it_ends(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    hard = conflict.recorded(write_run(tmp_path / "hard", [0.1, -0.2, 0.3]))
    mine = conflict.recorded(write_run(tmp_path / "mmolre", [0.3, 0.2, 0.3], ("text.block1", "text.norm", "all")))
    summary = conflict.summarize({"hard": [hard], "mmolre": [mine]})
    svg = conflict.figure(tmp_path / "conflict", summary)[1].read_text()
    assert "text, block 1" in svg
    assert "text, norm" not in svg  # hard sharing has it not
    assert "hard: mean +0.067, 33 % below 0" in svg
    assert svg.count(">mmolre<") == 2


def test_seeds_of_one_recipe_are_one_line_each_run_once(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    runs = [write_run(tmp_path / "hard" / f"seed{seed}", [0.1, 0.2 + seed, 0.3]) for seed in (0, 1)]
    for seed, run in enumerate(runs):
        (run / "recipe.json").write_text(tiny_recipe(seed=seed).model_dump_json())
    told: list[str] = []
    again = runs[0] / ".." / "seed0"
    assert explain_conflict([*runs, again], tmp_path / "out", told.append)
    assert json.loads((tmp_path / "out" / "conflict.json").read_text())["runs"]["hard"]["seeds"] == 2
    (runs[1] / "recipe.json").write_text(tiny_recipe(seed=1, epochs=9).model_dump_json())
    with pytest.raises(UserError, match="seed1 are of two recipes, not seeds of one: explain them apart"):
        explain_conflict(runs, tmp_path / "out", told.append)
