"""Text to token-level features."""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mmolre.data.cache import Features
from mmolre.encoders.base import Encoder, to_float16
from mmolre.encoders.stack import skeleton
from mmolre.errors import UserError

_BATCH_TOKENS = 4096  # padding included; larger batches are no faster on a CPU and need more memory


ID_BASE = 2048
"""A token's id is kept as two digits to this base: float16 holds integers exactly up to it, and no further."""


class TextError(UserError):
    """A text that cannot be encoded."""


class TextEncoder(Encoder):
    """A pretrained transformer over tokens. One time step is one token, the special ones (CLS, SEP) included.

    Args:
        source, layers, device: as for :class:`~mmolre.encoders.base.Encoder`.
        max_tokens: cut texts at so many tokens, special ones included; by default, and at most, at the model's window
            (512 for BERT and RoBERTa).
        tokens: stop before the embeddings: the features are the tokens' ids, (T, 1, 2) digits to the base
            :data:`ID_BASE`; ``layers`` then means nothing. For an encoder that adapts as a whole.
        lower_if_upper: put texts that are upper case throughout into lower case, for tokenizers that know the
            difference.
    """

    modality = "text"

    def __init__(
        self,
        source: str,
        layers: Sequence[int] = (-1,),
        max_tokens: int | None = None,
        tokens: bool = False,
        lower_if_upper: bool = False,
        device: str = "cpu",
    ):
        super().__init__(source, layers, device)
        if max_tokens is not None and max_tokens < 3:
            raise UserError(f"max_tokens is {max_tokens}: at least 3 are needed, two of them for special tokens")
        self.max_tokens = max_tokens
        self.tokens = tokens
        self.lower_if_upper = lower_if_upper

    @property
    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"max_tokens": self.max_tokens}
        # Off, they are left out: what was encoded before they were options stays valid.
        return options | {name: True for name in ("tokens", "lower_if_upper") if getattr(self, name)}

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers that belongs to the weights."""
        from transformers import AutoTokenizer

        with self._loading():
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    @cached_property
    def window(self) -> int:
        """The most tokens of one text that are encoded, special ones included."""
        limits = [self.tokenizer.model_max_length]
        if self.max_tokens is not None:
            limits.append(self.max_tokens)
        model = skeleton(self.config) if self.tokens else self.module
        embeddings = getattr(model, "embeddings", None)
        positions = getattr(embeddings, "position_embeddings", None)
        if positions is not None:
            # RoBERTa and its kin count positions from padding_idx + 1, so their first ones are never used.
            unused = 0 if positions.padding_idx is None else positions.padding_idx + 1
            limits.append(positions.num_embeddings - unused)
        return min(limits)

    def check(self, item: str) -> str | None:
        if not any(char.isprintable() and not char.isspace() for char in item):
            return "the text is empty"
        if item.isascii():
            return None
        try:
            item.encode()
        except UnicodeEncodeError:
            return "the text is not valid Unicode (a lone surrogate)"
        if self._role and self._role.english_only:
            letters = [char for char in item if char.isalpha()]
            latin = sum(unicodedata.name(char, "").startswith(("LATIN", "FULLWIDTH LATIN")) for char in letters)
            if 2 * latin < len(letters):
                return f"the text is not in Latin letters, and encoder {self.source!r} knows English only"
        return None

    def encode(self, items: Sequence[str]) -> list[Features]:
        """Token-level features of each text, in order; independent of what it is batched with up to rounding.

        Raises:
            TextError: a text that :meth:`check` refuses; says which.
            UserError: the weights are not installed, or cannot be loaded.
        """
        for number, text in enumerate(items, 1):
            if reason := self.check(text):
                raise TextError(f"text {number} of {len(items)}: {reason}")
        if not items:
            return []
        if self.lower_if_upper:
            items = [text.lower() if text.isupper() else text for text in items]
        window = self.window
        ids = self.tokenizer(list(items), add_special_tokens=True, verbose=False)["input_ids"]
        long = [i for i, tokens in enumerate(ids) if len(tokens) > window]
        if long:
            cut = self.tokenizer([items[i] for i in long], truncation=True, max_length=window)["input_ids"]
            for i, tokens in zip(long, cut, strict=True):
                ids[i] = tokens
        truncated = set(long)
        if self.tokens:
            return [Features(_digits(tokens), i in truncated) for i, tokens in enumerate(ids)]
        done: dict[int, Features] = {}
        for batch in _batches([len(tokens) for tokens in ids]):
            for i, values in zip(batch, self._encode_batch([ids[i] for i in batch]), strict=True):
                done[i] = Features(values, i in truncated)
        return [done[i] for i in range(len(items))]

    def _encode_batch(self, ids: list[list[int]]) -> Iterator[Any]:
        import torch

        lengths = [len(tokens) for tokens in ids]
        padding = self.tokenizer.pad_token_id or 0
        tokens = torch.full((len(ids), max(lengths)), padding, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, sequence in enumerate(ids):
            tokens[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        with torch.inference_mode():
            states = self.module(
                input_ids=tokens.to(self.device), attention_mask=mask.to(self.device), output_hidden_states=True
            ).hidden_states
            values = to_float16(self._choose(states))
        for row, length in enumerate(lengths):
            yield values[row, :length].copy()


def _digits(ids: list[int]) -> np.ndarray:
    return np.stack(np.divmod(np.array(ids), ID_BASE), axis=1)[:, None].astype(np.float16)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of like length, each at most ``_BATCH_TOKENS`` long with its padding (or a single text)."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
