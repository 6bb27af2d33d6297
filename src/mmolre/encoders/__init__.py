"""Pretrained encoders of text and audio: where weights come from, and features from them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmolre.encoders.base import Encoder


def from_spec(spec: Mapping[str, Any], device: str = "cpu") -> "Encoder":
    """The encoder that gave ``spec`` as its ``spec``; its weights are not loaded yet.

    Raises:
        UserError: an unknown modality or option value.
        TypeError: an unknown option.
    """
    from mmolre.errors import UserError

    options = dict(spec)
    modality = options.pop("modality", None)
    if modality == "text":
        from mmolre.encoders.text import TextEncoder

        return TextEncoder(**options, device=device)
    if modality == "audio":
        from mmolre.encoders.audio import AudioEncoder

        return AudioEncoder(**options, device=device)
    raise UserError(f"an encoder is for text or audio, not for {modality!r}")
