import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmolre.model.experts import LowRankExperts
from mmolre.model.neighbours import KERNEL, Neighbours
from mmolre.model.router import TopKRouter

FUNCTIONS = {"gelu": nn.GELU(), "relu": nn.ReLU(), "none": nn.Identity()}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def randomized(width: int, ranks: list[int], activation: str, dtype: torch.dtype) -> LowRankExperts:
    bank = LowRankExperts(width, ranks, activation).to(dtype)
    nn.init.normal_(bank.bias_in)
    nn.init.normal_(bank.bias_out)
    return bank


def modules(bank: LowRankExperts, activation: str) -> list[nn.Module]:
    """The same experts as plain pairs of nn.Conv1d, weights copied."""
    experts, start = [], 0
    for n, rank in enumerate(bank.ranks):
        first = nn.Conv1d(bank.width, rank, KERNEL, padding=1, dtype=bank.weight_in.dtype)
        second = nn.Conv1d(rank, bank.width, 1, dtype=bank.weight_in.dtype)
        rows = slice(start, start + rank)
        kernel = bank.weight_in[rows].detach()
        with torch.no_grad():
            for offset in range(KERNEL):  # the column block of an offset is the kernel's slice at that offset
                first.weight[:, :, offset].copy_(kernel[:, offset * bank.width : (offset + 1) * bank.width])
            first.bias.copy_(bank.bias_in[rows])
            second.weight[:, :, 0].copy_(bank.weight_out[rows].t())
            second.bias.copy_(bank.bias_out[n])
        experts.append(nn.Sequential(first, FUNCTIONS[activation], second))
        start += rank
    return experts


