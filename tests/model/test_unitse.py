import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmolre.model.config import ModelConfig
from mmolre.model.experts import LowRankExperts
from mmolre.model.unitse import UniTSE, UniTSEBlock
from tiny_runs import tiny_config

VARIANTS = [
    {},
    {"routing": "token"},
    {"routing": "uniform"},
    {"renormalize": True, "top_k": 1},
    {"top_k": 3, "activation": "none"},
    {"specific_rank": 0},
    {"shared_ranks": ()},
    {"tasks": ("emotion",), "activation": "relu"},
]


def randomized(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double().eval()


def an_expert(bank: LowRankExperts, n: int, h_td: Tensor, activation: str) -> Tensor:
    """f_n of one unpadded utterance, position by position: conv of kernel 3, activation, conv of kernel 1."""
    start = sum(bank.ranks[:n])
    rows = slice(start, start + bank.ranks[n])
    before, here, after = bank.weight_in[rows].split(bank.width, dim=1)
    zero = torch.zeros_like(h_td[0])
    steps = []
    for t in range(len(h_td)):
        left = h_td[t - 1] if t else zero
        right = h_td[t + 1] if t + 1 < len(h_td) else zero
        r = before @ left + here @ h_td[t] + after @ right + bank.bias_in[rows]
        r = {"gelu": F.gelu, "relu": F.relu, "none": lambda x: x}[activation](r)
        steps.append(r @ bank.weight_out[rows] + bank.bias_out[n])
    return torch.stack(steps)


def the_block(block: UniTSEBlock, config: ModelConfig, inputs: list[Tensor]) -> list[Tensor]:
    """x^tau + sum_n g^tau_n f_n(norm(x^tau)) + f^tau(norm(x^tau)), task by task, of one unpadded utterance."""
    outputs = []
    for k, x in enumerate(inputs):
        h = F.layer_norm(x, x.shape[-1:], block.norm.weight, block.norm.bias)
        total = torch.zeros_like(x)
        n_experts = len(config.shared_ranks)
        for t in range(len(x)):
            routed = h[t] if config.routing == "token" else h.mean(0)
            if not n_experts:
                break
            if config.routing == "uniform":
                gates = torch.full((n_experts,), 1 / n_experts, dtype=x.dtype)
            else:
                gates = torch.softmax(block.routers[k].project(routed), 0)  # type: ignore[operator]
                smallest_kept = gates.sort(descending=True).values[config.top_k - 1]
                gates = torch.where(gates >= smallest_kept, gates, 0)
                if config.renormalize:
                    gates = gates / gates.sum()
            for n in range(n_experts):
                assert block.shared is not None
                total[t] += gates[n] * an_expert(block.shared, n, h, config.activation)[t]
        if config.specific_rank:
            total = total + an_expert(block.specific[k], 0, h, config.activation)  # type: ignore[arg-type]
        outputs.append(x + total)
    return outputs


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_blocks_are_the_formula(changes):
    config = tiny_config(**changes)
    stack = randomized(UniTSE(config))
    lengths = (4, 1, 3)
    alone = [torch.randn(n, config.width, dtype=torch.float64) for n in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    features, gates, _ = stack(padded, mask)
    assert features.shape == (len(config.tasks), 3, 4, config.width)
    assert [len(block) for block in gates] == [len(config.tasks) if config.shared_ranks else 0] * 2
    for i, x in enumerate(alone):
        per_task = [x] * len(config.tasks)
        for block in stack.blocks:
            per_task = the_block(block, config, per_task)  # type: ignore[arg-type]
        for k, expected in enumerate(per_task):
            expected = F.layer_norm(expected, expected.shape[-1:], stack.norm.weight, stack.norm.bias)
            torch.testing.assert_close(features[k, i, : lengths[i]], expected, rtol=1e-10, atol=1e-10)


def test_tasks_have_routers_and_experts_of_their_own():
    config = tiny_config(blocks=1)
    block = randomized(UniTSE(config)).blocks[0]
    x, mask = torch.randn(1, 2, 3, config.width, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool)
    before = block(x, mask).features
    for part in (block.specific[1], block.routers[1]):
        for parameter in part.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        after = block(x, mask).features
        assert torch.equal(after[0], before[0])
        assert not torch.equal(after[1], before[1])
        before = after
    for parameter in block.shared.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    after = block(x, mask).features
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_without_blocks_every_task_reads_the_normed_features():
    config = tiny_config(blocks=0)
    stack = UniTSE(config).double()
    x = torch.randn(2, 3, config.width, dtype=torch.float64)
    features, gates, balance = stack(x, torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(features[0], features[1])
    torch.testing.assert_close(features[0], F.layer_norm(x, x.shape[-1:]))
    assert gates == []
    assert balance.item() == 0


def test_balance_is_the_mean_over_routers_and_zero_where_there_are_none():
    from mmolre.model.router import balance_loss

    mask = torch.tensor([[True, True], [True, False]])
    x = torch.randn(2, 2, 8, dtype=torch.float64)
    for routing, valid in (("utterance", None), ("token", mask)):
        stack = randomized(UniTSE(tiny_config(routing=routing)))
        _, gates, balance = stack(x, mask)
        expected = [balance_loss(g.probabilities, valid) for g in itertools.chain(*gates)]
        assert len(expected) == 4
        torch.testing.assert_close(balance, torch.stack(expected).mean())
        assert balance > 0
    for changes in ({"routing": "uniform"}, {"shared_ranks": ()}):
        assert randomized(UniTSE(tiny_config(**changes)))(x, mask)[2].item() == 0
