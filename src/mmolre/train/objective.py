"""The loss: masked L1 for sentiment, masked BCE for the emotions, auxiliary and balance terms."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmolre.data.batching import Batch
from mmolre.model.mmolre import Output
from mmolre.train.recipe import ObjectiveRecipe


class Loss(NamedTuple):
    """What to descend.

    Attributes:
        total: the sum of ``tasks`` and ``common``.
        parts: unweighted, for the log (detached).
        tasks: each task's weighted share, its unimodal heads' included.
        common: what is no task's: the balance term.
    """

    total: Tensor
    parts: dict[str, Tensor]
    tasks: dict[str, Tensor]
    common: Tensor


def sentiment_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error over the labelled utterances; 0 where there is none. Both (B,), NaN = unlabelled."""
    labelled = ~truth.isnan()
    # Zeroed before the difference: NaN times 0 is NaN, in the gradient too.
    difference = torch.where(labelled, prediction - truth.nan_to_num(), 0.0)
    return difference.abs().sum() / labelled.sum().clamp(min=1)


def emotion_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean binary cross-entropy over the labelled cells; present iff intensity > 0. Both (B, 6), NaN = unlabelled."""
    labelled = ~truth.isnan()
    cells = F.binary_cross_entropy_with_logits(logits, (truth > 0).to(logits.dtype), reduction="none")
    return torch.where(labelled, cells, 0.0).sum() / labelled.sum().clamp(min=1)


TASK_LOSSES = {"sentiment": sentiment_loss, "emotion": emotion_loss}


class Objective(nn.Module):
    """The weighted sum; with ``balance_tasks: uncertainty`` it has parameters of its own.

    Uncertainty weighting (Kendall et al., 2018): exp(-s) * loss + s per task, s learned from 0.
    """

    def __init__(self, recipe: ObjectiveRecipe, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.recipe = recipe
        self.weights: dict[str, float] = {task: getattr(recipe, task) for task in tasks}
        learned = recipe.balance_tasks == "uncertainty"
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks if learned})

    def forward(self, output: Output, batch: Batch) -> Loss:
        truths = {"sentiment": batch.sentiment, "emotion": batch.emotions}
        parts: dict[str, Tensor] = {}
        tasks: dict[str, Tensor] = {}
        auxiliary: list[tuple[str, Tensor]] = []
        for task, weight in self.weights.items():
            loss_of, truth = TASK_LOSSES[task], truths[task]
            parts[task] = loss_of(output.tasks[task], truth)
            term = weight * parts[task]
            if task in self.log_variance:
                # A batch without a label of this task says nothing of its uncertainty.
                s = self.log_variance[task] * (~truth.isnan()).any()
                term = torch.exp(-s) * term + s
            tasks[task] = term
            heads = ((x, truth[rows]) for x, rows in output.unimodal[task].values())
            # Heads without a label in the batch are no part of the mean: they would only make the others count less.
            auxiliary += [(task, weight * loss_of(x, own)) for x, own in heads if not own.isnan().all()]
        for task, loss in auxiliary:
            tasks[task] = tasks[task] + self.recipe.unimodal * loss / len(auxiliary)
        if auxiliary:
            parts["unimodal"] = torch.stack([loss for _, loss in auxiliary]).mean()
        parts["balance"] = output.balance
        common = self.recipe.router_balance * output.balance
        total = torch.stack([*tasks.values(), common]).sum()
        return Loss(total, {name: part.detach() for name, part in parts.items()}, tasks, common)