def error(a: Tensor, b: Tensor, scale: float = 0.0) -> float:
    """Largest difference, relative to the largest value or to ``scale``, whichever is larger."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=max(scale, 1e-30))).item()


def results(bank: LowRankExperts, x: Tensor, gates: Tensor) -> list[dict[str, Tensor]]:
    """Output and all gradients, folded and looped."""
    found = []
    for way in (bank.forward, bank.looped):
        leaves = {"x": x.clone().requires_grad_(), "gates": gates.clone().requires_grad_()}
        y = way(leaves["x"], leaves["gates"])
        # A fixed random direction, not the plain sum, so that no gradient cancels out.
        direction = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
        leaves |= dict(bank.named_parameters())
        gradients = torch.autograd.grad((y * direction).sum(), list(leaves.values()))
        found.append({"y": y.detach(), **dict(zip(leaves, gradients, strict=True))})
    return found


cases = st.fixed_dictionaries(
    {
        "ranks": st.lists(st.integers(1, 7), min_size=1, max_size=5),
        "batch": st.integers(1, 4),
        "time": st.integers(1, 6),
        "per_token": st.booleans(),
        "activation": st.sampled_from(sorted(FUNCTIONS)),
        "dtype": st.sampled_from(sorted(TOLERANCE, key=str)),
        "zeros": st.integers(0, 5),
        "seed": st.integers(0, 2**31),
    }
)


def inputs(case: dict) -> tuple[LowRankExperts, Tensor, Tensor]:
    torch.manual_seed(case["seed"])
    n, width = len(case["ranks"]), 5
    bank = randomized(width, case["ranks"], case["activation"], case["dtype"])
    x = torch.randn(case["batch"], case["time"], width, dtype=case["dtype"])
    shape = (case["batch"], case["time"], n) if case["per_token"] else (case["batch"], n)
    gates = torch.rand(shape, dtype=case["dtype"])
    gates[..., : min(case["zeros"], n)] = 0
    return bank, x, gates


@settings(max_examples=60)
@given(cases)
def test_folded_is_looped_gradients_included(case):
    folded, looped = results(*inputs(case))
    for name, value in folded.items():
        # Values are of the order of 1; a lone gradient may come out near 0 by cancellation.
        assert error(value, looped[name], scale=1.0) <= TOLERANCE[case["dtype"]], name


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("per_token", [False, True])
def test_folded_is_looped_at_a_size_in_use(dtype, per_token):
    torch.manual_seed(0)
    bank = randomized(96, [16, 128, 32, 48], "gelu", dtype)
    gates = torch.rand((4, 24, 4) if per_token else (4, 4), dtype=dtype)
    folded, looped = results(bank, torch.randn(4, 24, 96, dtype=dtype), gates)
    assert set(folded) == {"y", "x", "gates", "weight_in", "bias_in", "weight_out", "bias_out"}
    for name, value in folded.items():
        assert error(value, looped[name]) <= TOLERANCE[dtype], name


@settings(max_examples=40)
@given(cases)
def test_folded_is_a_sum_of_plain_convolutions(case):
    bank, x, gates = inputs(case)
    if not case["per_token"]:
        gates_btn = gates[:, None, :].expand(-1, x.shape[1], -1)
    else:
        gates_btn = gates
    expected = sum(
        gates_btn[..., n, None] * expert(x.transpose(1, 2)).transpose(1, 2)
        for n, expert in enumerate(modules(bank, case["activation"]))
    )
    assert isinstance(expected, Tensor)
    assert error(bank(x, gates), expected, scale=1.0) <= TOLERANCE[case["dtype"]]


@settings(max_examples=30)
@given(cases.map(lambda case: case | {"dtype": torch.float64}))
def test_an_expert_with_gate_zero_has_no_part(case):
    bank, x, gates = inputs(case)
    gates[..., 0] = 0
    before = bank(x, gates)
    rows = slice(0, bank.ranks[0])
    with torch.no_grad():
        bank.weight_in[rows] += 1
        bank.bias_in[rows] += 1
        bank.weight_out[rows] += 1
        bank.bias_out[0] += 1
    assert torch.equal(bank(x, gates), before)
    # and gets no gradient
    gradients = torch.autograd.grad(bank(x, gates).sum(), list(bank.parameters()))
    assert all(g[rows].abs().max() == 0 for g in gradients[:3])
    assert gradients[3][0].abs().max() == 0


@pytest.mark.parametrize(
    ("rank", "count"), [(1, 3073 + 768), (16, 3073 * 16 + 768), (64, 3073 * 64 + 768), (768, 2_360_832)]
)
def test_parameters_of_one_expert_at_the_papers_width(rank, count):
    assert sum(p.numel() for p in LowRankExperts(768, [rank]).parameters()) == count


def test_parameters_of_a_bank_are_those_of_its_experts():
    ranks = (3, 1, 8)
    bank = sum(p.numel() for p in LowRankExperts(10, ranks).parameters())
    assert bank == sum(sum(p.numel() for p in LowRankExperts(10, [r]).parameters()) for r in ranks)


def test_experts_start_as_convolutions_of_their_own_rank_do():
    torch.manual_seed(0)
    bank = LowRankExperts(64, (4, 64))
    small, large = bank.weight_out[:4], bank.weight_out[4:]
    assert 0.45 < small.abs().max().item() <= 0.5  # 1 / sqrt(4), whatever the bank's rank in all
    assert 0.12 < large.abs().max().item() <= 0.125
    assert 0.07 < bank.weight_in.abs().max().item() <= 192**-0.5


@settings(max_examples=60)
@given(
    ranks=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    data=st.data(),
    sources=st.sampled_from([1, 2]),
    renormalize=st.booleans(),
)
def test_gathered_is_masked_gradients_included(ranks, data, sources, renormalize):
    kept = data.draw(st.integers(1, len(ranks)))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    bank = randomized(5, ranks, "gelu", torch.float32)
    router = TopKRouter(5, len(ranks), kept, renormalize=renormalize)
    results = []
    x = torch.randn(sources, 3, 4, 5, requires_grad=True)
    wanted = torch.randn(2, 3, 4, 5)
    parameters = [x, *bank.parameters(), *router.parameters()]
    for gather in (False, True):
        read = Neighbours(x)
        gates = router(torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))).weights
        got = bank.gathered(read, gates, kept) if gather else bank.combine(bank.expand(read), gates)
        results.append([got, *torch.autograd.grad((got * wanted).sum(), parameters)])
    for masked, gathered in zip(*results, strict=True):
        torch.testing.assert_close(gathered, masked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("experts", "kept", "steps", "gathers"),
    [(64, 2, 32, True), (16, 2, 32, True), (8, 4, 32, False), (16, 2, 2, False), (8, 8, 100, False), (4, 1, 0, False)],
)
def test_the_bank_gathers_where_few_of_many_are_kept(monkeypatch, experts, kept, steps, gathers):
    bank = randomized(4, [2] * experts, "gelu", torch.float32)
    read = Neighbours(torch.randn(1, 3, steps, 4))
    gates = TopKRouter(4, experts, kept)(torch.randn(2, 3, 4)).weights
    expected = bank.combine(bank.expand(read), gates)
    called = []
    gathered = bank.gathered
    monkeypatch.setattr(bank, "gathered", lambda *a: called.append(1) or gathered(*a))
    torch.testing.assert_close(bank.mix(read, gates, kept), expected, rtol=1e-5, atol=1e-5)
    assert bool(called) == gathers
