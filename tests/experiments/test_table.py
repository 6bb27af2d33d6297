import json

import numpy as np
import pytest

from mmolre.experiments.table import cell, markdown, over_seeds, write_json


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
