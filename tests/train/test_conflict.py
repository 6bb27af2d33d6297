import numpy as np
import pytest
import torch
from test_loop import after, log, make, same
from torch import nn

from mmolre.data.batching import collate
from mmolre.train import conflict
from mmolre.train.conflict import ALL, layer_of, measure
from mmolre.train.loop import InterruptedRunError
from mmolre.train.objective import Objective
from mmolre.train.recipe import ObjectiveRecipe
from tiny_runs import tiny_model, tiny_recipe, tiny_rows

HARD = {"shared_ranks": (8,), "specific_rank": 0, "routing": "uniform", "top_k": 1}


def test_names_of_layers():
    assert layer_of("inputs.my-audio.project.weight") == "my-audio.input"
    assert layer_of("unitse.text.blocks.1.shared.weight_in") == "text.block2"
    assert layer_of("unitse.text.norm.bias") == "text.norm"
    assert layer_of("fusion.0.norm.weight") == "fusion"


def test_by_hand():
    model = nn.ModuleDict({"a": nn.Linear(1, 1, bias=False), "b": nn.Linear(2, 1, bias=False)})
    a, b = (next(model[name].parameters()) for name in "ab")
    losses = {"one": 3 * a.sum() + b[0, 0], "two": -2 * a.sum() + b[0, 1]}
    found = measure(model, losses)
    assert found["a"] == {"cosine": pytest.approx(-1), "one": pytest.approx(3), "two": pytest.approx(2)}
    assert found["b"]["cosine"] == 0
    assert found[ALL]["cosine"] == pytest.approx(-6 / np.sqrt(10 * 5))
    assert a.grad is None
    assert set(measure(model, {"one": a.sum(), "two": a.sum() + b.sum()})) == {"a", ALL}  # only one reaches b
    silent = measure(model, {"one": 3 * a.sum(), "two": 0 * a.sum() + b.sum()})
    assert silent == {}


@pytest.mark.parametrize("shape", [{}, HARD])
def test_as_two_backward_passes(shape):
    model = tiny_model(**shape)
    rows = tiny_rows(6)
    batch = collate(*rows)
    objective = Objective(ObjectiveRecipe(), model.config.tasks)
    losses = objective(model(batch.features, batch.masks), batch).tasks
    vectors = []
    for task in ("sentiment", "emotion"):
        model.zero_grad()
        losses[task].backward(retain_graph=True)
        shared = model.unitse["text"].blocks[0]
        vectors.append(torch.cat([p.grad.flatten() for p in (*shared.norm.parameters(), *shared.shared.parameters())]))
    expected = torch.cosine_similarity(*vectors, dim=0).item()
    found = measure(model, losses)
    assert found["text.block1"]["cosine"] == pytest.approx(expected, abs=1e-5)
    assert found["text.block1"]["emotion"] == pytest.approx(vectors[1].norm().item(), rel=1e-5)
    assert {"text.input", "text.block2", "audio.block1", ALL} <= found.keys()
    assert "placeholders" not in found
    # With an own expert and a router each, what a task owns is no part of it.
    own = sum(p.numel() for name, p in model.named_parameters() if "specific" in name or "routers" in name)
    assert (own > 0) == (not shape)


def test_recording_changes_nothing_and_goes_on_after_a_stop(tmp_path, monkeypatch):
    plain, recorded, stopped = tmp_path / "plain", tmp_path / "recorded", tmp_path / "stopped"
    recipe = tiny_recipe(model={"top_k": 2}, ema=0.5, conflict_every=2)
    make(plain, tiny_recipe(model={"top_k": 2}, ema=0.5)).run()
    make(recorded, recipe).run()
    assert same(plain, recorded)
    lines = [line for line in log(recorded) if line["event"] == "conflict"]
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert all(-1 <= line["layers"][ALL]["cosine"] <= 1 for line in lines)
    assert not [line for line in log(plain) if line["event"] == "conflict"]

    with pytest.raises(InterruptedRunError):
        make(stopped, recipe, should_stop=after(3)).run()
    make(stopped, recipe).run()
    assert [line for line in log(stopped) if line["event"] == "conflict"] == lines

    monkeypatch.setattr(conflict, "measure", None)  # a single task has nothing to be in conflict with
    make(tmp_path / "one", tiny_recipe(model={"tasks": ["sentiment"]}, conflict_every=1)).run()
