"""The loss: masked L1 for sentiment, masked BCE for the emotions, auxiliary and balance terms."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmolre.data.batching import Batch
from mmolre.model.mmolre import Output
from mmolre.schema import EMOTIONS, Utterance
from mmolre.train.recipe import ObjectiveRecipe
from mmolre.train.teachers import Taught


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


class Cells(NamedTuple):
    """A loss before it is averaged: one value per cell, 0 where it is not ``known``; both of one shape."""

    values: Tensor
    known: Tensor

    def mean(self) -> Tensor:
        """Over the known cells; 0 where there is none."""
        return self.values.sum() / self.known.sum().clamp(min=1)

    def blend(self, other: "Cells", share: float) -> "Cells":
        """``share`` of the other's value where both are known, else the whole of the one that is."""
        both = self.known & other.known
        values = torch.where(both, 1 - share, 1.0) * self.values + torch.where(both, share, 1.0) * other.values
        return Cells(values, self.known | other.known)


def sentiment_loss(prediction: Tensor, truth: Tensor) -> Cells:
    """Absolute error. Both (B,), NaN = unlabelled."""
    known = ~truth.isnan()
    # Zeroed before the difference: NaN times 0 is NaN, in the gradient too.
    return Cells(torch.where(known, prediction - truth.nan_to_num(), 0.0).abs(), known)


def emotion_loss(
    logits: Tensor,
    truth: Tensor,
    exclusive: Tensor | None = None,
    *,
    recipe: ObjectiveRecipe | None = None,
    present_weight: Tensor | None = None,
) -> Cells:
    """Binary cross-entropy; present iff intensity > 0.

    Args:
        logits: (B, 6).
        truth: (B, 6), NaN = unlabelled.
        exclusive: (B,) bool, the utterances that are known to hold at most one emotion. Those of them with six labels
            get, in each cell, a sixth of the cross-entropy of a softmax over the six logits and a 0 for none: what the
            voice of one emotion says against the others counts, too (ours).
        recipe: its ``emotion_targets``, ``emotion_focus`` and ``emotion_margin``; their defaults where not given.
        present_weight: (6,), how much a present emotion counts; 1 where not given.
    """
    recipe = recipe or ObjectiveRecipe()
    labelled = ~truth.isnan()
    there = truth > 0  # False where NaN
    intensity = truth.nan_to_num()
    target = {"binary": there.float(), "graded": intensity.clamp(0, 1), "soft": (intensity / 3).clamp(0, 1)}[
        recipe.emotion_targets
    ].to(logits.dtype)
    if recipe.emotion_focus:
        logits = logits.float()  # bfloat16's probabilities are too coarse for powers of them
        easy = (logits.sigmoid() - recipe.emotion_margin).clamp(min=0)
        absent = easy**recipe.emotion_focus * -torch.log1p(-easy.clamp(max=1 - 1e-6))
        cells = target * -F.logsigmoid(logits) + (1 - target) * absent
    else:
        cells = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if present_weight is not None:
        cells = cells * torch.where(there, present_weight, 1.0)
    if exclusive is not None:
        one = exclusive & labelled.all(dim=1) & (there.sum(dim=1) <= 1)
        cells = torch.where(one[:, None], _among(logits, there.to(logits.dtype)), cells)
    return Cells(torch.where(labelled, cells, 0.0), labelled)


def imitation_loss(logits: Tensor, taught: Tensor, exclusive: Tensor | None = None) -> Cells:
    """Cross-entropy with a teacher's probabilities, where it has any (NaN = none).

    Args:
        logits: (B, 6).
        taught: (B, 6) probabilities.
        exclusive: (B,) bool, as in :func:`emotion_loss`: there it is that of the softmax over the six and none, else
            that of each emotion by itself. Probabilities that sum to more than 1 are scaled to 1.
    """
    known = ~taught.isnan()
    target = taught.nan_to_num().to(logits.dtype)
    cells = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if exclusive is not None:
        shares = target / target.sum(dim=1, keepdim=True).clamp(min=1)
        cells = torch.where((exclusive & known.all(dim=1))[:, None], _among(logits, shares), cells)
    return Cells(torch.where(known, cells, 0.0), known)


def _among(logits: Tensor, shares: Tensor) -> Tensor:
    """(B, 1): a sixth of the cross-entropy of a softmax over the six logits and a 0 for none, with ``shares``, (B, 6),
    and what is left to 1 for none."""
    target = torch.cat([shares, 1 - shares.sum(dim=1, keepdim=True)], dim=1)
    return F.cross_entropy(F.pad(logits, (0, 1)), target, reduction="none")[:, None] / logits.shape[1]


