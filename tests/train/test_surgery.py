import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_loop import epochs, make

from mmolre.data.batching import collate
from mmolre.train.objective import Objective
from mmolre.train.surgery import backward, pcgrad, task_gradients
from tiny_runs import MIXED, tiny_model, tiny_recipe, tiny_rows


def obvious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The paper's algorithm 1 for two tasks."""
    new_a, new_b = a.copy(), b.copy()
    if np.dot(a, b) < 0:
        new_a = a - np.dot(a, b) / np.dot(b, b) * b
        new_b = b - np.dot(b, a) / np.dot(a, a) * a
    return new_a + new_b


@given(st.integers(0, 10_000), st.booleans())
def test_as_the_obvious_one(seed, conflict):
    torch.manual_seed(seed)
    shapes = [(2, 3), (4,), (1, 1)]
    a = [torch.randn(s, dtype=torch.double) for s in shapes]
    b = [torch.randn(s, dtype=torch.double) + (-1 if conflict else 1) * x for s, x in zip(shapes, a, strict=True)]
    own = torch.randn(3)
    got = pcgrad([[*a, own, None, None], [*b, None, own, None]])
    flat = torch.cat([g.flatten() for g in got[:3] if g is not None])
    expected = obvious(torch.cat([x.flatten() for x in a]).numpy(), torch.cat([x.flatten() for x in b]).numpy())
    np.testing.assert_allclose(flat.numpy(), expected, atol=1e-12)
    assert got[5] is None
    assert all(g is not None and torch.equal(g, own) for g in got[3:5])


def test_nothing_remains_against_the_other_task():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    (total,) = pcgrad([[a], [b]])
    assert total is not None
    # a without its part along b is (.5, .5), b without its part along a is (0, 1).
    assert total.tolist() == [0.5, 1.5]


def test_a_task_without_labels_in_the_batch_is_no_conflict():
    (total,) = pcgrad([[torch.zeros(3)], [torch.tensor([1.0, -2, 3])]])
    assert total is not None
    assert total.tolist() == [1, -2, 3]


@given(st.integers(0, 10_000))
def test_a_tasks_own_has_zeros_of_the_other_and_keeps_its_gradient(seed):
    torch.manual_seed(seed)
    a, b = torch.randn(2, 6, dtype=torch.double).unbind()
    b = torch.where(torch.dot(a, b) < 0, b, -b)
    own_a, own_b = torch.randn(2, 4, dtype=torch.double).unbind()
    zeros = torch.zeros(4, dtype=torch.double)
    row_of_each = [torch.stack([own_a, zeros]), torch.stack([zeros, own_b])]
    got = pcgrad([[a, own_a, zeros, row_of_each[0]], [b, zeros, own_b, row_of_each[1]]], own=[3])
    assert all(g is not None for g in got)
    total, *own = (g for g in got if g is not None)
    np.testing.assert_allclose(total.numpy(), obvious(a.numpy(), b.numpy()), atol=1e-9)
    assert torch.equal(torch.stack(own[:2]), torch.stack([own_a, own_b]))
    assert torch.equal(own[2], torch.stack([own_a, own_b]))


def test_the_whole_step():
    rows = tiny_rows(8, 3, MIXED, no_emotions=4)
    batch = collate(*rows)
    recipe = tiny_recipe(more={"objective": {"router_balance": 0.5}}).objective
    model = tiny_model()
    objective = Objective(recipe, model.config.tasks)
    parameters = list(model.parameters())
    loss = objective(model(batch.features, batch.masks), batch)
    assert sum(loss.tasks.values()).item() + loss.common.item() == pytest.approx(loss.total.item())
    of_task = list(task_gradients(loss.tasks, parameters).values())
    common = torch.autograd.grad(loss.common, parameters, retain_graph=True, allow_unused=True)
    own = list(model.placeholders.parameters())
    backward(loss.tasks, loss.common, parameters, own)
    places = [i for i, p in enumerate(parameters) if any(p is one for one in own)]
    assert len(places) == 2
    for parameter, operated, rest in zip(parameters, pcgrad(of_task, places), common, strict=True):
        expected = (0 if operated is None else operated) + (0 if rest is None else rest)
        if isinstance(expected, int):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected)


def test_training_with_it(tmp_path):
    hard = {"shared_ranks": (16,), "specific_rank": 0, "routing": "uniform", "top_k": 1}
    recipes = [
        tiny_recipe(model=hard, epochs=6, patience=6, learning_rate=0.01, more={"objective": {"surgery": name}})
        for name in ("none", "pcgrad")
    ]
    lines = []
    for recipe in recipes:
        out = tmp_path / recipe.objective.surgery
        make(out, recipe).run()
        lines.append(epochs(out))
    assert lines[1][-1]["train"]["loss"] < 0.9 * lines[1][0]["train"]["loss"]
    assert lines[0] != lines[1]
