"""The upper layers of a pretrained encoder as a part of the model, so that they learn with it.

The frozen layers below run once, and what leaves them is kept as features. Where all layers adapt, the features are the
ids of the tokens, and the embeddings are run here too.
"""

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmolre.encoders.stack import ATTENTION, parts, skeleton
from mmolre.encoders.text import ID_BASE
from mmolre.errors import UserError
from mmolre.model.config import AdaptedConfig, LoraConfig

_BRINGING = threading.Lock()
"""Held while weights are brought and adapters folded: a second thread would take what is half done. Not a model's own,
for models are copied and sent to other processes."""


class Upper(nn.Module):
    """Layers ``first`` + 1 to the last of a transformers encoder.

    The weights are 0 until :meth:`load_base`, :attr:`base` or ``load_state_dict`` brings them. Parameters that do not
    learn (under LoRA all but the adapters; else embeddings that stay frozen) do not require a gradient and are not
    saved with a model: they are the encoder's.

    Attributes:
        base: where set, gives the whole pretrained encoder, from which the parameters that do not learn come when they
            are first needed: who predicts from words alone need not have the voices' encoder.
    """

    base: Callable[[], nn.Module] | None

    def __init__(self, config: AdaptedConfig) -> None:
        super().__init__()
        self.base = None
        self.folds = self.folded = self._checked = False
        from transformers import AutoConfig

        options = dict(config.config)
        self.config = config
        try:
            self.encoder = AutoConfig.for_model(options.pop("model_type", None), **options)
            self.kind: str = self.encoder.model_type
            made = self._parts(skeleton(self.encoder))
        except UserError:
            raise
        except Exception as error:  # of transformers, of any kind
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"the configuration of the encoder that adapts cannot be used here: {reason[:200]}"
            ) from None
        if max(config.states) > (top := config.first + len(made["layers"])):  # type: ignore[arg-type]
            raise UserError(f"the encoder that adapts has no layer {max(config.states)}: it has 0 to {top}")
        for name, part in made.items():
            if name == "embeddings":  # has buffers, which the meta device would lose
                part = type(part)(self.encoder)
                part.apply(_zero)
            else:
                part.to_empty(device="cpu").apply(_zero)
            self.add_module(name, part)
        if config.first == 0 and not config.tokens:  # the embeddings' own, which the stored features are without
            self.entry = nn.Dropout(getattr(self.encoder, "hidden_dropout", getattr(self.encoder, "dropout", 0.0)))
        for name, parameter in self.named_parameters():
            shared = name.startswith(("embeddings.", "relative."))  # the relative bias is the lower layers' too
            parameter.requires_grad_(config.lora is None and (config.embeddings or not shared))
        if config.lora:
            _add_adapters(self.layers, config.lora, self.kind)  # type: ignore[arg-type]

    def _parts(self, model: Any) -> dict[str, nn.Module]:
        return parts(model, self.config.first, self.config.tokens)

    @property
    def needs_base(self) -> bool:
        """Whether some of the weights are the encoder's own."""
        return not all(parameter.requires_grad for parameter in self.parameters())

    @torch.no_grad()
    def load_base(self, model: nn.Module, *, frozen_only: bool = False) -> None:
        """Take the weights of the whole pretrained encoder ``model``; adapters stay as they are.

        Args:
            frozen_only: only those that do not learn here.
        """
        for name, part in self._parts(model).items():
            state = part.state_dict()
            for key, parameter in getattr(self, name).named_parameters():
                if "lora_" not in key and not (frozen_only and parameter.requires_grad):
                    parameter.copy_(state[key.replace(".base_layer.", ".")])

    def ensure_base(self) -> None:
        """Bring the weights of :attr:`base`, where that has not been done; several threads may call it at once.

        Raises:
            UserError: they are not installed, or cannot be loaded.
        """
        if self.base is None:
            return
        with _BRINGING:
            if self.base is not None:
                self.load_base(self.base(), frozen_only=True)
                if self.folds:
                    self._fold()
                self.base = None  # at last: who sees it goes on at once

    def _check_base(self) -> None:
        """A :class:`UserError` where the weights that do not learn are still the zeros of the beginning."""
        if not self._checked:
            frozen = [p for n, p in self.named_parameters() if "lora_" not in n and p.ndim > 1 and not p.requires_grad]
            if frozen and not any(bool(parameter.any()) for parameter in frozen):
                raise UserError(
                    "the pretrained weights of an encoder that adapts are not there, only what has learned: load the "
                    "model with mmolre.load(…).bundle.model, which brings them"
                )
            self._checked = True

    @torch.no_grad()
    def fold(self) -> None:
        """Add the adapters' products to the weights beside them and drop the adapters, as soon as these weights are
        there: the same states but for rounding, in fewer products. What is folded can neither learn nor be saved."""
        if self.config.lora is None:
            return
        if self.base is not None:
            self.folds = True
        else:
            self._fold()

    @torch.no_grad()
    def _fold(self) -> None:
        from peft.tuners.lora import LoraLayer

        adapted = {name: module for name, module in self.named_modules() if isinstance(module, LoraLayer)}
        for name, module in adapted.items():
            module.merge()
            self.set_submodule(name, module.get_base_layer())
        self.folded = True

    def depth(self, name: str) -> int:
        """How many layers stand above the one that the parameter ``name`` belongs to; embeddings are below all."""
        part, _, rest = name.partition(".")
        count = len(self.layers)  # type: ignore[arg-type]
        if part == "layers":
            return count - 1 - int(rest.partition(".")[0])
        return 0 if part == "norm" else count

    def forward(self, x_btlw: Tensor, mask_bt: Tensor) -> tuple[Tensor, Tensor]:
        """Run the layers.

        Args:
            x_btlw: (B, T, L, width), the stored hidden states ``config.given``; with ``tokens`` (B, T, 1, 2), digits
                of ids, or (B, T, 1, width), their word embeddings, without padding. What stands at padding is finite
                and has no effect. With ``surroundings`` one column more: 1 at own positions, of which each row has one.
            mask_bt: (B, T) bool, True at real positions; each row has one.

        Returns:
            The states ``config.states``, (B, T', L', width), T' = ceil(T / stride), 0 at padding; and their mask.
            With ``surroundings`` T is the most own positions of a row.
        """
        self.ensure_base()
        self._check_base()
        config = self.config
        own_bt = mask_bt
        if config.surroundings:
            own_bt = (x_btlw[:, :, 0, -1] > 0.5) & mask_bt
            x_btlw = x_btlw[..., :-1]
        states: dict[int, Tensor] = {}
        if config.tokens and x_btlw.shape[-1] != 2:
            x = states[0] = self.embeddings(inputs_embeds=x_btlw[:, :, 0])  # type: ignore[operator]
        elif config.tokens:
            digits = x_btlw[:, :, 0].long()
            ids = (digits[..., 0] * ID_BASE + digits[..., 1]).masked_fill(~mask_bt, self.encoder.pad_token_id or 0)
            x = states[0] = self.embeddings(input_ids=ids)  # type: ignore[operator]
        else:
            states = {state: x_btlw[:, :, i] for i, state in enumerate(config.given)}
            x = states[config.first]
            if config.first == 0:
                x = self.entry(x)
        arguments = self._attention(x, mask_bt)
        for i, layer in enumerate(self.layers, config.first + 1):  # type: ignore[arg-type]
            if config.checkpointing and self.training:
                made = checkpoint(layer, x, use_reentrant=False, **arguments)
            else:
                made = layer(x, **arguments)
            x = states[i] = made[0] if isinstance(made, tuple) else made  # type: ignore[assignment]
        if hasattr(self, "norm"):
            states[config.first + len(self.layers)] = self.norm(x)  # type: ignore[operator, arg-type]
        wanted = torch.stack([states[state] for state in config.states], dim=2)
        if config.surroundings:
            wanted, mask_bt = _chosen(wanted, own_bt)
        return _pool(wanted.masked_fill(~mask_bt[..., None, None], 0.0), mask_bt, config.stride)

    def _attention(self, x: Tensor, mask_bt: Tensor) -> dict[str, Any]:
        """What each layer wants beside its input: who may look at whom."""
        if self.kind == "mpnet":
            seen = mask_bt[:, None, None, :]
            mask = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill(~seen, torch.finfo(x.dtype).min)
            bias = self.relative.compute_position_bias(x)  # type: ignore[operator, union-attr]
            return {"attention_mask": mask, "position_bias": bias}
        window = self.encoder.max_source_positions if self.kind == "whisper" else mask_bt.shape[1]
        if mask_bt.shape[1] > window:
            return {"attention_mask": _same_window(mask_bt, window)}
        return {"attention_mask": None if mask_bt.all() else mask_bt[:, None, None, :]}


