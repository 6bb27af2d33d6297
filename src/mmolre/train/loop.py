"""The training loop: epochs, validation, early stopping, exact resume.

All randomness of a step is drawn from (seed, step), and the order of an epoch from (seed, epoch). So a run that goes on
from a checkpoint repeats what it would have done, bit by bit, with no generator's state to keep.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmolre.data.batching import Batch, collate, likeness, shuffled_buckets, targets
from mmolre.data.dataset import Rows
from mmolre.errors import UserError
from mmolre.files import cannot_write
from mmolre.model.mmolre import MMoLRE
from mmolre.schema import TASKS
from mmolre.train import conflict, surgery
from mmolre.train.adaptation import parameter_groups
from mmolre.train.augment import shortened
from mmolre.train.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from mmolre.train.objective import Objective
from mmolre.train.precision import Precision, precision_on, products
from mmolre.train.recipe import Recipe
from mmolre.train.refit import EarlierRun
from mmolre.train.teachers import Taught
from mmolre.train.validation import Validation, Validator

LOG_FILE = "log.jsonl"


class Progress(NamedTuple):
    """What a progress display shows after each step."""

    epoch: int
    step: int
    steps: int
    losses: dict[str, float]


class InterruptedRunError(Exception):
    """Training was asked to stop; the checkpoint holds everything."""


class Trainer:
    """One run of one recipe.

    Args:
        recipe: what to do.
        model: freshly made, on its device.
        train, valid: rows; neither may be empty, but valid where there is a ``refit``.
        taught: what teachers say of the utterances of ``train``.
        refit: an earlier run that validated for this one: it says how many epochs there are of the recipe's, whose
            schedule stays, and how predictions are read.
        warped: the sound of ``train`` as from other vocal tracts: for each of these, as ``train.arrays``.
        out: the run's folder; ``log.jsonl`` and ``last.safetensors`` are written here.
        save_best: called with the averaged model and its validation each time the score improves.
        report: called after each step, for a progress display.
        should_stop: asked between steps; if true, a checkpoint is saved and :class:`InterruptedRunError` raised.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: MMoLRE,
        train: Rows,
        valid: Rows,
        out: Path,
        *,
        taught: Taught | None = None,
        refit: EarlierRun | None = None,
        warped: Sequence[Sequence[Mapping[str, np.ndarray]]] = (),
        save_best: Callable[[MMoLRE, Validation], None],
        report: Callable[[Progress], None] = lambda _: None,
        log_line: Callable[[dict[str, Any]], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.recipe, self.model, self.train_rows, self.out = recipe, model, train, out
        self.taught, self.warped, self.refit = taught, warped, refit
        self.epochs = refit.epochs if refit else recipe.training.epochs
        self.save_best, self.report, self.log_line, self.should_stop = save_best, report, log_line, should_stop
        self.device = next(model.parameters()).device
        self.precision: Precision = precision_on(self.device, recipe.training.precision)
        self.objective = Objective(recipe.objective, model.config.tasks).to(self.device)
        self.objective.count(train.utterances)
        self.averaged = _copy_of(model).eval() if recipe.training.ema else model
        rates = {m: part.learning_rate or recipe.training.encoder_learning_rate for m, part in recipe.encoders.items()}
        groups = parameter_groups([model, self.objective], recipe.training, rates)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=fused(model))
        # What one epoch goes through: indices of the training rows, some of them several times.
        self.visits = [i for i, x in enumerate(train.arrays) for _ in range(recipe.training.visits(x))]
        if not self.visits:
            raise UserError("training.repeat leaves no utterance to learn from")
        self.keys = [likeness(train.arrays[i]) for i in self.visits]
        labelled = [u.sentiment for u in train.utterances if u.sentiment is not None]
        self.train_sentiment_median = float(np.median(labelled)) if labelled else None
        self._validator = Validator(recipe, model.config.tasks, valid, self.train_sentiment_median)
        self.state: dict[str, Any] = {
            "epoch": 0, "in_epoch": 0, "step": 0, "best_score": None, "best_epoch": 0, "seconds": 0.0,
            "sums": {}, "log_bytes": 0, "finished": False, "data": data_digest(train, valid),
            "content": content_digest(train, valid, set(recipe.features)),
        }  # fmt: skip

    @property
    def _modules(self) -> dict[str, torch.nn.Module]:
        modules: dict[str, torch.nn.Module] = {"model": self.model, "objective": self.objective}
        return modules | ({"averaged": self.averaged} if self.averaged is not self.model else {})

    @property
    def _computes(self) -> dict[str, str]:
        asked = self.recipe.training.precision
        return {"precision": self.precision} | ({} if self.precision == asked else {"instead_of": asked})

    def run(self) -> dict[str, Any]:
        """Train to the end, from the checkpoint if there is one. Returns the final state.

        Raises:
            UserError: the loss or its gradient is not finite (names the batch; the last good checkpoint is kept).
            InterruptedRunError: ``should_stop`` said so.
        """
        settings = self.recipe.training
        checkpoint = self.out / CHECKPOINT_FILE
        if checkpoint.exists():
            data, content = self.state["data"], self.state["content"]
            self.state = load_checkpoint(checkpoint, self._modules, self.optimizer)
            if self.state["data"] != data or self.state.get("content", content) != content:
                raise UserError(
                    f"{self.out} was begun with other data (ids, texts, labels, lengths or ready-made features differ, "
                    "or rows that failed); give the same again, or another --out"
                )
            if self.state["finished"]:
                return self.state
            self.state["content"] = content  # checkpoints did not always have it
            if not all(isinstance(of, list) for of in self.state["sums"].values()):  # nor weights beside the sums
                self.state["sums"] = {}
            self._cut_log()
            self._log(event="resumed", epoch=self.state["epoch"], step=self.state["step"], **self._computes)
        else:
            (self.out / LOG_FILE).unlink(missing_ok=True)
            first = self.validate()  # a recipe whose validation cannot work fails now, not after an epoch
            count = len(self.train_rows.utterances)
            self._log(event="started", score=first.score, utterances=count, **self._computes)
        started = time.monotonic() - self.state["seconds"]
        saved = time.monotonic()
        while self.state["epoch"] < self.epochs:
            batches = self._epoch_batches()
            total_steps = settings.epochs * len(batches)
            self.model.train()
            while self.state["in_epoch"] < len(batches):
                losses = self._step(batches[self.state["in_epoch"]], total_steps)
                self.state["step"] += 1
                self.state["in_epoch"] += 1
                self.state["seconds"] = time.monotonic() - started
                self.report(Progress(self.state["epoch"] + 1, self.state["step"], total_steps, losses))
                stop = self.should_stop()
                if stop or time.monotonic() - saved > 60 * settings.checkpoint_minutes:
                    self._save()
                    saved = time.monotonic()
                if stop:
                    raise InterruptedRunError
            self._end_epoch(started)
            saved = time.monotonic()
            if self.state["finished"]:
                break
        return self.state

    def validate(self) -> Validation:
        """What the averaged weights are worth on valid, and how to read them; ``refit`` has an earlier run's word."""
        return self.refit.validation if self.refit else self._validator(self.averaged)

    def _epoch_batches(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(_mix(self.recipe.seed, self.state["epoch"], 1))
        batches = shuffled_buckets(self.keys, self.recipe.training.batch_size, generator)
        return [[self.visits[i] for i in batch] for batch in batches]

    def _step(self, rows: list[int], total_steps: int) -> dict[str, float]:
        """Learn from a batch; its losses, which are taken into the epoch's means."""
        settings, step = self.recipe.training, self.state["step"]
        torch.manual_seed(_mix(self.recipe.seed, step, 2))
        factor = schedule(step, total_steps, settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        for module in (self.model, self.objective):  # with what does not learn, for which the optimizer does not care
            module.zero_grad(set_to_none=True)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        losses: dict[str, float] = {}
        size = math.ceil(len(rows) / settings.accumulate)
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        labels = [self._labels(part) for part in parts]
        whole = {task: sum(of[task] for of in labels) for task in self.model.config.tasks}
        for i, (part, own) in enumerate(zip(parts, labels, strict=True)):
            # A task's loss is a mean over labels: by rows, a part without any would make the others count less.
            shares = {task: n / max(whole[task], 1) for task, n in own.items()}
            found = self._backward(part, parameters, shares, share=len(part) / len(rows), first=i == 0)
            for name, value in found.items():
                losses[name] = losses.get(name, 0.0) + value
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip).item()
        if not math.isfinite(norm):  # a finite loss may still have a gradient that would spoil every weight
            self._stop_at_nan([self.train_rows.utterances[i].id for i in rows], {"gradient norm": norm})
        self.optimizer.step()
        if self.averaged is not self.model:
            # Young averages follow quickly, so that short runs are not dominated by the initial weights.
            decay = min(settings.ema, (1 + step) / (10 + step))
            learning = zip(self.averaged.parameters(), self.model.parameters(), strict=True)
            averages, currents = zip(*(pair for pair in learning if pair[1].requires_grad), strict=True)
            get_ema_multi_avg_fn(decay)(averages, currents, None)
        self._count(losses, whole)
        return losses

    def _labels(self, rows: list[int]) -> dict[str, int]:
        """Task -> how many labels of it, or words of teachers on it, a batch has."""
        counts = {}
        taught = (None, None) if self.taught is None else self.taught.of(rows)
        truths = targets([self.train_rows.utterances[i] for i in rows])
        for task, truth, said in zip(TASKS, truths, taught, strict=True):
            unknown = truth.isnan() if said is None else truth.isnan() & said.isnan()
            counts[task] = int((~unknown).sum())
        return {task: counts[task] for task in self.model.config.tasks}

    def _count(self, losses: Mapping[str, float], labels: Mapping[str, int]) -> None:
        """Take a step's losses into the epoch's means: a task's is over its labels, the others' over steps."""
        for name, value in losses.items():
            sums, weight = self.state["sums"], labels.get(name, 1)
            total, weights = sums.get(name, (0.0, 0))
            sums[name] = (total + weight * value, weights + weight)

    def _backward(
        self,
        rows: list[int],
        parameters: list[torch.nn.Parameter],
        shares: Mapping[str, float],
        *,
        share: float,
        first: bool,
    ) -> dict[str, float]:
        """Add the gradient of these rows' loss, each task's times its one of ``shares``, the rest times ``share``.

        Returns the losses, times the same.
        """
        settings, step = self.recipe.training, self.state["step"]
        batch = collate([self.train_rows.utterances[i] for i in rows], [self._heard(i) for i in rows])
        batch = drop_modalities(batch, settings.modality_dropout).to(self.device)
        taught = None if self.taught is None else self.taught.of(rows, self.device)
        with products(self.device, self.precision):
            output = self.model(batch.features, batch.masks)
            if self.recipe.objective.r_drop:
                loss = self.objective.twice(output, self.model(batch.features, batch.masks), batch, taught)
            else:
                loss = self.objective(output, batch, taught)
        total = torch.stack([*(shares[task] * term for task, term in loss.tasks.items()), share * loss.common]).sum()
        # Read at once: each reading waits for a GPU.
        values = torch.stack([total.detach(), *loss.parts.values()]).tolist()
        losses = dict(zip(["loss", *loss.parts], values, strict=True))
        if not math.isfinite(losses["loss"]):
            self._stop_at_nan(batch.ids, {name: losses[name] for name in loss.parts})
        if first and settings.conflict_every and step % settings.conflict_every == 0 and len(loss.tasks) > 1:
            self._log(event="conflict", step=step, layers=conflict.measure(self.model, loss.tasks))
        if self.recipe.objective.surgery == "pcgrad":
            surgery.backward(loss.tasks, loss.common, parameters, self.model.placeholders.parameters())
        else:
            total.backward()
        return {"loss": losses.pop("loss")} | {name: shares.get(name, share) * x for name, x in losses.items()}

    def _heard(self, i: int) -> Mapping[str, np.ndarray]:
        """The features of a training row, as this step has them."""
        part = self.recipe.encoders.get("audio")
        present = self.train_rows.arrays[i]
        if part is None or part.augment is None or "audio" not in present:
            return present
        voice = present["audio"]
        if self.warped and (drawn := int(torch.randint(len(self.warped) + 1, ()))):
            voice = self.warped[drawn - 1][i].get("audio", voice)
        return {**present, "audio": shortened(voice, part.augment)}

    def _stop_at_nan(self, ids: list[str], parts: dict[str, float]) -> None:
        names = ", ".join(ids[:8]) + (", …" if len(ids) > 8 else "")
        self._log(event="nan", epoch=self.state["epoch"] + 1, step=self.state["step"], ids=ids)
        raise UserError(
            f"the loss or its gradient is not finite at epoch {self.state['epoch'] + 1}, step {self.state['step']} "
            f"({parts}), in the batch of utterances {names}; the last good checkpoint in {self.out} is kept. "
            "Look at these utterances, or lower training.learning_rate"
        )

    def _end_epoch(self, started: float) -> None:
        state, settings = self.state, self.recipe.training
        state["epoch"] += 1
        state["in_epoch"] = 0
        validation = self.validate()
        ended = state["epoch"] >= self.epochs
        if self.refit:
            better = ended
        else:
            better = settings.keep == "last" or state["best_score"] is None or validation.score > state["best_score"]
        if better:
            state["best_score"], state["best_epoch"] = validation.score, state["epoch"]
            self.save_best(self.averaged, validation)
        state["seconds"] = time.monotonic() - started
        impatient = not self.refit and state["epoch"] - state["best_epoch"] >= settings.patience
        state["finished"] = ended or impatient
        self._log(
            event="epoch",
            epoch=state["epoch"],
            step=state["step"],
            train={name: total / weight for name, (total, weight) in state["sums"].items() if weight},
            valid={t: _scalars(validation.metrics[t]) for t in ("sentiment", "emotion") if t in validation.metrics},
            score=validation.score,
            best=better,
            seconds=round(state["seconds"], 2),
        )
        state["sums"] = {}
        self._save()

    def _save(self) -> None:
        log = self.out / LOG_FILE
        self.state["log_bytes"] = log.stat().st_size if log.exists() else 0
        save_checkpoint(self.out / CHECKPOINT_FILE, self._modules, self.optimizer, self.state)

    def _cut_log(self) -> None:
        """Forget log lines written after the checkpoint: what they tell is about to be done again."""
        log = self.out / LOG_FILE
        if log.exists() and log.stat().st_size > self.state["log_bytes"]:
            with log.open("r+b") as file:
                file.truncate(self.state["log_bytes"])

    def _log(self, **line: Any) -> None:
        log = self.out / LOG_FILE
        try:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(log, error) from error
        self.log_line(line)


def fused(model: MMoLRE) -> bool:
    """Whether AdamW's step is one kernel: a quarter of the time where an encoder's weights learn, or on a GPU.

    Others stay as their results were made.
    """
    return len(model.uppers) > 0 or next(model.parameters()).device.type == "cuda"


def schedule(step: int, total: int, warmup: float) -> float:
    """Linear warm-up over ``warmup * total`` steps to 1, then a half cosine to 0 at ``total``."""
    warm = warmup * total
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))


