"""PLE: progressive layered extraction, stacked CGC layers (Tang et al., RecSys 2020), as a trunk beside UniTSE.

Per layer N shared experts and one of its own per task; each task's gate is dense, over the shared experts *and* its
own; in all layers but the last a further gate, over all experts, makes what the next layer's shared experts read. The
experts are those of UniTSE: ranks of d are the full-rank experts of the original, lower ones make it low-rank. Norm,
residual and dropout are UniTSE's too, so that only gates and streams differ.

Shape suffixes: s streams (the tasks', then the shared one), k tasks, b batch, t time, d width, n experts.
"""

import torch
from torch import Tensor, nn

from mmolre.model.config import ModelConfig
from mmolre.model.dropout import Dropout
from mmolre.model.experts import LowRankExperts
from mmolre.model.neighbours import Neighbours, parts
from mmolre.model.router import Gates, TopKRouter, balance_loss
from mmolre.model.unitse import BlockOutput, masked_mean


class PLELayer(nn.Module):
    """One CGC layer; ``last``: no stream for further shared experts."""

    def __init__(self, config: ModelConfig, *, last: bool) -> None:
        super().__init__()
        width, shared, tasks = config.width, len(config.shared_ranks), len(config.tasks)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.shared = LowRankExperts(width, config.shared_ranks, config.activation)
        self.own = nn.ModuleList(
            LowRankExperts(width, (config.specific_rank,), config.activation) for _ in config.tasks
        )
        self.gates = nn.ModuleList(TopKRouter(width, shared + 1, shared + 1) for _ in config.tasks)
        self.shared_gate = None if last else TopKRouter(width, shared + tasks, shared + tasks)

    def forward(self, x_sbtd: Tensor, mask_bt: Tensor) -> BlockOutput:
        """(1, B, T, d) in the first layer, else (K + 1, B, T, d) -> (K + 1, B, T, d), or (K, ...) from the last.

        The gates given back are the tasks', (B, N + 1) each, the task's own expert last.
        """
        streams, experts = len(x_sbtd), len(self.shared.ranks)
        normed = self.norm(x_sbtd) * mask_bt[..., None]
        pooled = masked_mean(normed, mask_bt)
        of_task = [min(k, streams - 1) for k in range(len(self.own))]
        read = Neighbours(normed)
        shared = self.shared.expand(read[streams - 1])
        own = [expert.expand(read[s]) for s, expert in zip(of_task, self.own, strict=True)]  # type: ignore[operator]
        gates: list[Gates] = [gate(pooled[s]) for s, gate in zip(of_task, self.gates, strict=True)]
        outputs = []
        streams_in = parts(x_sbtd, 0)
        for k, (weights, _) in enumerate(gates):
            total = self.shared.combine(shared, weights[:, :experts])
            total = total + self.own[k].combine(own[k], weights[:, experts:])  # type: ignore[operator]
            outputs.append(streams_in[of_task[k]] + self.dropout(total))
        if self.shared_gate is not None:
            weights = self.shared_gate(pooled[-1]).weights
            total = self.shared.combine(shared, weights[:, :experts])
            for k, expert in enumerate(self.own):
                total = total + expert.combine(own[k], weights[:, experts + k, None])  # type: ignore[operator]
            outputs.append(streams_in[-1] + self.dropout(total))
        balance = torch.stack([balance_loss(g.probabilities) for g in gates]).mean()
        return BlockOutput(torch.stack(outputs), gates, balance)


class PLE(nn.Module):
    """The layers of one modality; the same interface as :class:`mmolre.model.unitse.UniTSE`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tasks = config.tasks
        self.blocks = nn.ModuleList(PLELayer(config, last=b == config.blocks - 1) for b in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x_btd: Tensor, mask_bt: Tensor) -> tuple[Tensor, list[list[Gates]], Tensor]:
        """(B, T, d), (B, T) -> features (K, B, T, d), the gates per layer and task, the mean balance term."""
        features, gates, balances = x_btd.unsqueeze(0), [], [x_btd.new_zeros(())]
        for block in self.blocks:
            features, block_gates, balance = block(features, mask_bt)
            gates.append(block_gates)
            balances.append(balance / len(self.blocks))
        return self.norm(features).expand(len(self.tasks), -1, -1, -1), gates, torch.stack(balances).sum()
