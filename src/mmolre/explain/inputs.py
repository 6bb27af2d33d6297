"""What an encoder reads, as tensors through which gradients flow: token embeddings, log-mel frames, samples, features.

Each modality gives one :class:`Leaf`: the utterance's own input, a baseline that says nothing, the way from either to
the model's features, and what each place of the input is to a person: a word, or a stretch of time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmolre.data.dataset import Source
from mmolre.data.media import load_audio
from mmolre.data.readymade import ReadyMade
from mmolre.encoders.audio import SAMPLE_RATE, AudioEncoder, _reduce, _windows, whisper_states
from mmolre.encoders.text import TextEncoder
from mmolre.errors import UserError
from mmolre.model.inputs import Standardize
from mmolre.model.mmolre import MMoLRE
from mmolre.schema import Utterance

BIN = 0.25
"""Seconds that are told as one."""


class Leaf(NamedTuple):
    """One modality of one utterance.

    Attributes:
        value, baseline: (1, ...), of one shape.
        features: (B, ...) -> (B, T, L, width), what the model reads.
        places: what the parts are called: words, ``0.25-0.50 s``, or steps.
        place_of: index of the place of each element along ``axis``; -1 for none (special tokens).
        axis: of ``value``, along which places are.
    """

    value: Tensor
    baseline: Tensor
    features: Callable[[Tensor], Tensor]
    places: list[str]
    place_of: Tensor
    axis: int

    def by_place(self, attributions: Tensor) -> list[float]:
        """(1, ...) attributions, summed over each place."""
        per_step = attributions[0].movedim(self.axis - 1, 0).reshape(len(self.place_of), -1).sum(1).double()
        total = torch.zeros(len(self.places) + 1, dtype=torch.float64)
        return total.index_add(0, self.place_of + 1, per_step)[1:].tolist()


def leaf(source: Source, utterance: Utterance, model: MMoLRE) -> Leaf | None:
    """What ``source`` reads of the utterance; ``None`` where it has nothing of that modality.

    Raises:
        UserError: the text or the sound cannot be encoded.
    """
    if isinstance(source, ReadyMade):
        return _ready_made(source, utterance, model)
    if isinstance(source, TextEncoder):
        return None if utterance.text is None else _text(source, utterance, model)
    if isinstance(source, AudioEncoder) and utterance.audio is not None:
        bounds = (utterance.start, utterance.end) if utterance.cut else (None, None)
        return _audio(source, load_audio(utterance.audio, start=bounds[0], end=bounds[1]))
    return None


def _text(encoder: TextEncoder, utterance: Utterance, model: MMoLRE) -> Leaf:
    """Embeddings of the tokens; baseline: padding in the place of every token but the special ones.

    What was said around the utterance is read, and the same in both.
    """
    text = utterance.text or ""
    if reason := encoder.check(text):
        raise UserError(reason)
    if encoder.lower_if_upper and text.isupper():
        text = text.lower()
    coded = encoder.tokenizer(text, truncation=True, max_length=encoder.window, return_offsets_mapping=True)
    (composed,) = encoder.compose([encoder.excerpt(text, utterance.surroundings)])
    ids, own = torch.tensor([composed.ids]), torch.tensor(composed.own)
    tokenizer = encoder.tokenizer
    upper: Any = model.uppers[encoder.modality] if encoder.tokens else None  # where the embeddings are the model's own
    embed: Any = upper.embeddings.word_embeddings if upper else encoder.module.get_input_embeddings()  # type: ignore[operator]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # a word that it does not know is a word
    kept = torch.tensor([token in special for token in composed.ids]) | ~own
    if upper:
        upper.ensure_base()
    with torch.no_grad():
        value, padding = embed(ids), embed(torch.full_like(ids, tokenizer.pad_token_id or 0))
    read = max(end for _, end in coded["offset_mapping"])
    words = [(begin, end) for begin, end in _words(text) if begin < read]
    place_of = torch.full((len(own),), -1)
    place_of[own] = torch.tensor(
        [
            -1 if ends or not words else next((i for i, (_, end) in enumerate(words) if begin < end), len(words) - 1)
            for (begin, _), ends in zip(coded["offset_mapping"], kept[own].tolist(), strict=True)
        ]
    )

    def features(embeddings: Tensor) -> Tensor:
        if upper:
            states = embeddings[:, :, None]
        else:
            mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
            found = encoder.module(inputs_embeds=embeddings, attention_mask=mask, output_hidden_states=True)
            states = encoder._choose(found.hidden_states)
        if not encoder.surroundings_kept:
            return states[:, own]
        return torch.cat([states, own.to(states)[None, :, None, None].expand(*states.shape[:3], 1)], dim=3)

    baseline = torch.where(kept[:, None], value, padding)
    return Leaf(value, baseline, features, [text[a:b] for a, b in words], place_of, 1)


def _words(text: str) -> list[tuple[int, int]]:
    words, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        words.append((at, at + len(word)))
        at += len(word)
    return words


def _audio(encoder: AudioEncoder, wave: np.ndarray) -> Leaf:
    """Log-mel frames, baseline: silence; or samples as the encoder wants them, baseline: noise as loud.

    An encoder of samples normalises their loudness away: from silence, all would happen at the path's very beginning.
    """
    if reason := encoder.check(wave):
        raise UserError(reason)
    seconds = len(wave) / SAMPLE_RATE

    def chosen(states: Any) -> Tensor:
        return _reduce(encoder._choose(states).transpose(0, 1), encoder.stride).transpose(0, 1)

    if not encoder._is_whisper:

        def samples(of: np.ndarray) -> Tensor:
            return encoder.extractor(of, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"]

        def of_samples(x: Tensor) -> Tensor:
            return chosen(encoder.module(x, output_hidden_states=True).hidden_states)

        own = samples(wave)
        noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0)) * own.square().mean().sqrt()
        return _timed(own, noise, of_samples, seconds, 1)
    sizes = [len(piece) for piece in _windows(wave, encoder._config.max_source_positions)]

    def mel(of: np.ndarray) -> list[Tensor]:
        pieces = np.split(of, np.cumsum(sizes)[:-1])
        options = {"padding": "do_not_pad", "truncation": False, "return_tensors": "pt"}
        return [
            encoder.extractor(piece, sampling_rate=SAMPLE_RATE, **options)["input_features"].float() for piece in pieces
        ]

    own = mel(wave)
    frames = [piece.shape[2] for piece in own]

    def of_mel(x: Tensor) -> Tensor:
        windows = [whisper_states(encoder.module, piece) for piece in x.split(frames, dim=2)]
        return chosen([torch.cat(layer, dim=1) for layer in zip(*windows, strict=True)])

    return _timed(torch.cat(own, 2), torch.cat(mel(np.zeros_like(wave)), 2), of_mel, seconds, 2)


def _timed(value: Tensor, baseline: Tensor, features: Callable[[Tensor], Tensor], seconds: float, axis: int) -> Leaf:
    count = value.shape[axis]
    places = max(1, int(np.ceil(seconds / BIN)))
    place_of = (torch.arange(count) * seconds / count / BIN).long().clamp(max=places - 1)
    names = [f"{BIN * i:.2f}-{min(BIN * (i + 1), seconds):.2f} s" for i in range(places)]
    return Leaf(value, baseline, features, names, place_of, axis)


def _ready_made(source: ReadyMade, utterance: Utterance, model: MMoLRE) -> Leaf | None:
    """The features themselves; baseline: their mean in training where the model knows it, else 0."""
    found = source.read(utterance)
    if found is None:
        return None
    value = torch.from_numpy(np.asarray(found.values, np.float32))[None]
    norm = model.inputs[source.modality].norm
    mean = norm.mean if isinstance(norm, Standardize) else torch.zeros(value.shape[2:])
    baseline = mean.detach().expand_as(value).clone()
    value = torch.where(value.isfinite(), value, baseline)
    steps = value.shape[1]
    names = [f"step {i}" for i in range(1, steps + 1)] if steps > 1 else ["all of it"]
    return Leaf(value, baseline, lambda x: x, names, torch.arange(steps), 1)
