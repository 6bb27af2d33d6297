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


def emotion_loss(logits: Tensor, truth: Tensor, exclusive: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over the labelled cells; present iff intensity > 0.

    Args:
        logits: (B, 6).
        truth: (B, 6), NaN = unlabelled.
        exclusive: (B,) bool, the utterances that are known to hold at most one emotion. Those of them with six labels
            get, in each cell, a sixth of the cross-entropy of a softmax over the six logits and a 0 for none: what the
            voice of one emotion says against the others counts, too (ours).
    """
    labelled = ~truth.isnan()
    there = truth > 0  # False where NaN
    cells = F.binary_cross_entropy_with_logits(logits, there.to(logits.dtype), reduction="none")
    if exclusive is not None:
        one = exclusive & labelled.all(dim=1) & (there.sum(dim=1) <= 1)
        target = torch.where(there.any(dim=1), there.to(torch.int8).argmax(dim=1), logits.shape[1])
        among = F.cross_entropy(F.pad(logits, (0, 1)), target, reduction="none")
        cells = torch.where(one[:, None], among[:, None] / logits.shape[1], cells)
    return torch.where(labelled, cells, 0.0).sum() / labelled.sum().clamp(min=1)


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
        exclusive = self._exclusive(batch)
        parts: dict[str, Tensor] = {}
        tasks: dict[str, Tensor] = {}
        auxiliary: list[tuple[str, Tensor]] = []
        for task, weight in self.weights.items():
            truth = truths[task]
            parts[task] = _task_loss(task, output.tasks[task], truth, exclusive)
            term = weight * parts[task]
            if task in self.log_variance:
                # A batch without a label of this task says nothing of its uncertainty.
                s = self.log_variance[task] * (~truth.isnan()).any()
                term = torch.exp(-s) * term + s
            tasks[task] = term
            for x, rows in output.unimodal[task].values():
                # A head without a label in the batch is no part of the mean: it would only make the others count less.
                if not truth[rows].isnan().all():
                    own = _task_loss(task, x, truth[rows], exclusive[rows])
                    auxiliary.append((task, weight * own))
        for task, loss in auxiliary:
            tasks[task] = tasks[task] + self.recipe.unimodal * loss / len(auxiliary)
        if auxiliary:
            parts["unimodal"] = torch.stack([loss for _, loss in auxiliary]).mean()
        parts["balance"] = output.balance
        common = self.recipe.router_balance * output.balance
        total = torch.stack([*tasks.values(), common]).sum()
        return Loss(total, {name: part.detach() for name, part in parts.items()}, tasks, common)

    def _exclusive(self, batch: Batch) -> Tensor:
        """(B,) bool: whether the utterance's set of modalities is one of the recipe's ``exclusive``."""
        rows = torch.zeros(len(batch.ids), dtype=torch.bool, device=batch.sentiment.device)
        for key in self.recipe.exclusive:
            wanted = key.split("+")
            if set(wanted) <= set(batch.masks):  # a modality that no utterance of the batch has is not among them
                rows |= torch.stack([mask.any(dim=1) == (m in wanted) for m, mask in batch.masks.items()]).all(dim=0)
        return rows


def _task_loss(task: str, prediction: Tensor, truth: Tensor, exclusive: Tensor) -> Tensor:
    return sentiment_loss(prediction, truth) if task == "sentiment" else emotion_loss(prediction, truth, exclusive)
