"""Text to token-level features."""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mmolre.data.cache import Features
from mmolre.encoders.base import LOCAL, Encoder, to_float16
from mmolre.encoders.stack import skeleton
from mmolre.errors import UserError
from mmolre.schema import Surroundings

_SIDES_AT_ONCE = 1024
_BATCH_TOKENS = 4096  # padding included; larger batches are no faster on a CPU and need more memory


ID_BASE = 2048
"""A token's id is kept as two digits to this base: float16 holds integers exactly up to it, and no further."""


class TextError(UserError):
    """A text that cannot be encoded."""


_TOKEN_CHARACTERS = 16
"""Of surroundings so many characters are looked at for each token that may be read; few tokens are longer."""


class Excerpt(NamedTuple):
    """A text with what was said before and after it; either may be empty."""

    before: str
    text: str
    after: str


class Composed(NamedTuple):
    """The tokens that an encoder reads.

    Attributes:
        ids: all of them.
        own: of each, whether it is the text's own, special ones included, or stands in its surroundings.
        truncated: whether the text itself was cut.
    """

    ids: list[int]
    own: list[bool]
    truncated: bool


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
        surrounding_tokens: read up to so many tokens of what was said around a text with it, half of them on each side
            where both have as many. Features are of the text's own tokens alone, as many as without surroundings.
        surroundings_kept: features are of all tokens, and have a last column that is 1 at the own and 0 at the others;
            for layers that adapt, which read the surroundings too.
    """

    modality = "text"

    def __init__(
        self,
        source: str,
        layers: Sequence[int] = (-1,),
        max_tokens: int | None = None,
        tokens: bool = False,
        lower_if_upper: bool = False,
        surrounding_tokens: int = 0,
        surroundings_kept: bool = False,
        device: str = "cpu",
    ):
        super().__init__(source, layers, device)
        if max_tokens is not None and max_tokens < 3:
            raise UserError(f"max_tokens is {max_tokens}: at least 3 are needed, two of them for special tokens")
        self.max_tokens = max_tokens
        self.tokens = tokens
        self.lower_if_upper = lower_if_upper
        self.surrounding_tokens = surrounding_tokens
        self.surroundings_kept = surroundings_kept

    @property
    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"max_tokens": self.max_tokens}
        # Off, they are left out: what was encoded before they were options stays valid.
        names = ("tokens", "lower_if_upper", "surrounding_tokens", "surroundings_kept")
        return options | {name: getattr(self, name) for name in names if getattr(self, name)}

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers that belongs to the weights."""
        from transformers import AutoTokenizer

        with self._loading():
            return AutoTokenizer.from_pretrained(self.folder, **LOCAL)

    @cached_property
    def window(self) -> int:
        """The most tokens of one text that are encoded, special ones included."""
        return self._limit if self.max_tokens is None else min(self.max_tokens, self._limit)

    @cached_property
    def _limit(self) -> int:
        """The most tokens that the model reads, surroundings included."""
        limits = [self.tokenizer.model_max_length]
        model = skeleton(self.config) if self.tokens else self.module
        embeddings = getattr(model, "embeddings", None)
        positions = getattr(embeddings, "position_embeddings", None)
        if positions is not None:
            # RoBERTa and its kin count positions from padding_idx + 1, so their first ones are never used.
            unused = 0 if positions.padding_idx is None else positions.padding_idx + 1
            limits.append(positions.num_embeddings - unused)
        return min(limits)

    @property
    def english_only(self) -> bool:
        """Whether its weights are known to know no other language."""
        return self._role is not None and self._role.english_only

    def check(self, item: str) -> str | None:
        if not any(char.isprintable() and not char.isspace() for char in item):
            return "the text is empty"
        if item.isascii():
            return None
        try:
            item.encode()
        except UnicodeEncodeError:
            return "the text is not valid Unicode (a lone surrogate)"
        if self.english_only:
            letters = [char for char in item if char.isalpha()]
            latin = sum(unicodedata.name(char, "").startswith(("LATIN", "FULLWIDTH LATIN")) for char in letters)
            if 2 * latin < len(letters):
                return f"the text is not in Latin letters, and encoder {self.source!r} knows English only"
        return None

    def excerpt(self, text: str, surroundings: Surroundings | None) -> str | Excerpt:
        """What :meth:`encode` takes: the text, with as much of its surroundings as this encoder reads."""
        if not self.surrounding_tokens or surroundings is None:
            return text
        sides = surroundings.sides(_TOKEN_CHARACTERS * self.surrounding_tokens)
        before, after = (side.encode(errors="ignore").decode() for side in sides)  # what is no Unicode is left out
        return Excerpt(before, text, after) if before or after else text

    def compose(self, items: Sequence[str | Excerpt]) -> list[Composed]:
        """The tokens of each item: CLS before SEP text SEP after SEP, without a side that is empty and its SEP."""
        excerpts = [item if isinstance(item, Excerpt) else Excerpt("", item, "") for item in items]
        if self.lower_if_upper:
            excerpts = [Excerpt(*(part.lower() if part.isupper() else part for part in p)) for p in excerpts]
        window = self.window
        ids = self.tokenizer([p.text for p in excerpts], add_special_tokens=True, verbose=False)["input_ids"]
        long = [i for i, tokens in enumerate(ids) if len(tokens) > window]
        if long:
            cut = self.tokenizer([excerpts[i].text for i in long], truncation=True, max_length=window)["input_ids"]
            for i, tokens in zip(long, cut, strict=True):
                ids[i] = tokens
        truncated = set(long)
        done = [Composed(tokens, [True] * len(tokens), i in truncated) for i, tokens in enumerate(ids)]
        around = [i for i, p in enumerate(excerpts) if p.before or p.after]
        for side in range(0, len(around), _SIDES_AT_ONCE):
            rows = around[side : side + _SIDES_AT_ONCE]
            sides = [excerpts[i].before for i in rows] + [excerpts[i].after for i in rows]
            coded = self.tokenizer(sides, add_special_tokens=False, verbose=False)["input_ids"]
            for i, before, after in zip(rows, coded[: len(rows)], coded[len(rows) :], strict=True):
                done[i] = self._surround(done[i], before, after)
        return done

    def _surround(self, text: Composed, before: list[int], after: list[int]) -> Composed:
        cls, sep = text.ids[0], text.ids[-1]
        room = max(0, min(self.surrounding_tokens, self._limit - len(text.ids) - 2))
        left = min(len(before), max(room // 2, room - len(after)))
        right = min(len(after), room - left)
        first = [*before[len(before) - left :], sep] if left else []
        last = [*after[:right], sep] if right else []
        ids = [cls, *first, *text.ids[1:], *last]
        own = [True, *[False] * len(first), *[True] * (len(text.ids) - 1), *[False] * len(last)]
        return Composed(ids, own, text.truncated)

    def encode(self, items: Sequence[str | Excerpt]) -> list[Features]:
        """Token-level features of each text, in order; independent of what it is batched with up to rounding.

        Raises:
            TextError: a text that :meth:`check` refuses; says which.
            UserError: the weights are not installed, or cannot be loaded.
        """
        for number, item in enumerate(items, 1):
            if reason := self.check(item.text if isinstance(item, Excerpt) else item):
                raise TextError(f"text {number} of {len(items)}: {reason}")
        if not items:
            return []
        composed = self.compose(items)
        if self.tokens:
            return [Features(self._marked(_digits(c.ids), c), c.truncated) for c in composed]
        done: dict[int, Features] = {}
        for batch in _batches([len(c.ids) for c in composed]):
            for i, values in zip(batch, self._encode_batch([composed[i].ids for i in batch]), strict=True):
                done[i] = Features(self._marked(values, composed[i]), composed[i].truncated)
        return [done[i] for i in range(len(items))]

    def _marked(self, values: np.ndarray, composed: Composed) -> np.ndarray:
        """(T, L, width) of all tokens -> of the text's own; or of all, and a last column that says which these are."""
        if self.surroundings_kept:
            own = np.broadcast_to(np.array(composed.own, values.dtype)[:, None, None], (*values.shape[:2], 1))
            return np.concatenate([values, own], axis=2)
        return values if all(composed.own) else values[composed.own]

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
