"""Read Whisper's encoder out of a CTranslate2 ``model.bin``.

The format is that of CTranslate2's own converter (binary version 6, little-endian): a header; the variables, each with
name, shape, type and bytes; aliases, which name a variable a second time. Every length in the file is checked against
what is left of it before it is used.
"""

import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmolre.errors import UserError

if TYPE_CHECKING:
    import torch

_VERSION = 6
_TYPES = ("<f4", "i1", "<i2", "<i4", "<f2", "bfloat16")  # in the order of CTranslate2's type ids
_MAX_DIMENSIONS = 8


class _Reader:
    def __init__(self, buffer: Any):
        self.buffer = buffer
        self.offset = 0

    def take(self, count: int) -> int:
        """Step over ``count`` bytes and return where they begin."""
        begin = self.offset
        if count > len(self.buffer) - begin:
            raise ValueError(f"cut off at byte {begin}")
        self.offset += count
        return begin

    def number(self, code: str) -> int:
        return struct.unpack_from("<" + code, self.buffer, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        count = self.number("H")
        begin = self.take(count)
        raw = bytes(self.buffer[begin : begin + count])
        if not raw.endswith(b"\0"):
            raise ValueError(f"no string at byte {begin}")
        return raw[:-1].decode("utf-8")


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """The variables of a ``model.bin`` by name, aliases resolved; read-only views of the memory-mapped file.

    float16, float32 and the integer types come as stored (see :func:`dequantized`); bfloat16 comes as float32.

    Raises:
        UserError: not such a file, cut off, or of a version that is not known.
    """
    try:
        with path.open("rb") as file:
            return _read(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped: ValueError
        raise UserError(f"{path} is not a sound CTranslate2 model: {error}") from error


def _read(buffer: mmap.mmap) -> dict[str, np.ndarray]:
    reader = _Reader(buffer)
    if (version := reader.number("I")) != _VERSION:
        raise ValueError(f"binary version {version} instead of {_VERSION}")
    reader.string()  # the model's kind; what is needed of it is checked by its variables
    reader.number("I")
    variables: dict[str, np.ndarray] = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        if (rank := reader.number("B")) > _MAX_DIMENSIONS:
            raise ValueError(f"variable {name} has {rank} dimensions")
        shape = [reader.number("I") for _ in range(rank)]
        if (type_id := reader.number("B")) >= len(_TYPES):
            raise ValueError(f"variable {name} has unknown type {type_id}")
        size = reader.number("I")
        begin = reader.take(size)
        stored = np.dtype("<u2" if _TYPES[type_id] == "bfloat16" else _TYPES[type_id])
        count = 1
        for length in shape:
            count *= length
        if count * stored.itemsize != size:
            raise ValueError(f"variable {name} has {size} bytes, which is not its shape {shape}")
        values = np.frombuffer(buffer, stored, count, begin).reshape(shape)
        if _TYPES[type_id] == "bfloat16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        variables[name] = values
    for _ in range(reader.number("I")):
        alias, name = reader.string(), reader.string()
        if name not in variables:
            raise ValueError(f"alias {alias} of nothing")
        variables[alias] = variables[name]
    return variables


def dequantized(variables: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A weight as float32; quantized ones (int8 by row, int16 as a whole) are divided by their stored scale."""
    values = variables[name]
    scale = variables.get(f"{name}_scale")
    if scale is None:
        return values.astype(np.float32)
    if not (scale > 0).all():
        raise ValueError(f"{name} has a scale that is not positive")
    return values.astype(np.float32) / scale.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))


def load_whisper_encoder(path: Path) -> "torch.nn.Module":
    """The encoder inside a CTranslate2 Whisper as transformers' ``WhisperEncoder``, float32, in eval mode.

    Raises:
        UserError: the file is damaged, or is not a Whisper.
    """
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    variables = read_variables(path)
    try:
        width, mels, _ = variables["encoder/conv1/weight"].shape
        layers = sum(name.endswith("/ffn/linear_0/bias") and name.startswith("encoder/") for name in variables)
        config = WhisperConfig(
            d_model=width,
            num_mel_bins=mels,
            encoder_layers=layers,
            encoder_attention_heads=int(variables["encoder/num_heads"]),
            encoder_ffn_dim=variables["encoder/layer_0/ffn/linear_0/bias"].shape[0],
            max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
        )
        encoder = WhisperEncoder(config)
        encoder.load_state_dict(whisper_state(variables, layers))
    except Exception as error:  # a damaged file can be wrong in any way, down to no attention heads
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} does not hold a Whisper encoder: {reason}") from error
    return encoder.eval()


def whisper_state(variables: dict[str, np.ndarray], layers: int) -> "dict[str, torch.Tensor]":
    """CTranslate2's names to those of transformers' ``WhisperEncoder``, for a Whisper with ``layers`` encoder layers.

    Raises:
        KeyError: a variable is missing.
        ValueError: a shape does not fit.
    """
    import torch

    state = {"embed_positions.weight": dequantized(variables, "encoder/position_encodings/encodings")}

    def copy(theirs: str, ours: str) -> None:
        names = ("gamma", "beta") if theirs.endswith("layer_norm") else ("weight", "bias")
        for name, parameter in zip(names, ("weight", "bias"), strict=True):
            state[f"{ours}.{parameter}"] = dequantized(variables, f"encoder/{theirs}/{name}")

    copy("conv1", "conv1")
    copy("conv2", "conv2")
    copy("layer_norm", "layer_norm")
    for i in range(layers):
        copy(f"layer_{i}/self_attention/layer_norm", f"layers.{i}.self_attn_layer_norm")
        copy(f"layer_{i}/self_attention/linear_1", f"layers.{i}.self_attn.out_proj")
        copy(f"layer_{i}/ffn/layer_norm", f"layers.{i}.final_layer_norm")
        copy(f"layer_{i}/ffn/linear_0", f"layers.{i}.fc1")
        copy(f"layer_{i}/ffn/linear_1", f"layers.{i}.fc2")
        # Query, key and value are one product there. Whisper's key has no bias: a zero one was put in to fuse them.
        fused = f"encoder/layer_{i}/self_attention/linear_0"
        weights = np.split(dequantized(variables, f"{fused}/weight"), 3)
        biases = np.split(dequantized(variables, f"{fused}/bias"), 3)
        for part, weight, bias in zip("qkv", weights, biases, strict=True):
            state[f"layers.{i}.self_attn.{part}_proj.weight"] = weight
            if part != "k":
                state[f"layers.{i}.self_attn.{part}_proj.bias"] = bias
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in state.items()}
