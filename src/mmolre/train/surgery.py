"""PCGrad: gradient surgery between tasks (Yu et al., NeurIPS 2020)."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

Gradients = list[Tensor | None]
"""One per parameter, as torch.autograd.grad gives them: None where the loss does not depend on it."""


def task_gradients(losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, Gradients]:
    """Each task's gradients. The graph is kept: the caller may go through it once more."""
    return {
        task: list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))
        for task, loss in losses.items()
    }


def pcgrad(by_task: Sequence[Gradients], own: Collection[int] = ()) -> Gradients:
    """The sum of the tasks' gradients, each without its part against another's.

    On the parameters that every task reaches, as one vector per task: where g_i . g_j < 0, g_i loses its projection on
    the original g_j. Other parameters get the plain sum: a task's own have no gradient of the other's, or zeros, where
    autograd went through a stack of both. There are two tasks at most here, so that the random order in which the
    original goes through several has no meaning.

    Args:
        by_task: each task's.
        own: indices of parameters that are not shared though every task reaches them: they have a part for each.
    """
    total: Gradients = [_sum(column) for column in zip(*by_task, strict=True)]
    reached = [_reached(gradients) for gradients in by_task]
    shared = [i for i in range(len(total)) if i not in own and all(of[i] for of in reached)]
    if not shared:  # a batch without labels of a task
        return total
    vectors = [[g for i in shared if (g := gradients[i]) is not None] for gradients in by_task]
    for i, mine in enumerate(vectors):
        for j, other in enumerate(vectors):
            if i == j or (product := _dot(mine, other)) >= 0:
                continue
            scale = product / _dot(other, other)
            mine = [a - scale * b for a, b in zip(mine, other, strict=True)]
            for place, b in zip(shared, other, strict=True):
                total[place] = total[place] - scale * b  # type: ignore[operator]
    return total


def backward(
    losses: Mapping[str, Tensor], common: Tensor, parameters: Sequence[nn.Parameter], own: Iterable[nn.Parameter] = ()
) -> None:
    """Put into ``parameters``' ``grad`` what PCGrad makes of the tasks' losses, plus the gradient of ``common``.

    Args:
        own: those of them that have a part for each task.
    """
    apart = {id(parameter) for parameter in own}
    places = [i for i, parameter in enumerate(parameters) if id(parameter) in apart]
    operated = pcgrad(list(task_gradients(losses, parameters).values()), places)
    for parameter, gradient in zip(parameters, operated, strict=True):
        parameter.grad = gradient
    if common.requires_grad:
        common.backward()


def _reached(gradients: Gradients) -> list[bool]:
    """Of each parameter; read at once, since each reading waits for a GPU."""
    there = [g.any() for g in gradients if g is not None]
    found = iter(torch.stack(there).tolist() if there else [])
    return [g is not None and next(found) for g in gradients]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    known = [g for g in gradients if g is not None]
    return torch.stack(known).sum(0) if known else None
