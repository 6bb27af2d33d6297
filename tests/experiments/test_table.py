import json

import numpy as np
import pytest

from mmolre.experiments.table import cell, over_seeds, write_json


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
