import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmolre.model.experts import LowRankExperts
from mmolre.model.gated import gated_gelu
from mmolre.model.neighbours import Neighbours

SHAPES = [
    ((2, 3, 4), (2, 1, 4)),  # gates per utterance
    ((2, 3, 4), (2, 3, 4)),  # per token
    ((2, 3, 4), (1, 1, 4)),  # one for all
    ((1, 2, 3, 4), (2, 2, 1, 4)),  # two tasks read the same
    ((2, 2, 3, 4), (2, 2, 1, 4)),  # each its own
    ((1, 2, 1, 4), (3, 2, 1, 4)),  # one token
    ((1, 2, 0, 4), (2, 2, 1, 4)),  # none
]


@pytest.mark.parametrize(("x_shape", "gates_shape"), SHAPES)
@pytest.mark.parametrize("learned", ["xgw", "xw", "gw", "x", "g", "w"])
def test_gated_gelu_is_three_operations_gradients_included(x_shape, gates_shape, learned):
    def inputs():
        torch.manual_seed(0)
        made = (torch.randn(x_shape), torch.rand(gates_shape), torch.randn(4, 5))
        return [t.double().requires_grad_(name in learned) for name, t in zip("xgw", made, strict=True)]

    results = []
    for way in (gated_gelu, lambda x, g, w: (F.gelu(x) * g) @ w):
        x, gates, weight = inputs()
        total = way(x, gates, weight)
        total.square().sum().backward()
        results.append([total, x.grad, gates.grad, weight.grad])
    for got, expected in zip(*results, strict=True):
        if expected is None:
            assert got is None
        else:
            torch.testing.assert_close(got, expected)


def test_gated_gelu_leaves_its_inputs_and_their_gradients_alone():
    x, gates, weight = torch.randn(2, 3, 4, requires_grad=True), torch.rand(2, 1, 4), torch.randn(4, 5)
    before = x.detach().clone()
    total = gated_gelu(x, gates, weight)
    upstream = torch.randn_like(total)
    kept = upstream.clone()
    first = torch.autograd.grad(total, x, upstream, retain_graph=True)[0]
    again = torch.autograd.grad(total, x, upstream)[0]
    assert torch.equal(first, again)
    assert torch.equal(x, before)
    assert torch.equal(upstream, kept)


@settings(max_examples=40)
@given(ranks=st.lists(st.integers(1, 4), min_size=1, max_size=5), tasks=st.integers(1, 3), seed=st.integers(0, 99))
def test_folded_is_expand_and_combine_gradients_included(ranks, tasks, seed):
    torch.manual_seed(seed)
    bank = LowRankExperts(5, ranks).double()
    torch.nn.init.normal_(bank.bias_out)
    x = torch.randn(1, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    gates = torch.rand(tasks, 2, len(ranks), dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(tasks, 2, 3, 5, dtype=torch.float64)
    results = []
    for way in (bank.folded, lambda read, gates: bank.combine(bank.expand(read), gates)):
        got = way(Neighbours(x), gates)
        results.append([got, *torch.autograd.grad((got * wanted).sum(), [x, gates, *bank.parameters()])])
    for folded, plain in zip(*results, strict=True):
        torch.testing.assert_close(folded, plain)


@pytest.mark.parametrize(("activation", "autocast"), [("relu", False), ("none", False), ("gelu", True)])
def test_folded_takes_the_plain_way_where_it_must(monkeypatch, activation, autocast):
    bank = LowRankExperts(5, [2, 3], activation)
    read, gates = Neighbours(torch.randn(1, 2, 3, 5)), torch.rand(2, 2, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = bank.combine(bank.expand(read), gates)
        called = []
        combine = bank.combine
        monkeypatch.setattr(bank, "combine", lambda *a: called.append(1) or combine(*a))
        torch.testing.assert_close(bank.folded(read, gates), expected)
    assert called
