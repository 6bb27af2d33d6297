"""Dropout drops the share that it is told to, keeps the mean, and passes gradients where it kept values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmolre.model.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.15, 0.5, 0.9])
def test_share_and_mean(p):
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(1_000_000))
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=3e-3)
    assert out.mean().item() == pytest.approx(1.0, abs=2e-2)
    assert out.unique().numel() == 2  # dropped, or scaled by one factor


def test_each_place_of_a_draw_is_independent():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(400_000)) != 0).float().view(-1, 4)
    assert torch.corrcoef(kept.t()).sub(torch.eye(4)).abs().max() < 0.01
    assert (kept.mean(0) - 0.5).abs().max() < 0.01


def test_gradient_is_that_of_what_was_kept():
    torch.manual_seed(1)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    out = Dropout(0.4)(x)
    out.sum().backward()
    factor = torch.where(out != 0, 1 / 0.6, 0.0).double()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, factor, rtol=1e-4, atol=0)
    torch.testing.assert_close(out, x * factor, rtol=1e-4, atol=0)


@given(st.lists(st.integers(0, 5), min_size=0, max_size=3), st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_shape_and_precision(shape, dtype):
    x = torch.ones(shape, dtype=dtype)
    out = Dropout(0.3)(x)
    assert out.shape == x.shape
    assert out.dtype == dtype


def test_seed_decides():
    layer, x = Dropout(0.3), torch.ones(1000)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(layer(x), first)


def test_nothing_is_dropped_outside_training_or_by_0():
    x = torch.randn(10)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert Dropout(1.0)(x).eq(0).all()
