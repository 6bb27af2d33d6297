import json

import numpy as np
import pytest

from mmolre import UserError
from mmolre.experiments import figures, table
from mmolre.experiments.runs import RunFacts
from mmolre.experiments.scored import Scored
from mmolre.experiments.table import cell, markdown, over_seeds, write_json
from mmolre.experiments.variants import Row
from tiny_runs import tiny_recipe


def test_over_seeds_and_as_text():
    found = over_seeds([0.5, 0.7])
    assert found["mean"] == pytest.approx(0.6)
    assert found["sd"] == pytest.approx(0.02**0.5)
    assert cell(found) == "0.6000 ± 0.1414"
    assert cell(over_seeds([0.5])) == "0.5000"
    assert cell(None) == "–"


def test_what_is_not_defined_for_one_seed_is_a_dash(tmp_path):
    found = over_seeds([0.5, np.nan])  # the correlation of a model that says the same of all
    assert cell(found) == "–"
    write_json(tmp_path / "found.json", found)
    assert cell(json.loads((tmp_path / "found.json").read_text())) == "–"


def test_minutes_are_the_median_over_seeds_of_all_models_of_a_row():
    costs = {"parameters": 9, "middle": 5, "flops": 1e6, "step_ms": 1.0}
    one = {"title": "Two models", "metrics": {}, "minutes": [1.0, 2.0, 1.0, 3.0, 40.0, 2.0]}
    page = markdown("T", {"seeds": 3, "n": 4, "rows": {"one": one}, "costs": {"one": costs}, "better": {}})
    assert "| Two models | 9 | 5 | 1.0 | 1.0 | 4.0 |" in page


def test_rows_without_any_metric_are_refused(tmp_path, monkeypatch):
    nothing, unlabelled = np.zeros(2), np.full(2, np.nan)
    keys = [("a", 0), ("b", 0)]
    emotions = np.full((2, 6), np.nan)
    scored = Scored(keys, nothing, emotions, unlabelled, emotions, [("text",)] * 2, {}, 0.0)
    monkeypatch.setattr(table, "read_predictions", lambda _: scored)
    monkeypatch.setattr(table, "facts", lambda _: RunFacts(1.0, 1, 1))
    with pytest.raises(UserError, match="no row has any metric: of the 2 utterances of test that all can read, none"):
        table.collect([Row("a", "A", {"": tiny_recipe()})], 1, tmp_path)


def test_a_heat_map_without_any_value_is_left_out(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    cells = {(n, 1): {"sentiment.mae": over_seeds([0.5]), "sentiment.corr": over_seeds([np.nan])} for n in (1, 2)}
    svg = figures.heat_maps(tmp_path / "map", "T", cells, 1)[1].read_text()
    assert ">MAE: lower is better<" in svg
    assert "Corr" not in svg
