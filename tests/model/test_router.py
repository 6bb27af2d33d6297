import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmolre.model.router import TopKRouter, UniformRouter, balance_loss

sizes = st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def make(n: int, k: int, *, renormalize: bool = False) -> TopKRouter:
    torch.manual_seed(n * 10 + k)
    return TopKRouter(4, n, k, renormalize=renormalize)


@given(sizes, st.booleans())
def test_exactly_k_gates_the_largest(size, per_token):
    n, k = size
    router = make(n, k)
    x = torch.randn(3, 5, 4) if per_token else torch.randn(3, 4)
    gates = router(x)
    assert gates.weights.shape == gates.probabilities.shape == (*x.shape[:-1], n)
    assert ((gates.weights > 0).sum(-1) == k).all()
    kept = gates.weights > 0
    assert torch.equal(gates.weights[kept], gates.probabilities[kept])
    smallest_kept = gates.probabilities.masked_fill(~kept, 2).amin(-1)
    largest_left = gates.probabilities.masked_fill(kept, -1).amax(-1)
    assert (smallest_kept >= largest_left).all()


def test_all_kept_is_softmax():
    router, x = make(5, 5), torch.randn(6, 4)
    assert torch.equal(router(x).weights, router.project(x).softmax(-1))


@given(sizes)
def test_renormalized_gates_sum_to_one_in_the_same_proportions(size):
    x = torch.randn(6, 4)
    plain, renormalized = make(*size)(x), make(*size, renormalize=True)(x)
    torch.testing.assert_close(renormalized.weights.sum(-1), torch.ones(6))
    torch.testing.assert_close(renormalized.weights * plain.weights.sum(-1, keepdim=True), plain.weights)
    assert torch.equal(renormalized.probabilities, plain.probabilities)


def test_one_kept_gate_teaches_the_router_unless_it_is_renormalized():
    x = torch.randn(6, 4)
    for renormalize, learns in ((False, True), (True, False)):
        router = make(4, 1, renormalize=renormalize)
        (router(x).weights * torch.randn(4)).sum().backward()
        assert router.project.weight.grad is not None
        assert (router.project.weight.grad.abs().max() > 1e-6) == learns


def test_gradient_reaches_experts_that_were_not_chosen():
    """Through the softmax: what is not kept today may be tomorrow."""
    router = make(4, 1)
    router(torch.randn(1, 4)).weights.sum().backward()
    assert (router.project.bias.grad != 0).all()  # type: ignore[union-attr]


def test_rows_are_routed_by_themselves():
    router, x = make(6, 2), torch.randn(5, 4)
    together = router(x).weights
    for i in range(5):
        torch.testing.assert_close(router(x[i : i + 1]).weights[0], together[i])


def test_uniform():
    router = UniformRouter(4)
    gates = router(torch.randn(2, 3, 7))
    assert gates.weights.tolist() == [[[0.25] * 4] * 3] * 2
    assert not list(router.parameters())
    assert balance_loss(gates.probabilities).item() == 0


def test_balance_by_hand():
    # mean use (.6, .3, .1): mean 1/3, variance ((.8/3)^2 + (.1/3)^2 + (.7/3)^2) / 3
    rows = torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.5, 0.1]])
    variance = ((0.8 / 3) ** 2 + (0.1 / 3) ** 2 + (0.7 / 3) ** 2) / 3
    assert balance_loss(rows).item() == pytest.approx(variance * 9, rel=1e-5)
    assert balance_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item() == 0  # each certain, together balanced
    assert balance_loss(torch.tensor([[1.0, 0.0]])).item() == pytest.approx(1)
    assert balance_loss(torch.ones(3, 1)).item() == 0


def test_balance_does_not_count_padding():
    torch.manual_seed(0)
    rows = torch.rand(2, 3, 4).softmax(-1)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    expected = balance_loss(torch.stack([rows[0, 0], rows[0, 1], rows[1, 0]]))
    spoiled = rows.masked_fill(~valid[..., None], float("nan"))
    assert torch.equal(balance_loss(spoiled, valid), expected)
    assert balance_loss(rows) != expected


def test_autocast_rounds_no_choice():
    """Where a model is trained by products in bfloat16, it keeps the experts that it keeps in use."""
    torch.manual_seed(0)
    router = TopKRouter(32, 8, 3)
    x = torch.randn(200, 32)
    expected = router(x)
    with torch.autocast("cpu", torch.bfloat16):
        gates = router(x)
    for got, wanted in zip(gates, expected, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)
