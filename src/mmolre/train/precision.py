"""Products in bfloat16, where the machine computes in it."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def precision_on(device: str | torch.device, wanted: Precision) -> Precision:
    """``bf16`` where that is wanted and the device's own; else ``fp32``.

    A CPU without AVX-512 emulates bfloat16: a product of two 512 by 512 matrices took 80 times as long there as in
    float32. Where torch does not say, it is not taken.
    """
    if wanted == "fp32":
        return "fp32"
    kind = torch.device(device).type
    if kind == "cuda":
        own = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":
        try:
            own = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # what torch's own compiler asks
        except (AttributeError, RuntimeError):
            own = False
    else:
        own = True  # autocast itself says what it cannot do
    return "bf16" if own else "fp32"


def products(device: str | torch.device, precision: Precision) -> AbstractContextManager[object]:
    """In it, products are made in bfloat16 where ``precision`` says so (autocast)."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")
