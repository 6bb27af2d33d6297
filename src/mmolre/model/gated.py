"""The second half of a bank of experts: activation, gates and the product with the second convolutions' weight.

``gated_gelu`` is ``(F.gelu(x) * gates) @ weight``. What autograd makes of the three operations fills three new blocks
of memory on the way back; here one holds the gradient from the product on to the inputs, which is most of what these
operations cost (``benchmarks/experts.py``).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def gated_gelu(x: Tensor, gates: Tensor, weight: Tensor) -> Tensor:
    """Gated sum over columns.

    Args:
        x: (..., T, R), before the activation.
        gates: (..., T or 1, R); all leading axes broadcast.
        weight: (R, d).

    Returns:
        (..., T, d).
    """
    return _GatedGELU.apply(x, gates, weight)  # type: ignore[no-any-return]


class _GatedGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gates: Tensor, weight: Tensor) -> Tensor:
        hidden = F.gelu(x)
        learned = ctx.needs_input_grad[1]
        # Only the gates' gradient reads the hidden columns again.
        grows = torch.broadcast_shapes(x.shape, gates.shape) != x.shape
        gated = hidden * gates if learned or grows else hidden.mul_(gates)
        ctx.save_for_backward(x, gates, weight, gated, hidden if learned else None)
        return gated @ weight

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, gates, weight, gated, hidden = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, weight.shape[1])
        of_x = of_gates = of_weight = None
        if ctx.needs_input_grad[2]:
            of_weight = gated.view(-1, gated.shape[-1]).t() @ gradient
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            of_gated = (gradient @ weight.t()).view(gated.shape)
            if ctx.needs_input_grad[1]:
                of_gates = (of_gated * hidden).sum_to_size(gates.shape)
            if ctx.needs_input_grad[0]:
                of_hidden = of_gated.mul_(gates).sum_to_size(x.shape)
                of_x = torch.ops.aten.gelu_backward.grad_input(of_hidden, x, grad_input=of_hidden)
        return of_x, of_gates, of_weight
