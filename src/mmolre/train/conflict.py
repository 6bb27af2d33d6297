"""Task conflict, measured: how far two tasks' gradients of what they share point apart, layer by layer."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmolre.train.surgery import task_gradients

ALL = "all"
"""All that the tasks share, as one layer."""

_UNSHARED = ("placeholders",)  # one tensor, but a row of its own for each task
_LAYER = re.compile(r"(inputs|unitse)\.([^.]+)(?:\.blocks\.(\d+))?")


def layer_of(name: str) -> str:
    """``text.input``, ``text.block1``, ``text.norm``; of other parts of the model the part's name, e.g. ``fusion``."""
    found = _LAYER.match(name)
    if not found:
        return name.partition(".")[0]
    part, modality, block = found.groups()
    if part == "inputs":
        return f"{modality}.input"
    return f"{modality}.norm" if block is None else f"{modality}.block{int(block) + 1}"


def measure(model: nn.Module, losses: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Cosine and norms of the tasks' gradients of the parameters that both tasks reach.

    The same quantity by which PCGrad decides, per layer. The graph is kept; nothing is added to any ``grad``.

    Args:
        model: whose named parameters are grouped by :func:`layer_of`.
        losses: of two tasks, on one batch and one forward pass.

    Returns:
        layer (and :data:`ALL`) -> ``cosine`` in [-1, 1], and each task's norm. Layers that only one task reaches are
        not in it; nothing is where the batch has no label of a task.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad and not name.startswith(_UNSHARED)]
    gradients = task_gradients(losses, [p for _, p in named])
    layers: dict[str, list[tuple[Tensor, ...]]] = {}
    for (name, _), pair in zip(named, zip(*gradients.values(), strict=True), strict=True):
        # A task's own has no gradient of the other, or zeros, where autograd went through a stack of both.
        reached = tuple(g for g in pair if g is not None and g.any())
        if len(reached) == len(losses):
            layers.setdefault(layer_of(name), []).append(reached)
    layers[ALL] = [pair for pairs in layers.values() for pair in pairs]
    return {layer: _angle(tuple(losses), pairs) for layer, pairs in layers.items() if pairs}


def _angle(tasks: tuple[str, ...], pairs: list[tuple[Tensor, ...]]) -> dict[str, float]:
    def dot(i: int, j: int) -> float:
        return torch.stack([(pair[i].double() * pair[j].double()).sum() for pair in pairs]).sum().item()

    norms = [math.sqrt(dot(k, k)) for k in range(len(tasks))]
    size = math.prod(norms)
    return {"cosine": dot(0, 1) / size, **dict(zip(tasks, norms, strict=True))}