class Objective(nn.Module):
    """The weighted sum; with ``balance_tasks: uncertainty`` it has parameters of its own.

    Uncertainty weighting (Kendall et al., 2018): exp(-s) * loss + s per task, s learned from 0.
    """

    present_weight: Tensor

    def __init__(self, recipe: ObjectiveRecipe, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.recipe = recipe
        self.weights: dict[str, float] = {task: getattr(recipe, task) for task in tasks}
        learned = recipe.balance_tasks == "uncertainty"
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks if learned})
        self.register_buffer("present_weight", torch.ones(len(EMOTIONS)), persistent=False)

    def count(self, utterances: Sequence[Utterance]) -> None:
        """Take the weights of present emotions from the training split's labels."""
        for i in range(len(EMOTIONS)):
            labels = [u.emotions[i] for u in utterances]
            present = sum(label is not None and label > 0 for label in labels)
            absent = sum(label is not None for label in labels) - present
            if present and absent:
                self.present_weight[i] = (absent / present) ** self.recipe.emotion_balance

    def forward(self, output: Output, batch: Batch, taught: Taught | None = None) -> Loss:
        """The loss of a batch; ``taught``: what teachers say of its utterances."""
        truths = {"sentiment": batch.sentiment, "emotion": batch.emotions}
        exclusive = self._exclusive(batch)
        parts: dict[str, Tensor] = {}
        tasks: dict[str, Tensor] = {}
        auxiliary: list[tuple[str, Tensor]] = []
        for task, weight in self.weights.items():
            truth = truths[task]
            cells = self._cells(task, output.tasks[task], truth, exclusive, taught)
            parts[task] = cells.mean()
            term = weight * parts[task]
            if task in self.log_variance:
                # A batch without a label of this task says nothing of its uncertainty.
                s = self.log_variance[task] * cells.known.any()
                term = torch.exp(-s) * term + s
            tasks[task] = term
            for x, rows in output.unimodal[task].values():
                # A head without a label in the batch is no part of the mean: it would only make the others count less.
                here = None if taught is None else taught.of(rows)
                own = self._cells(task, x, truth[rows], None if exclusive is None else exclusive[rows], here)
                if own.known.any():
                    auxiliary.append((task, weight * own.mean()))
        for task, loss in auxiliary:
            tasks[task] = tasks[task] + self.recipe.unimodal * loss / len(auxiliary)
        if auxiliary:
            parts["unimodal"] = torch.stack([loss for _, loss in auxiliary]).mean()
        parts["balance"] = output.balance
        common = self.recipe.router_balance * output.balance
        total = torch.stack([*tasks.values(), common]).sum()
        return Loss(total, {name: part.detach() for name, part in parts.items()}, tasks, common)

    def twice(self, first: Output, second: Output, batch: Batch, taught: Taught | None = None) -> Loss:
        """R-Drop: the mean loss of two passes over a batch, and how far they differ on its labelled utterances."""
        one, two = self(first, batch, taught), self(second, batch, taught)
        labelled = {"sentiment": ~batch.sentiment.isnan(), "emotion": ~batch.emotions.isnan()}
        differences = {}
        for task in self.weights:
            a, b = first.tasks[task].float(), second.tasks[task].float()
            # KL(p | q) + KL(q | p) of two coins is (p - q)(logit p - logit q).
            apart = (a - b) ** 2 if task == "sentiment" else (a.sigmoid() - b.sigmoid()) * (a - b) / 2
            differences[task] = (apart * labelled[task]).sum() / labelled[task].sum().clamp(min=1)
        weighted = {task: self.recipe.r_drop * self.weights[task] * x for task, x in differences.items()}
        tasks = {task: (one.tasks[task] + two.tasks[task]) / 2 + weighted[task] for task in self.weights}
        common = (one.common + two.common) / 2
        parts = {name: (one.parts[name] + two.parts[name]) / 2 for name in one.parts}
        parts["r_drop"] = torch.stack(list(differences.values())).sum().detach()
        return Loss(torch.stack([*tasks.values(), common]).sum(), parts, tasks, common)

    def _cells(
        self, task: str, prediction: Tensor, truth: Tensor, exclusive: Tensor | None, taught: Taught | None
    ) -> Cells:
        if task == "sentiment":
            own = sentiment_loss(prediction, truth)
            other = None if taught is None else sentiment_loss(prediction, taught.sentiment)
        else:
            weight = self.present_weight if self.recipe.emotion_balance else None
            own = emotion_loss(prediction, truth, exclusive, recipe=self.recipe, present_weight=weight)
            other = None if taught is None else imitation_loss(prediction, taught.emotions, exclusive)
        return own if other is None else own.blend(other, self.recipe.teaching)

    def _exclusive(self, batch: Batch) -> Tensor | None:
        """(B,) bool: whether the utterance's set of modalities is one of the recipe's ``exclusive``, if it has any.

        That is the set that is there in this step, as an utterance is read by what there is of it.
        """
        if not self.recipe.exclusive:
            return None
        rows = torch.zeros(len(batch.ids), dtype=torch.bool, device=batch.sentiment.device)
        for key in self.recipe.exclusive:
            wanted = key.split("+")
            if set(wanted) <= set(batch.masks):  # a modality that no utterance of the batch has is not among them
                rows |= torch.stack([mask.any(dim=1) == (m in wanted) for m, mask in batch.masks.items()]).all(dim=0)
        return rows
