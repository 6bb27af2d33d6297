"""What kernel-3 convolutions over time read: each position with its two neighbours, zeros beyond the ends.

Such a convolution is one matrix product with the positions' *windows*, 3 d wide. With *tiles* of two positions it takes
two thirds of the multiplications: Winograd's minimal filtering F(2, 3) (Lavin & Gray, CVPR 2016). Of the inputs
x0 ... x3 around two positions and the kernel's slices w0, w1, w2,

    m0 = (x0 - x2) w0                     m1 = (x1 + x2) (w0 + w1 + w2) / 2
    m2 = (x2 - x1) (w0 - w1 + w2) / 2     m3 = (x1 - x3) w2

are four products for the two outputs m0 + m1 + m2 and m1 - m2 - m3, instead of six. Exact; errors of rounding are as
small as with windows.

Shape suffixes: b batch (any leading axes), t time, p pairs of positions, d width, r columns.
"""

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL = 3
"""Width of the convolutions (paper)."""

TILES_FROM = 320
"""Tiles are faster from so many positions on: with fewer, the kernel's sums cost more than they save. On a CPU, in
float32: in bfloat16 and on a GPU products cost too little beside the sums. ``benchmarks/tiles.py`` measures."""


class Neighbours:
    """An input (..., T, d) of convolutions, in the forms in which their products read it; each is made once, on demand.

    Convolutions that read the same input share it.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @cached_property
    def windows(self) -> Tensor:
        """(..., T, 3 d), in the precision in which products read it."""
        kind = self.x.device.type
        # Autocast would round three copies instead of one.
        x = self.x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else self.x
        return windows(x)

    @cached_property
    def tiles(self) -> Tensor:
        """(4, ..., P, d), P = ceil(T / 2)."""
        return _Tiles.apply(self.x)  # type: ignore[no-any-return]

    def __getitem__(self, index: int) -> "Neighbours":
        """Those of ``x[index]``; what is made for it is made for all of ``x``."""
        return _Part(self, index)

    @cached_property
    def part_windows(self) -> tuple[Tensor, ...]:
        """:attr:`windows` of each part."""
        return parts(self.windows, 0)

    @cached_property
    def part_tiles(self) -> tuple[Tensor, ...]:
        """:attr:`tiles` of each part."""
        return parts(self.tiles, 1)

    def convolve(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The convolution, by whichever way is the faster.

        Args:
            weight: (R, 3 d), the kernel's three slices side by side.
            bias: (R,).

        Returns:
            (..., T, R).
        """
        x = self.x
        full_precision = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        if x.device.type == "cpu" and full_precision and x.numel() >= TILES_FROM * x.shape[-1]:
            return self.convolve_tiles(weight, bias)
        return F.linear(self.windows, weight, bias)

    def convolve_tiles(self, weight: Tensor, bias: Tensor) -> Tensor:
        """:meth:`convolve` by tiles."""
        tiles = self.tiles
        pairs = _TileProduct.apply(tiles.reshape(4, -1, tiles.shape[-1]), weight, bias)
        return pairs.view(*tiles.shape[1:-2], 2 * tiles.shape[-2], -1)[..., : self.x.shape[-2], :]


class _Part(Neighbours):
    """One of several inputs, whose forms are parts of the whole's."""

    def __init__(self, whole: Neighbours, index: int) -> None:
        super().__init__(whole.x[index])
        self._whole, self._index = whole, index

    @cached_property
    def windows(self) -> Tensor:
        return self._whole.part_windows[self._index]

    @cached_property
    def tiles(self) -> Tensor:
        return self._whole.part_tiles[self._index]


def parts(x: Tensor, axis: int) -> tuple[Tensor, ...]:
    """The slices along an axis, all at once.

    Each slice taken alone would, on the way back, fill as much memory as the whole takes, and add it up.
    """
    return (x.squeeze(axis),) if x.shape[axis] == 1 else x.unbind(axis)


def windows(x: Tensor) -> Tensor:
    """(..., T, d) -> (..., T, 3 d): before, own, after."""
    return _Windows.apply(x)  # type: ignore[no-any-return]