def saved_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state without what does not learn: that is a pretrained encoder's, and comes from there.

    Raises:
        ValueError: adapters were folded into an encoder's weights, so that what has learned is no longer apart.
    """
    if any(isinstance(part, Upper) and (part.folds or part.folded) for part in module.modules()):
        raise ValueError("its adapters are folded into the encoder: save the model as it is loaded without that")
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


def load_saved(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what :func:`saved_state` gave.

    Raises:
        RuntimeError: the state is not this module's.
    """
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    missing, unexpected = module.load_state_dict(state, strict=False)
    if lacking := sorted(set(missing) - frozen) + unexpected:
        raise RuntimeError(f"missing or unknown tensors: {', '.join(lacking[:5])}")


def _add_adapters(layers: nn.ModuleList, lora: LoraConfig, kind: str) -> None:
    """Put a low-rank adapter beside each target, by peft. It starts as nothing: its second factor is 0."""
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    linear = {name.rpartition(".")[2] for name, module in layers.named_modules() if isinstance(module, nn.Linear)}
    targets = lora.targets or ATTENTION[kind]
    if targets == ("all",):
        targets = tuple(sorted(linear))
    if unknown := set(targets) - linear:
        raise UserError(f"lora targets {', '.join(sorted(unknown))}: a {kind} has {', '.join(sorted(linear))}")
    inject_adapter_in_model(
        PeftConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(targets)), layers
    )


