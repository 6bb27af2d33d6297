"""From a recipe's word on adapting an encoder to what is stored of it and what is run in the model."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mmolre.data.batching import collate
from mmolre.encoders.audio import AudioEncoder
from mmolre.encoders.base import Encoder
from mmolre.encoders.text import TextEncoder
from mmolre.errors import UserError
from mmolre.model.config import AdaptedConfig
from mmolre.model.mmolre import is_part_of
from mmolre.model.upper import Upper
from mmolre.schema import Utterance
from mmolre.train.recipe import EncoderRecipe

FITTED = 1024
"""Up to twice as many utterances, less one, fit the standardisation of an adapted encoder's states."""
PLE_PARTS = {"own": "specific", "gates": "routers", "shared_gate": "routers"}
"""What the parts of PLE's layers are called in ``training.rates``."""


def adapted(part: EncoderRecipe, encoder: Encoder) -> AdaptedConfig | None:
    """What of the encoder runs in the model; ``None`` where it is frozen.

    Args:
        encoder: any of the recipe's source; only its configuration is read.

    Raises:
        UserError: no such layers; a kind of encoder that cannot be adapted.
    """
    if part.adapt == "frozen":
        return None
    config = encoder.config
    count = int(config.num_hidden_layers)
    upper = count if part.upper is None else part.upper
    if upper > count:
        raise UserError(f"encoder {part.source!r} has {count} layers, so its upper {upper} cannot adapt")
    states = []
    for layer in part.layers:
        if not -count - 1 <= layer <= count:
            raise UserError(f"encoder {part.source!r} has no layer {layer}: it has 0 to {count} (or -1 for the last)")
        states.append(layer % (count + 1))
    if max(states) <= count - upper:
        raise UserError(f"encoder {part.source!r}: none of the layers {list(part.layers)} is above what is frozen")
    whole = encoder.modality == "text" and upper == count
    return AdaptedConfig(
        config=config.to_dict(),
        first=count - upper,
        states=tuple(states),
        tokens=whole,
        embeddings=whole and part.adapt == "full" and part.embeddings is not False,
        lora=part.lora if part.adapt == "lora" else None,
        stride=part.stride,
        checkpointing=part.checkpointing,
        surroundings=encoder.modality == "text" and part.surrounding_tokens > 0,
    )


def make_encoder(modality: str, part: EncoderRecipe, device: str, warp: float = 1.0) -> Encoder:
    """The encoder that makes the features: the recipe's layers, or what enters the layers that adapt.

    Args:
        warp: of voices: see :class:`~mmolre.encoders.audio.AudioEncoder`.
    """
    encoder = _encoder(modality, part, part.layers, part.stride, None, device, warp)
    config = adapted(part, encoder)
    if config is None:
        return encoder
    return _encoder(modality, part, config.given, 1, config, device, warp)


def _encoder(
    modality: str,
    part: EncoderRecipe,
    layers: tuple[int, ...],
    stride: int,
    config: AdaptedConfig | None,
    device: str,
    warp: float,
) -> Encoder:
    if modality == "audio":
        return AudioEncoder(part.source, layers, stride, device, warp)
    return TextEncoder(
        part.source,
        layers,
        part.max_tokens,
        config is not None and config.tokens,
        part.lower_if_upper,
        part.surrounding_tokens,
        config is not None and config.surroundings,
        device,
    )


@torch.no_grad()
def states_of(upper: Upper, arrays: list[np.ndarray]) -> Iterator[np.ndarray]:
    """What leaves the layers at the start, (T, L, width) per array; where there are many, of some (:data:`FITTED`)."""
    upper.eval()
    for i in range(0, len(arrays), max(1, len(arrays) // FITTED)):
        batch = collate([Utterance("")], [{"x": arrays[i]}])
        states, mask = upper(batch.features["x"], batch.masks["x"])
        yield states[mask].numpy()
    upper.train()


def parameter_groups(modules: list[torch.nn.Module], training: Any, rates: dict[str, float]) -> list[dict[str, Any]]:
    """What learns, in groups of one weight decay and one peak learning rate each, for AdamW.

    Weights of products decay; biases, norms, placeholders and mixing weights do not.

    Args:
        modules: the model first.
        training: the recipe's ``training``; of its ``only``, no other parameter is in a group.
        rates: modality -> the learning rate of the top layer of its encoder.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``peak``; no group is empty.
    """
    groups: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad or (training.only and not is_part_of(name, training.only)):
                continue
            place = name.split(".")  # by where they stand: modalities and tasks have names of their own
            inner_first = (*(PLE_PARTS.get(part, part) for part in place[4:5]), place[0])
            peak = training.learning_rate * next((training.rates[p] for p in inner_first if p in training.rates), 1.0)
            if name.startswith("uppers."):
                _, modality, inner = name.split(".", 2)
                upper: Upper = module.uppers[modality]  # type: ignore[assignment, index, union-attr]
                peak = rates[modality] * training.layer_decay ** upper.depth(inner)
            decays = parameter.ndim > 1 and place[-1].startswith("weight") and place[0] != "placeholders"
            groups.setdefault((decays, peak), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": training.weight_decay if decays else 0.0, "peak": peak}
        for (decays, peak), parameters in groups.items()
    ]
