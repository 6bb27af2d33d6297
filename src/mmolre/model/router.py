"""Routers: which shared experts a task uses, and how much."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Gates(NamedTuple):
    """A router's decision.

    Attributes:
        weights: (..., N) gates; 0 outside the top k.
        probabilities: (..., N) softmax over all experts, before the choice.
    """

    weights: Tensor
    probabilities: Tensor


class TopKRouter(nn.Module):
    """Linear -> softmax -> the k largest kept (MLoRE's router; the paper's top-k).

    Args:
        width: d of the input.
        experts: N.
        top_k: k, 1 <= k <= N.
        renormalize: divide the kept gates by their sum, so that they sum to 1.
    """

    def __init__(self, width: int, experts: int, top_k: int, *, renormalize: bool = False) -> None:
        super().__init__()
        self.top_k = top_k
        self.renormalize = renormalize
        self.project = nn.Linear(width, experts)

    def forward(self, x: Tensor) -> Gates:
        """(..., d) -> gates over N experts, for each row by itself; never in lower precision than the weights."""
        # Autocast would round the logits: near a tie another expert is kept than where the model is used.
        with torch.autocast(x.device.type, enabled=False):
            probabilities = self.project(x.to(self.project.weight.dtype)).softmax(dim=-1)
        weights = probabilities
        if self.top_k < probabilities.shape[-1]:
            kept, chosen = probabilities.topk(self.top_k, dim=-1)
            weights = torch.zeros_like(probabilities).scatter(-1, chosen, kept)
        if self.renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return Gates(weights, probabilities)


class UniformRouter(nn.Module):
    """No routing: every expert with weight 1 / N. The ablation of the routers."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, x: Tensor) -> Gates:
        weights = x.new_full((*x.shape[:-1], self.experts), 1 / self.experts)
        return Gates(weights, weights)


def balance_loss(probabilities: Tensor, valid: Tensor | None = None) -> Tensor:
    """(std / mean)^2 of the experts' mean routing probability; 0 when all are used alike.

    Args:
        probabilities: (..., N).
        valid: (...) bool; rows that are False (padding) do not count.
    """
    rows = probabilities.flatten(0, -2) if valid is None else probabilities[valid]
    mean_use = rows.mean(dim=0)
    return mean_use.var(unbiased=False) / mean_use.mean().square()
