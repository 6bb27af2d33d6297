"""UniTSE: unimodal task-specific feature extraction (paper). Stacked blocks of shared and task-specific experts.

The layout is progressive layered extraction (PLE) with low-rank convolutional experts: the first block reads the
modality's features, the same for every task; each later block reads each task's own features.

Shape suffixes: k tasks, b batch, t time, d width, n experts.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmolre.model.config import ModelConfig
from mmolre.model.dropout import Dropout
from mmolre.model.experts import LowRankExperts
from mmolre.model.neighbours import Neighbours
from mmolre.model.router import Gates, TopKRouter, UniformRouter, balance_loss


class Routing(NamedTuple):
    """One router's decision for a batch, with the place it was taken at.

    ``gates`` and ``probabilities`` are (B', N), or (B', T, N) with routing per token; ``rows`` (B',) says which
    utterances of the batch they belong to (those that have the modality), ``mask`` (B', T) which steps are real.
    """

    modality: str
    block: int
    task: str
    gates: Tensor
    probabilities: Tensor
    rows: Tensor
    mask: Tensor


class BlockOutput(NamedTuple):
    """Features per task (K, B, T, d), each task's gates (none without shared experts), and the balance term.

    K is 1 where no task differs from another.
    """

    features: Tensor
    gates: list[Gates]
    balance: Tensor


class UniTSEBlock(nn.Module):
    """x + experts(norm(x)) per task (ours: pre-norm residual around the paper's sum of gated shared + own expert)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, experts = config.width, len(config.shared_ranks)
        self.per_token = config.routing == "token"
        self.kept = config.top_k if config.routing == "utterance" else experts
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.shared = LowRankExperts(width, config.shared_ranks, config.activation) if experts else None
        # Where nothing differs between the tasks, they stay one: hard parameter sharing, computed once.
        apart = config.specific_rank > 0 or config.routing != "uniform"
        self.routers = nn.ModuleList(_router(config) for _ in config.tasks[: None if apart else 1] if experts)
        self.specific = nn.ModuleList(
            LowRankExperts(width, (config.specific_rank,), config.activation)
            for _ in config.tasks
            if config.specific_rank
        )

    def forward(self, x_sbtd: Tensor, mask_bt: Tensor) -> BlockOutput:
        """One block.

        Args:
            x_sbtd: (S, B, T, d); S = 1 where the tasks read the same features, else one slice per task.
            mask_bt: (B, T) bool, True at real positions; every row has at least one.
        """
        sources = len(x_sbtd)
        # Zeros at padding: what the convolution would see beyond the end of a sequence that is not padded.
        normed = self.norm(x_sbtd) * mask_bt[..., None]
        neighbours = Neighbours(normed)
        balance = x_sbtd.new_zeros(())
        total = x_sbtd.new_zeros(())
        gates: list[Gates] = []
        if self.shared is not None:
            routed = normed if self.per_token else masked_mean(normed, mask_bt)
            gates = [router(routed[min(k, sources - 1)]) for k, router in enumerate(self.routers)]
            valid = mask_bt if self.per_token else None
            balance = torch.stack([balance_loss(g.probabilities, valid) for g in gates]).mean()
            weights = torch.stack([g.weights for g in gates])
            if self.per_token:
                total = self.shared.folded(neighbours, weights)
            else:
                total = self.shared.mix(neighbours, weights, self.kept)
        if len(self.specific):
            always = x_sbtd.new_ones(1, 1, 1)
            own = [
                expert.folded(neighbours[min(k, sources - 1)], always)  # type: ignore[operator]
                for k, expert in enumerate(self.specific)
            ]
            total = total + torch.stack(own)
        return BlockOutput(x_sbtd + self.dropout(total), gates, balance)


class UniTSE(nn.Module):
    """The blocks of one modality: (B, T, d) -> one sequence per task, (K, B, T, d)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tasks = config.tasks
        self.blocks = nn.ModuleList(UniTSEBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x_btd: Tensor, mask_bt: Tensor) -> tuple[Tensor, list[list[Gates]], Tensor]:
        """Returns the features (K, B, T, d), the gates per block and task, and the mean balance term."""
        features = x_btd.unsqueeze(0)
        gates: list[list[Gates]] = []
        balance = x_btd.new_zeros(())
        for block in self.blocks:
            features, block_gates, block_balance = block(features, mask_bt)
            gates.append(block_gates)
            balance = balance + block_balance / len(self.blocks)
        if features.shape[0] == 1:  # no blocks, or hard sharing: every task reads the same
            features = features.expand(len(self.tasks), -1, -1, -1)
        return self.norm(features), gates, balance


def _router(config: ModelConfig) -> nn.Module:
    experts = len(config.shared_ranks)
    if config.routing == "uniform":
        return UniformRouter(experts)
    return TopKRouter(config.width, experts, config.top_k, renormalize=config.renormalize)


def masked_mean(x_sbtd: Tensor, mask_bt: Tensor) -> Tensor:
    """Mean over the real positions; padding is expected to be 0 already. (S, B, T, d) -> (S, B, d)."""
    return x_sbtd.sum(dim=2) / mask_bt.sum(dim=1).clamp(min=1)[:, None]