def drop_modalities(batch: Batch, chance: float) -> Batch:
    """Modality dropout: with ``chance``, an utterance keeps only one of its modalities, drawn at random.

    An utterance that has only one keeps it. Labels are untouched.
    """
    if len(batch.masks) < 2 or not chance:
        return batch
    names = list(batch.masks)
    present = torch.stack([batch.masks[m].any(dim=1) for m in names], dim=1)
    kept = torch.multinomial(present.float(), 1).squeeze(1)
    drop = (torch.rand(len(batch.ids)) < chance) & (present.sum(1) > 1)
    keeps: list[Tensor] = [~drop | (kept == i) for i in range(len(names))]
    masks = {m: batch.masks[m] & keep[:, None] for m, keep in zip(names, keeps, strict=True)}
    return batch._replace(masks=masks)


def _copy_of(model: MMoLRE) -> MMoLRE:
    """A copy to be averaged; what does not learn is not held twice."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


def data_digest(train: Rows, valid: Rows) -> str:
    """The same iff the rows are, in their order, with their labels and the lengths of their features."""
    digest = hashlib.sha256()
    for rows in (train, valid):
        for u, present in zip(rows.utterances, rows.arrays, strict=True):
            lengths = {m: len(x) for m, x in present.items()}
            digest.update(repr((u.id, u.sentiment, u.emotions, lengths)).encode())
    return digest.hexdigest()


def content_digest(train: Rows, valid: Rows, ready_made: Collection[str]) -> str:
    """The same iff their texts are, and of ready-made features what each utterance has first, midway and last.

    What an encoder gave may differ in the last bit on another machine, where a run may go on.
    """
    digest = hashlib.sha256()
    for rows in (train, valid):
        for i, u in enumerate(rows.utterances):
            digest.update(repr(u.text).encode())
            present = rows.arrays[i] if ready_made else {}  # each is read from the disk
            for name in sorted(set(present) & set(ready_made)):
                values = present[name]
                if len(values):
                    digest.update(np.ascontiguousarray(values[[0, len(values) // 2, -1]]).tobytes())
    return digest.hexdigest()


def _mix(seed: int, count: int, purpose: int) -> int:
    """One 63-bit seed from three numbers, so that neighbouring seeds and steps share no stream."""
    return int(np.random.SeedSequence([seed, count, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not isinstance(value, dict)}