class _Windows(torch.autograd.Function):
    """:func:`windows`; what autograd makes of slices fills and copies twice as much memory on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 1, 1))
        return torch.cat((padded[..., :-2, :], x, padded[..., 2:, :]), dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        before, own, after = gradients[0].chunk(KERNEL, dim=-1)
        total = own.clone()
        total[..., :-1, :] += before[..., 1:, :]
        total[..., 1:, :] += after[..., :-1, :]
        return total


class _Tiles(torch.autograd.Function):
    """(..., T, d) -> (4, ..., P, d): the inputs' sides of the four products.

    Of pair p, x1 and x2 are its own two positions, x0 the second of the pair before, x3 the first of the pair after.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.time = x.shape[-2]
        x1, x2 = _pairs(F.pad(x, (0, 0, 0, 1)) if ctx.time % 2 else x)
        tiles = x.new_empty(4, *x1.shape)
        torch.neg(x2[..., :1, :], out=tiles[0, ..., :1, :])
        torch.sub(x2[..., :-1, :], x2[..., 1:, :], out=tiles[0, ..., 1:, :])
        torch.add(x1, x2, out=tiles[1])
        torch.sub(x2, x1, out=tiles[2])
        torch.sub(x1[..., :-1, :], x1[..., 1:, :], out=tiles[3, ..., :-1, :])
        tiles[3, ..., -1:, :] = x1[..., -1:, :]
        return tiles

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        g0, g1, g2, g3 = gradients[0]
        total = g0.new_empty(*g0.shape[:-2], 2 * g0.shape[-2], g0.shape[-1])
        first, second = _pairs(total)
        torch.sub(g1, g2, out=first).add_(g3)
        first[..., 1:, :].sub_(g3[..., :-1, :])
        torch.add(g1, g2, out=second).sub_(g0)
        second[..., :-1, :].add_(g0[..., 1:, :])
        return total[..., : ctx.time, :]


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second positions of the pairs, (..., P, d) each, as views."""
    return x[..., ::2, :], x[..., 1::2, :]


class _TileProduct(torch.autograd.Function):
    """Tiles (4, P, d), weight (R, 3 d), bias (R,) -> the two positions of each pair, (P, 2, R).

    The outer two of the four products are added by the multiplication itself, from and to where things lie.
    """

    @staticmethod
    def forward(ctx: Any, tiles: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        w0, w1, w2 = weight.chunk(KERNEL, dim=1)
        outer, middle = (w0 + w2).mul_(0.5), w1 * 0.5
        kernel = weight.new_empty(2, *middle.shape)
        torch.sub(outer, middle, out=kernel[1])
        torch.add(outer, middle, out=kernel[0])
        shift = torch.stack((bias, torch.zeros_like(bias)))[:, None]
        m1, m2 = torch.baddbmm(shift, tiles[1:3], kernel.transpose(1, 2))
        pairs = tiles.new_empty(tiles.shape[1], 2, len(weight))
        first, second = pairs.unbind(1)
        torch.add(m1, m2, out=first).addmm_(tiles[0], w0.t())
        torch.sub(m1, m2, out=second).addmm_(tiles[3], w2.t(), alpha=-1)
        ctx.save_for_backward(tiles, weight, kernel)
        return pairs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        tiles, weight, kernel = ctx.saved_tensors
        first, second = gradients[0].unbind(1)
        inner = tiles.new_empty(2, *first.shape)
        torch.add(first, second, out=inner[0])
        torch.sub(first, second, out=inner[1])
        of_tiles = of_weight = None
        if ctx.needs_input_grad[0]:
            w0, _, w2 = weight.chunk(KERNEL, dim=1)
            of_tiles = torch.empty_like(tiles)
            torch.mm(first, w0, out=of_tiles[0])
            torch.bmm(inner, kernel, out=of_tiles[1:3])
            torch.addmm(of_tiles[3], second, w2, beta=0, alpha=-1, out=of_tiles[3])
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            w0, w1, w2 = of_weight.chunk(KERNEL, dim=1)
            k1, k2 = torch.bmm(inner.transpose(1, 2), tiles[1:3])
            torch.sub(k1, k2, out=w1).mul_(0.5)
            outer = k1.add_(k2).mul_(0.5)
            torch.addmm(outer, first.t(), tiles[0], out=w0)
            torch.addmm(outer, second.t(), tiles[3], alpha=-1, out=w2)
        return of_tiles, of_weight, inner[0].sum(0) if ctx.needs_input_grad[2] else None
