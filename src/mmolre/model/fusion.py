"""Task-adaptive multimodal fusion (ours: the paper names the part, not its inside).

Per task: each modality's sequence attends to the other modalities' (cross-modal attention), a learned query pools each
sequence into one vector, and a learned weight per modality, which can be read out, adds the vectors up.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmolre.model.config import ModelConfig


class Sequence(NamedTuple):
    """One modality for one task: values (B, T, d), mask (B, T), and which utterances have it, (B,) bool.

    An absent modality is one placeholder position, so that every row of the mask holds at least one True.
    """

    values: Tensor
    mask: Tensor
    present: Tensor


class Fused(NamedTuple):
    """The fused vector (B, d) and the modalities' weights (B, M), 0 for absent ones, summing to 1."""

    vector: Tensor
    weights: Tensor


class CrossAttention(nn.Module):
    """x + attention(from x to context); multi-head, with a narrow inner width."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, inner)
        self.key_value = nn.Linear(width, 2 * inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """x (B, T, d), context (B, S, d), context_mask (B, S) bool -> (B, T, d)."""
        key, value = self.key_value(context).chunk(2, dim=-1)
        if context.shape[1] == 1:  # one key takes all the attention: exact, and no T x d query is computed for it
            return x + self.out(value)
        query, key, value = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.query(x), key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=context_mask[:, None, None, :])
        return x + self.out(attended.transpose(1, 2).flatten(2))


class QueryPool(nn.Module):
    """Attention pooling with a learned query per head: (B, T, d) -> (B, d)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, heads)
        self.value = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        attention = self.score(x).masked_fill(~mask[..., None], float("-inf")).softmax(dim=1)  # (B, T, heads)
        values = self.value(x).unflatten(-1, (self.heads, -1))  # (B, T, heads, d / heads)
        return torch.einsum("bth,bthc->bhc", attention, values).flatten(1)


class TaskFusion(nn.Module):
    """The fusion of one task (or of all, where the ablation shares it)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        names, width = tuple(config.modalities), config.width
        self.cross = nn.ModuleDict(
            {m: CrossAttention(width, config.attention_width, config.attention_heads) for m in names if len(names) > 1}
        )
        self.pool = nn.ModuleDict({m: QueryPool(width, config.attention_heads) for m in names})
        self.weigh = nn.ModuleDict({m: nn.Linear(width, 1) for m in names})
        self.norm = nn.LayerNorm(width)

    def forward(self, sequences: dict[str, Sequence]) -> Fused:
        pooled, scores = [], []
        for name, own in sequences.items():
            others = [other for m, other in sequences.items() if m != name]
            values = own.values
            if others:
                context = torch.cat([other.values for other in others], dim=1)
                values = self.cross[name](values, context, torch.cat([other.mask for other in others], dim=1))
            vector = self.pool[name](values, own.mask)
            pooled.append(vector)
            scores.append(self.weigh[name](vector).masked_fill(~own.present[:, None], float("-inf")))
        weights = torch.cat(scores, dim=1).softmax(dim=1)
        fused = torch.einsum("bm,bmd->bd", weights, torch.stack(pooled, dim=1))
        return Fused(self.norm(fused), weights)
