"""The parts of a transformers encoder, whatever its kind calls them: the stack of layers and what stands around it."""

from typing import TYPE_CHECKING, Any

from mmolre.errors import UserError

if TYPE_CHECKING:
    from torch import nn

ATTENTION = {
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "xlm-roberta": ("query", "value"),
    "camembert": ("query", "value"),
    "mpnet": ("q", "v"),
    "whisper": ("q_proj", "v_proj"),
    "data2vec-audio": ("q_proj", "v_proj"),
    "wav2vec2": ("q_proj", "v_proj"),
    "hubert": ("q_proj", "v_proj"),
}
"""Kinds of encoders whose upper layers can be run alone -> their query and value projections, LoRA's usual place."""


def layers_of(model: Any) -> "nn.ModuleList | None":
    """The stack of layers of a loaded encoder; ``None`` where it is not of a kind that is known here."""
    owner = getattr(model, "encoder", model)  # Whisper's encoder is its own owner
    if model.config.model_type not in ATTENTION:
        return None
    return owner.layer if hasattr(owner, "layer") else owner.layers


def cut(model: Any, count: int) -> Any:
    """Drop the layers above the lowest ``count`` (at least one stays): nobody will ask for what they give."""
    layers = layers_of(model)
    if layers is not None:
        del layers[max(count, 1) :]
    return model


def parts(model: Any, first: int, tokens: bool) -> "dict[str, nn.Module]":
    """What turns hidden state ``first`` (or, with ``tokens``, token ids) into all higher ones.

    Returns:
        ``layers``, those above; where there are such: ``embeddings``, with ``tokens``; ``norm`` after the last layer;
        ``relative``, the owner of a relative position bias that all layers share, without its layers.
    """
    from torch import nn

    layers = layers_of(model)
    kind = model.config.model_type
    if layers is None or getattr(model.config, "do_stable_layer_norm", False):
        raise UserError(f"an encoder of the kind {kind} cannot be adapted here; known kinds: {', '.join(ATTENTION)}")
    found: dict[str, nn.Module] = {"layers": layers[first:]}
    if tokens:
        found["embeddings"] = model.embeddings
    if kind == "whisper":
        found["norm"] = model.layer_norm
    if kind == "mpnet":
        found["relative"] = model.encoder
        model.encoder.layer = nn.ModuleList()
    return found


def skeleton(config: Any) -> Any:
    """The encoder of a configuration on the meta device: all shapes and no numbers, at next to no cost."""
    import torch
    from transformers import AutoModel
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    # Of Whisper the encoder alone: what a configuration says of the decoder need not fit.
    with torch.device("meta"):
        if config.model_type == "whisper":
            return WhisperEncoder._from_config(config, attn_implementation="sdpa")
        attention = "sdpa" if config.model_type != "mpnet" else "eager"
        return AutoModel.from_config(config, attn_implementation=attention, trust_remote_code=False)
