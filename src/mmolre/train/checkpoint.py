"""Everything that a killed run needs to go on exactly, in one safetensors file (tensors, and JSON in its header)."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmolre.errors import UserError
from mmolre.files import replacing
from mmolre.model.upper import load_saved, saved_state

CHECKPOINT_FILE = "last.safetensors"


def save_checkpoint(
    path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write the modules' and the optimizer's tensors and ``state`` (JSON-able), whole or not at all.

    What does not learn of a pretrained encoder is left out.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old checkpoint is then as it was.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        tensors |= {f"{prefix}.{name}": t for name, t in saved_state(module).items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    contiguous = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with replacing(path) as beside:
        # Written by Python: safetensors' own writer reports a full disk as an error of its own kind, without a code.
        beside.write_bytes(save(contiguous, metadata={"state": json.dumps(state)}))


def read_state(path: Path) -> dict[str, Any] | None:
    """The ``state`` that :func:`save_checkpoint` wrote, without the tensors; None where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["state"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def load_checkpoint(path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put back what :func:`save_checkpoint` wrote, and return its ``state``.

    Raises:
        UserError: the file is damaged or belongs to another model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        for prefix, module in modules.items():
            start = f"{prefix}."
            load_saved(module, {n[len(start) :]: t for n, t in tensors.items() if n.startswith(start)})
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot go on from {path}: {reason}; give another --out, or delete it") from None
    return state
