import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmolre.model import neighbours
from mmolre.model.neighbours import KERNEL, TILES_FROM, Neighbours

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}

cases = st.fixed_dictionaries(
    {
        "lead": st.lists(st.integers(1, 3), max_size=2),
        "time": st.integers(1, 9),
        "width": st.integers(1, 7),
        "columns": st.integers(1, 7),
        "dtype": st.sampled_from(list(TOLERANCE)),
        "seed": st.integers(0, 1000),
    }
)


def leaves(case) -> list[Tensor]:
    torch.manual_seed(case["seed"])
    width, columns = case["width"], case["columns"]
    shapes = ((*case["lead"], case["time"], width), (columns, KERNEL * width), (columns,))
    return [torch.randn(shape, dtype=case["dtype"], requires_grad=True) for shape in shapes]


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """By torch's own convolution."""
    kernel = weight.view(len(weight), KERNEL, -1).transpose(1, 2)
    flat = x.reshape(-1, *x.shape[-2:]).transpose(1, 2)
    return F.conv1d(flat, kernel, bias, padding=1).transpose(1, 2).reshape(*x.shape[:-1], -1)


@settings(max_examples=80)
@given(cases)
def test_both_ways_are_the_convolution_gradients_included(case):
    x, weight, bias = leaves(case)
    expected = plain(x, weight, bias)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * direction).sum(), (x, weight, bias))
    for way in (
        lambda read: F.linear(read.windows, weight, bias),
        lambda read: read.convolve_tiles(weight, bias),
    ):
        found = way(Neighbours(x))
        assert found.shape == expected.shape
        got = torch.autograd.grad((found * direction).sum(), (x, weight, bias))
        for a, b in zip((found, *got), (expected, *gradients), strict=True):
            assert (a - b).abs().max() <= TOLERANCE[case["dtype"]] * b.abs().max().clamp(min=1)


def test_tiles_are_as_exact_as_windows_at_a_size_in_use():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(4, 41, 96), torch.randn(200, 288) / 17, torch.randn(200)
    exact = plain(x.double(), weight.double(), bias.double())
    tiles, windows = (
        (found.double() - exact).abs().max().item()
        for found in (Neighbours(x).convolve_tiles(weight, bias), F.linear(Neighbours(x).windows, weight, bias))
    )
    assert tiles <= 3 * windows + 1e-6


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_what_needs_no_gradient_gets_none(needed):
    case = {"lead": [2], "time": 5, "width": 3, "columns": 4, "dtype": torch.float64, "seed": 0}
    values = leaves(case)
    for value, need in zip(values, needed, strict=True):
        value.requires_grad_(need)
    ways = (plain(*values), Neighbours(values[0]).convolve_tiles(*values[1:]))
    learned = [value for value, need in zip(values, needed, strict=True) if need]
    expected, got = (torch.autograd.grad(way.square().sum(), learned) for way in ways)
    torch.testing.assert_close(got, expected)


def test_one_of_several_inputs_shares_what_is_made_for_all(monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 4)
    whole = Neighbours(x)
    made: list[str] = []
    for name in ("_Tiles", "_Windows"):
        function = getattr(neighbours, name)
        kept = function.apply
        monkeypatch.setattr(function, "apply", lambda *a, kept=kept, name=name: made.append(name) or kept(*a))
    for i in (0, 1, 1):
        assert torch.equal(whole[i].windows, Neighbours(x).windows[i])
        weight, bias = torch.randn(6, 12), torch.randn(6)
        torch.testing.assert_close(whole[i].convolve_tiles(weight, bias), plain(x[i], weight, bias))
    assert made.count("_Tiles") == 1
    assert made.count("_Windows") == 1 + 3  # three of them are the test's own


def test_windows_have_zeros_beyond_the_ends():
    x = torch.tensor([[[1.0], [2.0], [3.0]]])
    assert Neighbours(x).windows.tolist() == [[[0, 1, 2], [1, 2, 3], [2, 3, 0]]]
    assert Neighbours(x[:, :1]).windows.tolist() == [[[0, 1, 0]]]


@pytest.mark.parametrize(
    ("positions", "autocast", "dtype", "tiles"),
    [
        (TILES_FROM, False, torch.float32, True),
        (TILES_FROM - 1, False, torch.float32, False),
        (TILES_FROM, True, torch.float32, False),
        (TILES_FROM, False, torch.bfloat16, False),
    ],
)
def test_the_way_that_is_faster_is_taken(positions, autocast, dtype, tiles):
    x = torch.randn(1, positions, 2, dtype=dtype)
    read = Neighbours(x)
    weight, bias = torch.randn(3, 6, dtype=dtype), torch.randn(3, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = read.convolve(weight, bias)
    assert ("tiles" in vars(read)) == tiles
    assert ("windows" in vars(read)) != tiles
    tolerance = 1e-4 if dtype == torch.float32 and not autocast else 0.1
    expected = plain(x.float(), weight.float(), bias.float())
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)
