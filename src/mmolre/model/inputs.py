"""From a modality's features to the trunk's width (ours; the paper fine-tunes encoders that already have it)."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from mmolre.model.config import ModalityConfig
from mmolre.model.dropout import Dropout

CLIP = 10.0
"""Standardised values are brought into [-CLIP, CLIP]: ready-made features hold absurd outliers."""


class InputProjection(nn.Module):
    """A modality's layers, mixed with learned softmax weights, normalised, and projected to the trunk's width."""

    def __init__(self, modality: ModalityConfig, width: int, dropout: float) -> None:
        super().__init__()
        self.concat = modality.mix == "concat"
        if not self.concat:
            self.layer_mix = nn.Parameter(torch.zeros(modality.layers))
        shape = (modality.layers, modality.width)
        self.norm = Standardize(*shape) if modality.standardize else nn.LayerNorm(modality.width)
        self.project = nn.Linear(modality.width * (modality.layers if self.concat else 1), width)
        self.before = Dropout(modality.dropout)
        self.after = Dropout(dropout)

    def forward(self, x_btlw: Tensor) -> Tensor:
        """(B, T, L, width of the features) -> (B, T, d)."""
        if isinstance(self.norm, Standardize) or self.concat:
            # Before the mixing: each layer has scales of its own, which would decide the mixture; and a NaN in it would
            # be one in the gradient of the weights, whatever follows.
            normal = self.norm(x_btlw)
            mixed = normal.flatten(2) if self.concat else self._mixed(normal)
        else:
            mixed = self.norm(self._mixed(x_btlw))
        return self.after(self.project(self.before(mixed)))

    def _mixed(self, x_btlw: Tensor) -> Tensor:
        return torch.einsum("l,btlw->btw", self.layer_mix.softmax(0), x_btlw)


class Standardize(nn.Module):
    """(x - mean) / deviation per layer and column, from the training split; kept with the weights.

    A value that is not finite becomes 0, the mean: the features of some corpora hold NaN and infinity.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(layers, width))
        self.register_buffer("deviation", torch.ones(layers, width))

    def forward(self, x: Tensor) -> Tensor:
        standard = ((x - self.mean) / self.deviation).clamp(-CLIP, CLIP)
        return torch.where(x.isfinite(), standard, 0.0)

    def fit(self, arrays: Iterable[np.ndarray]) -> None:
        """Take mean and deviation of all finite values of each column; a constant column keeps deviation 1.

        Args:
            arrays: each (..., L, width), e.g. one per training utterance.
        """
        shape, width = self.mean.shape, self.mean.numel()
        count, total, squares = np.zeros(width), np.zeros(width), np.zeros(width)
        shift: np.ndarray | None = None
        for array in arrays:
            rows = np.asarray(array, np.float64).reshape(-1, width)
            finite = np.isfinite(rows)
            if shift is None:
                # Sums of squares around a typical value: around 0 they lose all digits where values are large.
                shift = np.where(finite.any(0), np.where(finite, rows, 0).sum(0) / finite.sum(0).clip(1), 0.0)
            centred = np.where(finite, rows - shift, 0.0)
            count += finite.sum(0)
            total += centred.sum(0)
            squares += (centred**2).sum(0)
        if shift is None:
            return
        offset = total / count.clip(1)
        variance = squares / count.clip(1) - offset**2
        scale = np.abs(shift + offset).clip(1.0)
        deviation = np.where(variance > (1e-6 * scale) ** 2, np.sqrt(variance.clip(0)), 1.0)
        self.mean.copy_(torch.from_numpy(shift + offset).view(shape))
        self.deviation.copy_(torch.from_numpy(deviation).view(shape))
