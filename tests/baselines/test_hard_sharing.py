"""Hard parameter sharing is a UniTSE in which nothing differs between the tasks."""

import torch

from mmolre.model.unitse import UniTSE
from tiny_runs import tiny_config

HARD = {"shared_ranks": (8,), "specific_rank": 0, "routing": "uniform", "top_k": 1}


def test_the_tasks_read_the_same_and_it_is_computed_once():
    torch.manual_seed(0)
    config = tiny_config(**HARD)
    trunk = UniTSE(config).eval()
    x, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    features, gates, balance = trunk(x, mask)
    assert balance.item() == 0
    assert all(g.weights.eq(1).all() for block in gates for g in block)
    assert [len(block) for block in gates] == [1, 1]
    expected = x
    for block in trunk.blocks:
        expected = expected + block.shared.looped(block.norm(expected), torch.ones(2, 1))
    torch.testing.assert_close(features, torch.stack([trunk.norm(expected)] * 2))


def test_own_experts_or_routers_keep_the_tasks_apart():
    for change in ({"specific_rank": 2}, {"routing": "utterance"}):
        torch.manual_seed(0)
        trunk = UniTSE(tiny_config(**HARD | {"shared_ranks": (3, 5)} | change)).eval()
        features, _, _ = trunk(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
        assert not torch.equal(features[0], features[1])
