"""MMoLRE: features of any number of modalities in, sentiment and six emotions out."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from mmolre.baselines.ple import PLE
from mmolre.errors import UserError
from mmolre.files import replacing, write_text
from mmolre.model.config import TASK_OUTPUTS, ModelConfig
from mmolre.model.dropout import Dropout
from mmolre.model.fusion import Sequence, TaskFusion
from mmolre.model.inputs import InputProjection
from mmolre.model.unitse import Routing, UniTSE
from mmolre.model.upper import Upper, load_saved, saved_state

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class Output(NamedTuple):
    """Everything a forward pass yields.

    Attributes:
        tasks: task -> (B,) sentiment, unbounded, or (B, 6) emotion logits.
        unimodal: task -> modality -> the auxiliary head's output, shaped as in ``tasks``, with the rows (B',) it is
            for (utterances that have the modality).
        alone: the same shapes: what the fused model says from that modality alone; empty where it was not asked.
        balance: scalar, the mean balance term of all routers.
        routing: one record per modality, block and task.
        modality_weights: task -> (B, M), in the order of the config's modalities.
    """

    tasks: dict[str, Tensor]
    unimodal: dict[str, dict[str, tuple[Tensor, Tensor]]]
    alone: dict[str, dict[str, tuple[Tensor, Tensor]]]
    balance: Tensor
    routing: list[Routing]
    modality_weights: dict[str, Tensor]


class _Extracted(NamedTuple):
    """What UniTSE made of one modality.

    Attributes:
        values: (tasks, B', T, width), of the utterances that have it.
        mask: (B', T), True at real positions.
        rows: (B',) which of the batch they are.
    """

    values: Tensor
    mask: Tensor
    rows: Tensor


class Head(nn.Module):
    """Two-layer perceptron on the fused vector."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width // 2)
        self.out = nn.Linear(width // 2, outputs)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.dropout(nn.functional.gelu(self.hidden(self.dropout(x)))))


class MMoLRE(nn.Module):
    """Multimodal Mixture of Low-Rank Experts (Zhang et al., ICME 2025).

    Per modality an input projection and UniTSE blocks, per task a fusion and a head. A modality may be absent from an
    utterance (no True in its mask) or from the whole batch (left out of ``features``).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        names, width = config.modalities, config.width
        self.uppers = nn.ModuleDict({m: Upper(c.adapted) for m, c in names.items() if c.adapted})
        self.inputs = nn.ModuleDict({m: InputProjection(c, width, config.dropout) for m, c in names.items()})
        trunk = {"unitse": UniTSE, "ple": PLE}[config.trunk]
        self.unitse = nn.ModuleDict({m: trunk(config) for m in names})
        self.placeholders = nn.ParameterDict(
            {m: nn.Parameter(torch.randn(len(config.tasks), width) * 0.02) for m in names if len(names) > 1}
        )
        fusions = len(config.tasks) if config.fusion == "task" else 1
        self.fusion = nn.ModuleList(TaskFusion(config) for _ in range(fusions))
        self.heads = nn.ModuleDict({t: Head(width, TASK_OUTPUTS[t], config.dropout) for t in config.tasks})
        self.unimodal_heads = nn.ModuleDict(
            {
                t: nn.ModuleDict({m: nn.Linear(width, TASK_OUTPUTS[t]) for m in names})
                for t in config.tasks
                if config.unimodal_heads
            }
        )

    def forward(self, features: dict[str, Tensor], masks: dict[str, Tensor], *, each_alone: bool = False) -> Output:
        """Predict.

        Args:
            features: modality -> (B, T_m, L_m, width_m) float; of an encoder that adapts, what enters
                :class:`~mmolre.model.upper.Upper`. What stands at padding is never read.
            masks: modality -> (B, T_m) bool, True at real positions. A row without any True is an absent modality.
            each_alone: also predict from each modality as if the others were absent. What is extracted of a modality
                does not depend on the others, so this costs a fusion each and no second pass.

        Raises:
            ValueError: an unknown modality, or an utterance that has none at all.
        """
        if unknown := set(features) - set(self.config.modalities):
            raise ValueError(f"unknown modalities {sorted(unknown)}; the model knows {list(self.config.modalities)}")
        if not features:
            raise ValueError("no modality given")
        # Brought here once: each look at what is on a GPU waits for it.
        present = dict(zip(features, torch.stack([masks[m].any(dim=1) for m in features]).cpu(), strict=True))
        if not torch.stack(list(present.values())).any(dim=0).all():
            raise ValueError("every utterance needs at least one modality")
        batch = next(iter(features.values())).shape[0]

        extracted: dict[str, _Extracted] = {}
        unimodal: dict[str, dict[str, tuple[Tensor, Tensor]]] = {t: {} for t in self.config.tasks}
        routing: list[Routing] = []
        balances: list[Tensor] = []
        for name in self.config.modalities:
            if name not in features or not present[name].any():
                continue
            x, mask = features[name], masks[name]
            rows = present[name].nonzero().squeeze(1).to(mask.device)
            if len(rows) < batch:
                x, mask = x[rows], mask[rows]
            # Padding may hold anything, NaN included: it must not reach a product.
            x = x.masked_fill(~mask[..., None, None], 0.0)
            if name in self.uppers:
                x, mask = self.uppers[name](x, mask)
            values, gates, balance = self.unitse[name](self.inputs[name](x), mask)
            extracted[name] = _Extracted(values, mask, rows)
            balances.append(balance)
            for b, block in enumerate(gates):
                for task, decision in zip(self.config.tasks, block, strict=False):
                    routing.append(Routing(name, b, task, decision.weights, decision.probabilities, rows, mask))
            if self.config.unimodal_heads:
                for task, own in zip(self.config.tasks, values.unbind(0), strict=True):
                    mean = (own * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                    head = self.unimodal_heads[task][name]  # type: ignore[index]
                    unimodal[task][name] = (_squeeze(task, head(mean)), rows)

        predictions, weights = self._fused(extracted, batch)
        alone: dict[str, dict[str, tuple[Tensor, Tensor]]] = {t: {} for t in self.config.tasks}
        for name, own in extracted.items() if each_alone else ():
            count = len(own.rows)
            everywhere = own._replace(rows=torch.arange(count, device=own.rows.device))
            for task, values in self._fused({name: everywhere}, count)[0].items():
                alone[task][name] = (values, own.rows)
        return Output(predictions, unimodal, alone, torch.stack(balances).mean(), routing, weights)

    def _fused(self, extracted: dict[str, _Extracted], batch: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Task -> prediction, and task -> weights of the modalities, from the modalities in ``extracted``."""
        predictions, weights = {}, {}
        for k, task in enumerate(self.config.tasks):
            sequences = {
                name: self._placed(name, k, extracted[name], batch)
                if name in extracted
                else self._absent(name, k, batch)
                for name in self.config.modalities
            }
            fused = self.fusion[k % len(self.fusion)](sequences)
            predictions[task] = _squeeze(task, self.heads[task](fused.vector))
            weights[task] = fused.weights
        return predictions, weights

    def _absent(self, name: str, k: int, batch: int) -> Sequence:
        placeholder = self.placeholders[name][k].expand(batch, 1, -1)
        here = placeholder.new_ones(batch, 1, dtype=torch.bool)
        return Sequence(placeholder, here, ~here[:, 0])

    def _placed(self, name: str, k: int, extracted: _Extracted, batch: int) -> Sequence:
        """Rows of the utterances that have the modality back among those that have not."""
        x, mask, rows = extracted.values[k], extracted.mask, extracted.rows
        if len(rows) == batch:
            return Sequence(x, mask, mask.new_ones(batch))
        values = x.new_zeros(batch, *x.shape[1:])
        values[:, 0] = self.placeholders[name][k]
        full_mask = mask.new_zeros(batch, mask.shape[1])
        full_mask[:, 0] = True
        present = mask.new_zeros(batch).index_fill(0, rows, True)
        return Sequence(values.index_copy(0, rows, x), full_mask.index_copy(0, rows, mask), present)

    def save_pretrained(self, folder: Path | str, *, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors`` (optionally in another dtype, e.g. float16) into a folder.

        Of an encoder that adapts, only what has learned is written, always as float16.
        """
        from safetensors.torch import save

        folder = Path(folder)
        parameters = dict(self.named_parameters())  # buffers keep their own: a mean may be beyond float16's range
        state = {}
        for name, tensor in saved_state(self).items():
            kept = torch.float16 if name.startswith("uppers.") else dtype
            state[name] = tensor.detach().to(kept if kept and name in parameters else tensor.dtype).contiguous().cpu()
        with replacing(folder / WEIGHTS_FILE) as beside:
            # Written by Python: safetensors' own writer reports a full disk by an error of its own, without a code.
            beside.write_bytes(save(state))
        write_text(folder / CONFIG_FILE, json.dumps(self.config.model_dump(mode="json"), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, name: Path | str) -> Self:
        """Load a model from a folder, or by its id from the model hub. Weights become float32.

        What does not learn of an encoder that adapts is still to be brought by ``Upper.load_base``
        (:func:`mmolre.bundle.load_bundle` does).

        Raises:
            UserError: nothing there, or the two files do not fit each other.
        """
        folder = resolve(name)
        try:
            config = ModelConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
            state = _read_weights(folder / WEIGHTS_FILE)
        except FileNotFoundError as error:
            raise UserError(f"{folder} holds no model: {Path(error.filename).name} is missing") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"{folder / CONFIG_FILE}: {where}: {first['msg']}") from None
        try:
            model = cls(config)
        except (UserError, RuntimeError, KeyError, MemoryError) as error:  # of an encoder that adapts, or its size
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{folder / CONFIG_FILE}: no model can be made of it: {reason[:300]}") from None
        try:
            load_saved(model, {k: v.float() for k, v in state.items()})
        except RuntimeError as error:
            line = " ".join(str(error).split())
            raise UserError(f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}: {line[:300]}") from None
        return model.eval()

    def parameters_by_part(self) -> dict[str, int]:
        """Trainable parameters per part of the model, e.g. for a table."""
        parts = self.named_children()
        return {name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in parts}


def resolve(name: Path | str) -> Path:
    """A folder with a model: ``name`` itself, or a snapshot of the hub repository of that id."""
    folder, text = Path(name), str(name)
    if text and folder.is_dir():
        return folder
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        there = text or "an empty name"
        raise UserError(f"no model at {there}: give a run's folder, a model's folder, or a hub id such as owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"no folder {name} here, and the hub gave no model of that id: {reason}") from None


def _read_weights(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(2, "missing", str(path))
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None


def is_part_of(name: str, modalities: Collection[str]) -> bool:
    """Whether a parameter or buffer of a model, by its name, serves one of these modalities alone: what adapts of its
    encoder, its projection, experts or auxiliary heads."""
    place = name.split(".")
    own = {"uppers": 1, "inputs": 1, "unitse": 1, "unimodal_heads": 2}
    return place[0] in own and place[own[place[0]]] in modalities


def _squeeze(task: str, x: Tensor) -> Tensor:
    return x.squeeze(-1) if task == "sentiment" else x
