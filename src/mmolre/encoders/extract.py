"""Utterances to features, through the cache: what is kept is read, what is not is encoded and kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from mmolre.data.cache import FeatureCache, Features, audio_key, text_key
from mmolre.encoders.base import Encoder
from mmolre.schema import Utterance

_BETWEEN = "\ud800"  # parts of a excerpt: no text that can be encoded has a lone surrogate
_CHUNK = {"text": 1024, "audio": 128}  # one shard each: little is lost by a kill, and shards stay few


class Failure(NamedTuple):
    """A modality of an utterance that has no features though the utterance has it, and why."""

    id: str
    modality: str
    reason: str


Progress = Callable[[str, int, int], None]
"""Called with modality, how many contents are encoded, how many were to be encoded in all."""


class FeatureTable:
    """The features of a list of utterances. Values stay on disk until they are read where a cache is in use.

    Attributes:
        ids: of the utterances, in order.
        failures: what could not be encoded.
    """

    def __init__(self, ids: Sequence[str]):
        self.ids = list(ids)
        self.failures: list[Failure] = []
        self._keys: dict[tuple[int, str], str] = {}
        self._lookup: dict[str, Callable[[str], Features | None]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {utterance_id: row for row, utterance_id in enumerate(self.ids)}

    def get(self, which: int | str, modality: str) -> Features | None:
        """The features of an utterance, by its place or its id; ``None`` where the modality is absent or failed.

        Raises:
            KeyError: no such id.
        """
        row = self._rows[which] if isinstance(which, str) else which
        key = self._keys.get((row, modality))
        return None if key is None else self._lookup[modality](key)


def extract(
    utterances: Sequence[Utterance],
    encoders: Mapping[str, Encoder],
    cache: FeatureCache | None,
    *,
    progress: Progress | None = None,
) -> FeatureTable:
    """Encode what the cache does not hold yet, and return a table of all features.

    A text that is refused or a file that is missing or broken is noted in ``failures`` and does not stop the rest.
    An encoder of which nothing is asked never loads its weights. Finished work is kept shard by shard.

    Args:
        utterances: any number of them; equal contents are encoded once.
        encoders: by modality; a modality without an encoder is left out of the table.
        cache: where features are kept; ``None`` keeps them in memory, for a few utterances.
        progress: see :data:`Progress`.

    Raises:
        UserError: encoder weights are not there, or the cache cannot be written.
    """
    table = FeatureTable([utterance.id for utterance in utterances])
    for modality, encoder in encoders.items():
        keys = {}
        for row, utterance in enumerate(utterances):
            key = _key(utterance, modality, encoder, table.failures)
            if key is not None:
                keys[row] = key
        fingerprint = encoder.fingerprint
        memory: dict[str, Features] = {}
        first = {key: row for row, key in reversed(keys.items())}
        missing = cache.missing(fingerprint, keys.values()) if cache else list(first)
        refused: dict[str, str] = {}
        done = 0
        if progress and missing:
            progress(modality, 0, len(missing))
        for chunk in _chunks(missing, _CHUNK[modality]):
            made = list(_encode(encoder, modality, [(key, utterances[first[key]]) for key in chunk], refused))
            if cache:
                cache.put_many(fingerprint, made)
            else:
                memory.update(made)
            done += len(chunk)
            if progress:
                progress(modality, done, len(missing))
        for row, key in keys.items():
            if key in refused:
                table.failures.append(Failure(table.ids[row], modality, refused[key]))
            else:
                table._keys[row, modality] = key
        table._lookup[modality] = (lambda key, f=fingerprint, c=cache: c.get(f, key)) if cache else memory.get
    return table


def _key(utterance: Utterance, modality: str, encoder: Encoder, failures: list[Failure]) -> str | None:
    reason = None
    if modality == "text" and utterance.text is not None:
        reason = encoder.check(utterance.text)
        if reason is None:
            item = encoder.excerpt(utterance.text, utterance.surroundings)
            return text_key(item if isinstance(item, str) else _BETWEEN.join(item))
    elif modality == "audio" and utterance.audio is not None:
        try:
            if utterance.cut:
                return audio_key(utterance.audio, utterance.start, utterance.end)
            return audio_key(utterance.audio)
        except OSError as error:
            reason = f"{utterance.audio}: {error.strerror or error}"
    if reason is not None:
        failures.append(Failure(utterance.id, modality, reason))
    return None


def _encode(
    encoder: Encoder, modality: str, work: Sequence[tuple[str, Utterance]], refused: dict[str, str]
) -> Iterator[tuple[str, Features]]:
    if modality == "text":
        texts = [encoder.excerpt(utterance.text or "", utterance.surroundings) for _, utterance in work]
        yield from zip((key for key, _ in work), encoder.encode(texts), strict=True)
        return
    from mmolre.data.media import MediaError, load_audio

    for key, utterance in work:
        assert utterance.audio is not None
        bounds = (utterance.start, utterance.end) if utterance.cut else (None, None)
        try:
            wave = load_audio(utterance.audio, start=bounds[0], end=bounds[1])
        except MediaError as error:
            refused[key] = str(error)
            continue
        if reason := encoder.check(wave):
            refused[key] = f"{utterance.audio}: {reason}"
            continue
        yield key, encoder.encode([wave])[0]


def _chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[i : i + size] for i in range(0, len(items), size))