def _same_window(mask_bt: Tensor, window: int) -> Tensor:
    """(B, 1, T, T): whether two frames lie in the same of the equal windows that a long recording is cut into."""
    lengths = mask_bt.sum(1)
    count = torch.ceil(lengths / window).long()
    # Frame t lies in window i iff floor(T i / count) <= t: the largest such i.
    t = torch.arange(mask_bt.shape[1], device=mask_bt.device)
    which = ((t[None] + 1) * count[:, None] - 1).div(lengths[:, None], rounding_mode="floor")
    # Padding may look anywhere: a row that sees nothing is NaN, and 0 times NaN would reach the others.
    return (((which[:, :, None] == which[:, None, :]) | ~mask_bt[:, :, None]) & mask_bt[:, None, :])[:, None]


def _chosen(x_btlw: Tensor, own_bt: Tensor) -> tuple[Tensor, Tensor]:
    """The own positions of each row, moved to its beginning, and where these are."""
    counts = own_bt.sum(1)
    most = int(counts.max())
    places = own_bt.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    rows = torch.arange(len(places), device=places.device)[:, None]
    return x_btlw[rows, places], torch.arange(most, device=places.device) < counts[:, None]


def _pool(x_btlw: Tensor, mask_bt: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Mean over ``stride`` positions, of those that are real; padding is 0 already."""
    if stride == 1:
        return x_btlw, mask_bt
    short = math.ceil(x_btlw.shape[1] / stride) * stride - x_btlw.shape[1]
    x = nn.functional.pad(x_btlw, (0, 0, 0, 0, 0, short)).unflatten(1, (-1, stride))
    count = nn.functional.pad(mask_bt, (0, short)).unflatten(1, (-1, stride)).sum(2)
    return x.sum(2) / count.clamp(min=1)[..., None, None], count > 0


def _zero(module: nn.Module) -> None:
    for tensor in module.parameters(recurse=False):
        nn.init.zeros_(tensor)
