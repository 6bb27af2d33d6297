"""What a model costs: parameters, FLOPs, time of a training step."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmolre.data.batching import Batch
from mmolre.model.config import ModelConfig
from mmolre.model.mmolre import MMoLRE
from mmolre.schema import EMOTIONS
from mmolre.train import surgery
from mmolre.train.loop import fused
from mmolre.train.objective import Objective
from mmolre.train.recipe import ObjectiveRecipe

TIME_STEPS = 32
"""Of each modality: about what an utterance of MOSEI has."""
BATCH = 32


class Cost(NamedTuple):
    """Of a row: of its models together, where it has several.

    Attributes:
        parameters: those that learn, so without frozen encoders; ``middle``: of the trunk between input
            projections and fusion.
        flops: of a forward pass of one utterance of :data:`TIME_STEPS` per modality (a multiply-add is two).
        step_ms: median time of one training step (forward, backward, AdamW) of :data:`BATCH` such utterances.
    """

    parameters: int
    middle: int
    flops: int
    step_ms: float


class Measured(NamedTuple):
    """What is to be measured: a model's shape and its loss."""

    config: ModelConfig
    objective: ObjectiveRecipe = ObjectiveRecipe()


def measure(rows: Mapping[str, Sequence[Measured]], repeats: int = 5, device: str = "cpu") -> dict[str, Cost]:
    """Each row's cost; the steps are timed in turns, so that a noisy machine troubles all rows alike."""
    steps = {name: [_Step(one, device) for one in several] for name, several in rows.items()}
    times: dict[str, list[float]] = {name: [] for name in rows}
    for i in range(repeats + 1):
        for name, several in steps.items():
            seconds = sum(step.seconds() for step in several)
            if i:  # the first warms up
                times[name].append(seconds)
    return {
        name: Cost(
            sum(_parameters(step.model) for step in several),
            sum(_parameters(step.model.unitse) for step in several),
            sum(flops(step.model) for step in several),
            1e3 * statistics.median(times[name]),
        )
        for name, several in steps.items()
    }


def flops(model: MMoLRE) -> int:
    """Of a forward pass of one utterance with all modalities, :data:`TIME_STEPS` of each."""
    batch = _random_batch(model, 1)
    # Attention as the plain products that it is: the fused ones are not counted on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch.features, batch.masks)
    return counter.get_total_flops()


def _drawn(config: ModelConfig) -> MMoLRE:
    """A model of random weights, those of encoders that adapt included: as many products as with their own."""
    model = MMoLRE(config)
    for parameter in model.uppers.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


class _Step:
    def __init__(self, measured: Measured, device: str) -> None:
        self.model = _drawn(measured.config).to(device).train()
        self.objective = Objective(measured.objective, measured.config.tasks).to(device)
        self.batch = _random_batch(self.model, BATCH)
        every = [*self.model.parameters(), *self.objective.parameters()]
        self.parameters = [parameter for parameter in every if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, fused=fused(self.model))
        self.operate = measured.objective.surgery == "pcgrad"

    def seconds(self) -> float:
        start = time.perf_counter()
        first = self.model(self.batch.features, self.batch.masks)
        if self.objective.recipe.r_drop:
            second = self.model(self.batch.features, self.batch.masks)
            loss = self.objective.twice(first, second, self.batch)
        else:
            loss = self.objective(first, self.batch)
        self.optimizer.zero_grad(set_to_none=True)
        if self.operate:
            surgery.backward(loss.tasks, loss.common, self.parameters, self.model.placeholders.parameters())
        else:
            loss.total.backward()
        self.optimizer.step()
        loss.total.item()  # waits for a GPU
        return time.perf_counter() - start


def _random_batch(model: MMoLRE, size: int) -> Batch:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    features = {}
    for m, c in model.config.modalities.items():
        features[m] = random(size, TIME_STEPS, c.layers, c.width)
        if c.adapted and c.adapted.surroundings:  # a last column that says: all of it is the utterance's own
            features[m] = torch.cat([features[m], torch.ones_like(features[m][..., :1])], dim=-1)
    masks = {m: torch.ones(size, TIME_STEPS, dtype=torch.bool) for m in features}
    return Batch([""] * size, features, masks, random(size), random(size, len(EMOTIONS))).to(device)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
