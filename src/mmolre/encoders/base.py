"""What text and audio encoders have in common: weights, chosen layers, an identity that needs no loading."""

import abc
import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmolre.data.cache import Features
from mmolre.encoders.stack import cut
from mmolre.encoders.weights import SOURCES, digest, locate
from mmolre.errors import UserError
from mmolre.schema import Surroundings

if TYPE_CHECKING:
    import torch

    from mmolre.encoders.text import Excerpt

_FORMAT = 1  # part of every fingerprint; raised when the code here changes what an encoder gives
LOCAL = {"local_files_only": True, "trust_remote_code": False}
"""For all that transformers reads from a folder: nothing is fetched, and no code in it is run, or asked about."""
_UNUSED = ("pooler", "masked_spec_embed")  # parts whose weights nothing here depends on
_SUFFIXES = (".safetensors", ".json", ".txt", ".model")


class Encoder(abc.ABC):
    """A pretrained encoder, frozen. Costs nothing until it first encodes: its weights are loaded only then.

    Args:
        source: a role (``mmolre encoders list``), a folder, or an id of the model hub (``id@revision`` too).
        layers: indices into the hidden states: 0 is what enters the first layer, -1 what leaves the last one.
        device: where torch runs it.

    Attributes:
        modality: ``text`` or ``audio``.
    """

    modality: ClassVar[str]

    def __init__(self, source: str, layers: Sequence[int] = (-1,), device: str = "cpu"):
        if not layers:
            raise UserError(f"{self.modality} encoder {source!r}: choose at least one layer, e.g. -1 for the last")
        self.source = str(source)
        self.layers = tuple(int(layer) for layer in layers)
        self.device = device
        role = SOURCES.get(self.source)
        if role and role.modality != self.modality:
            raise UserError(f"encoder {source!r} is for {role.modality}, not for {self.modality}")
        self._role = role

    @property
    @abc.abstractmethod
    def _options(self) -> dict[str, Any]:
        """What else decides the features, JSON-able."""

    @cached_property
    def module(self) -> "torch.nn.Module":
        """The torch module, in eval mode on :attr:`device`; loaded on first use."""
        model = self._load_model()
        if min(self.layers) >= 0:
            cut(model, max(self.layers))
        return model.to(self.device).eval()

    def whole(self) -> "torch.nn.Module":
        """The encoder with all its layers, loaded anew at each call, on the CPU: what an adapted one starts from."""
        return self._load_model()

    @property
    def spec(self) -> dict[str, Any]:
        """What :func:`mmolre.encoders.from_spec` needs to build this encoder again; JSON-able."""
        return {"modality": self.modality, "source": self.source, "layers": list(self.layers), **self._options}

    @property
    def config(self) -> Any:
        """The encoder's configuration in transformers' words."""
        return self._config

    @property
    def n_layers(self) -> int:
        """L: how many layers were chosen."""
        return len(self.layers)

    @cached_property
    def folder(self) -> Path:
        """Where the weights lie, checked. Raises UserError where they are not installed."""
        return locate(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits, the same iff weights, tokenizer and options are. Loads nothing.

        Raises:
            UserError: a folder or hub id that is not there. (A role's hashes are known without its files.)
        """
        if self._role:
            files = self._role.files
        else:
            names = [p for p in self.folder.iterdir() if p.suffix in _SUFFIXES or p.name == "model.bin"]
            files = {path.name: digest(path) for path in names}
        identity = [_FORMAT, self.modality, files, list(self.layers), self._options]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @cached_property
    def width(self) -> int:
        """d: the width of the hidden states."""
        return self._role.width if self._role else int(self._config.hidden_size)

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        with self._loading():
            return AutoConfig.from_pretrained(self.folder, **LOCAL)

    @abc.abstractmethod
    def check(self, item: Any) -> str | None:
        """Why ``item`` cannot be encoded, in a few words; ``None`` where it can. Loads nothing."""

    def excerpt(self, text: str, surroundings: Surroundings | None) -> "str | Excerpt":
        """What of a text and its surroundings is read; here the text alone."""
        return text

    @abc.abstractmethod
    def encode(self, items: Sequence[Any]) -> list[Features]:
        """The features of each item, in their order."""

    def _load_model(self) -> Any:
        """The folder's model, from safetensors only: a pickled file can run anything.

        Raises:
            UserError: there is none, or its weights are not those of its configuration: transformers would draw what is
                missing at random, anew each time.
        """
        from transformers import AutoModel

        if not any(self.folder.glob("*.safetensors")):
            raise UserError(
                f"encoder {self.source!r} has no .safetensors weights in {self.folder}, and pickled ones are never "
                "opened: name a revision that has them (id@refs/pr/N on the hub), or convert weights that you trust "
                "with transformers' save_pretrained"
            )
        with self._loading():
            model, found = AutoModel.from_pretrained(
                self.folder, **LOCAL, use_safetensors=True, output_loading_info=True
            )
        missing = sorted(name for name in found["missing_keys"] if not any(part in name for part in _UNUSED))
        if missing:
            raise UserError(
                f"encoder {self.source!r}: {len(missing)} of its weights are not in {self.folder}, e.g. {missing[0]}: "
                "are the names those that transformers' save_pretrained gives?"
            )
        return model

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        """Transformers without its progress bars and notes, and its many kinds of errors as one line."""
        from transformers.utils import logging

        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"cannot load the {self.modality} encoder {self.source!r}: {reason}") from error
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()

    def _choose(self, states: "Sequence[torch.Tensor]") -> "torch.Tensor":
        """Hidden states, each (B, T, d), to the chosen ones, (B, T, L, d)."""
        import torch

        for layer in self.layers:
            if not -len(states) <= layer < len(states):
                raise UserError(
                    f"{self.modality} encoder {self.source!r} has no layer {layer}: "
                    f"it has 0 to {len(states) - 1} (or -1 for the last)"
                )
        return torch.stack([states[layer] for layer in self.layers], dim=2)


def to_float16(values: "torch.Tensor") -> np.ndarray:
    """To numpy float16; what lies beyond its range is brought to its ends, since some layers have huge outliers."""
    import torch

    largest = torch.finfo(torch.float16).max
    return values.clamp(-largest, largest).to(torch.float16).cpu().numpy()
