import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmolre.baselines.ple import PLE
from mmolre.model.config import ModelConfig
from tiny_runs import tiny_config, tiny_model


def randomized(config: ModelConfig) -> PLE:
    torch.manual_seed(0)
    trunk = PLE(config)
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return trunk.double().eval()


def by_hand(trunk: PLE, x: Tensor) -> list[Tensor]:
    """Layer by layer, stream by stream, expert by expert, of one unpadded utterance (1, T, d)."""
    streams, tasks = [x] * (len(trunk.tasks) + 1), range(len(trunk.tasks))
    for layer in trunk.blocks:
        h = [F.layer_norm(s, s.shape[-1:], layer.norm.weight, layer.norm.bias) for s in streams]
        one = torch.ones(1, 1, dtype=x.dtype)
        n = len(layer.shared.ranks)
        shared = [layer.shared.looped(h[-1], F.one_hot(torch.tensor([e]), n).to(x)) for e in range(n)]
        own = [layer.own[k].looped(h[k], one) for k in tasks]

        def gated(gate, source: Tensor, experts: list[Tensor]) -> Tensor:
            weights = gate.project(source.mean(1)).softmax(-1)[0]
            return sum(w * e for w, e in zip(weights, experts, strict=True))  # type: ignore[return-value]

        new = [streams[k] + gated(layer.gates[k], h[k], [*shared, own[k]]) for k in tasks]
        if layer.shared_gate is not None:
            new.append(streams[-1] + gated(layer.shared_gate, h[-1], [*shared, *own]))
        streams = new
    return [F.layer_norm(s, s.shape[-1:], trunk.norm.weight, trunk.norm.bias) for s in streams]


@pytest.mark.parametrize("changes", [{}, {"blocks": 1}, {"blocks": 3}, {"tasks": ("emotion",)}])
def test_is_what_it_says(changes):
    config = tiny_config(trunk="ple", **changes)
    trunk = randomized(config)
    x = torch.randn(1, 5, config.width, dtype=torch.double)
    features, gates, _ = trunk(x, torch.ones(1, 5, dtype=torch.bool))
    assert len(gates) == config.blocks
    assert all(
        g.weights.shape == (1, 4) and g.weights.sum().item() == pytest.approx(1) for layer in gates for g in layer
    )
    torch.testing.assert_close(features, torch.stack(by_hand(trunk, x)))


def test_padding_is_not_seen_and_every_parameter_learns():
    config = tiny_config(trunk="ple")
    trunk = randomized(config)
    x = torch.randn(2, 6, config.width, dtype=torch.double)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    features, _, _ = trunk(x, mask)
    alone, _, _ = trunk(x[1:, :4], mask[1:, :4])
    torch.testing.assert_close(features[:, 1:, :4], alone)
    (features * torch.randn_like(features)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.parameters())


def test_as_a_models_trunk():
    model = tiny_model(trunk="ple")
    x = {"text": torch.randn(3, 4, 1, 6), "audio": torch.randn(3, 5, 2, 5)}
    masks = {m: torch.ones(y.shape[:2], dtype=torch.bool) for m, y in x.items()}
    output = model(x, masks)
    assert output.tasks["emotion"].shape == (3, 6)
    assert {(r.modality, r.block, r.task) for r in output.routing} == {
        (m, b, t) for m in x for b in (0, 1) for t in ("sentiment", "emotion")
    }


@pytest.mark.parametrize("changes", [{"shared_ranks": ()}, {"specific_rank": 0}, {"routing": "token"}])
def test_needs_both_kinds_of_experts(changes):
    with pytest.raises(ValueError, match="trunk ple needs"):
        tiny_config(trunk="ple", **changes)
