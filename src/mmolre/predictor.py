"""Prediction for people: text and sound in, numbers with names out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmolre.bundle import Bundle, check_device, load_bundle
from mmolre.data import language
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import FailedRow, build_dataset
from mmolre.encoders.text import TextEncoder
from mmolre.errors import UserError
from mmolre.evaluate import thresholds
from mmolre.evaluate.together import OnTheirOwn, Together
from mmolre.inference import RawPredictions, infer
from mmolre.schema import EMOTIONS, SENTIMENT_RANGE, Utterance

CHUNK = 128
"""Utterances predicted at a time; bounds the memory, whatever the manifest's length."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one utterance sounds and reads like.

    Attributes:
        id: the utterance's.
        sentiment: in [-3, 3]; ``None`` where the model has no such task.
        emotions: name -> calibrated probability in [0, 1]; empty where the model has no such task.
        present: emotions whose probability is over the threshold that is best for F1 on valid.
        top: the one most likely emotion, ``None`` where none is likely enough.
        modalities: what it was predicted from.
        truncated: whether an encoder cut the input at its window, so that the end was not seen.
    """

    id: str
    sentiment: float | None
    emotions: dict[str, float]
    present: list[str]
    top: str | None
    modalities: list[str]
    truncated: bool

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict with the attributes as keys."""
        return asdict(self)


_P = TypeVar("_P", bound=Prediction | FailedRow)


class Predictor:
    """A loaded model. Make one with :func:`mmolre.load`."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, text: str | None = None, audio: Path | str | None = None) -> Prediction:
        """Predict one utterance from its words, its sound, or both.

        Args:
            text: the words; cut at the encoder's window.
            audio: any file with sound that PyAV decodes, 0.1 s to 60 s long.

        Raises:
            UserError: nothing given, or something that cannot be read.
        """
        if text is None and audio is None:
            raise UserError("nothing to predict from: give text, audio, or both")
        utterance = Utterance("utterance", text, Path(audio) if audio is not None else None)
        for result in self.predict_many([utterance]):
            if isinstance(result, FailedRow):
                raise UserError(result.reason)
            return result
        raise AssertionError("one utterance gives one result")

    def predict_many(
        self, utterances: Iterable[Utterance], cache: FeatureCache | None = None
    ) -> Iterator[Prediction | FailedRow]:
        """Predict any number of utterances in bounded memory, in their order.

        Ids may repeat. A row that cannot be read yields a :class:`~mmolre.data.dataset.FailedRow` in its place and
        stops nothing. Each utterance is predicted on its own, or with its surroundings, where it says what they are and
        the model reads them (:attr:`reads_surroundings`); see also :meth:`in_context`.
        """
        chunk: dict[str, Utterance] = {}
        for utterance in utterances:
            if utterance.id in chunk:  # within a chunk the id is what rows are known by
                yield from self._predict_chunk(list(chunk.values()), cache)
                chunk = {}
            chunk[utterance.id] = utterance
            if len(chunk) == CHUNK:
                yield from self._predict_chunk(list(chunk.values()), cache)
                chunk = {}
        yield from self._predict_chunk(list(chunk.values()), cache)

    @property
    def reads_context(self) -> bool:
        """Whether the model reads an utterance also in the light of the others of its recording or speaker."""
        return self.bundle.decision.context is not None

    @property
    def reads_surroundings(self) -> bool:
        """Whether the model reads, with an utterance's words, those around it (``Utterance.surroundings``)."""
        encoders = self.bundle.encoders.values()
        return any(isinstance(encoder, TextEncoder) and encoder.surrounding_tokens for encoder in encoders)

    @property
    def reads_english_only(self) -> bool:
        """Whether it reads words, and its encoder is known to know no other language than English."""
        encoder = self.bundle.encoders.get("text")
        return isinstance(encoder, TextEncoder) and encoder.english_only

    def foreign_language(self, texts: Iterable[str]) -> str | None:
        """The language, for people, that these texts seem to be in, where the model does not read it; ours.

        ``None``, too, where they are too few to say: some 20 words, unless their letters tell.
        """
        code = language.detect(" ".join(texts)) if self.reads_english_only else None
        return None if code in (None, "en") else language.name(code)

    def in_context(
        self,
        predictions: Sequence[_P],
        recordings: Sequence[str | None],
        speakers: Sequence[str | None] | None = None,
        together: Together | None = None,
    ) -> list[_P]:
        """Predictions in the light of others of the same recording or speaker; as they are where the model reads none.

        Args:
            predictions: each of an utterance on its own; rows that failed stay where they are.
            recordings: of each, what it is an utterance of (``Utterance.recording``), None if of nothing.
            speakers: of each, who speaks, None if unknown: an utterance with at most one emotion, such as an acted
                voice, is read in the light of its speaker's others in the recording instead; of all of them if of none.
            together: all utterances, counted in (:meth:`count_in`), where ``predictions`` are some of them only.
        """
        known = self.bundle.decision.together() if together is None else together
        read: list[Any] = list(predictions)
        rows = [i for i, p in enumerate(read) if isinstance(p, Prediction)]
        if known is None or not rows:
            return read
        told: list[Prediction] = [read[i] for i in rows]
        own = _on_their_own(told, [recordings[i] for i in rows], [speakers[i] for i in rows] if speakers else None)
        if together is None:
            known.add(own)
        sentiment, probabilities = known.read(own)
        limits = self.bundle.decision.for_rows([tuple(p.modalities) for p in told], together=True)
        for k, (i, p) in enumerate(zip(rows, told, strict=True)):
            read[i] = replace(
                p,
                sentiment=None if p.sentiment is None else _clip(sentiment[k]),
                **(_told(probabilities[k : k + 1], limits[k]) if p.emotions else {}),
            )
        return read

    def count_in(
        self,
        together: Together,
        predictions: Sequence[Prediction],
        recordings: Sequence[str | None],
        speakers: Sequence[str | None] | None = None,
    ) -> None:
        """Add to what :meth:`in_context` reads of all; arguments as there."""
        together.add(_on_their_own(predictions, recordings, speakers))

    def predict_features(
        self, ids: Sequence[str], arrays: Sequence[Mapping[str, np.ndarray]], truncated: Sequence[bool]
    ) -> list[Prediction]:
        """Predict from what the bundle's encoders gave.

        Args:
            ids: of the predictions.
            arrays: per utterance, modality -> (T, L, width); at least one modality each.
            truncated: per utterance, whether an encoder cut its input.
        """
        raw = infer(self.bundle.model, arrays, each_alone=self.bundle.decision.needs_each_alone)
        return self.read(raw, ids, truncated)

    def read(self, raw: RawPredictions, ids: Sequence[str], truncated: Sequence[bool]) -> list[Prediction]:
        """What the model said, calibrated and with thresholds; other arguments as for :meth:`predict_features`."""
        sentiment, probabilities = self.bundle.decision.read(raw)
        tasks = self.bundle.model.config.tasks
        emotion = "emotion" in tasks
        results = []
        for i, limits in enumerate(self.bundle.decision.for_rows(raw.modalities)):
            told = _told(probabilities[i : i + 1], limits) if emotion else {"emotions": {}, "present": [], "top": None}
            results.append(
                Prediction(
                    id=ids[i],
                    sentiment=_clip(sentiment[i]) if "sentiment" in tasks else None,
                    **told,
                    modalities=list(raw.modalities[i]),
                    truncated=truncated[i],
                )
            )
        return results

    def _predict_chunk(self, chunk: list[Utterance], cache: FeatureCache | None) -> Iterator[Prediction | FailedRow]:
        dataset = build_dataset(chunk, self.bundle.encoders, cache)
        results: dict[str, Prediction | FailedRow] = {row.id: row for row in dataset.failed + dataset.empty}
        ids = [utterance.id for utterance in dataset.utterances]
        truncated = [dataset.arrays.truncated(i) for i in range(len(ids))]
        results |= {p.id: p for p in self.predict_features(ids, dataset.arrays, truncated)}
        for utterance in chunk:
            yield results[utterance.id]


def load(
    model: Path | str | None = None, *, encoders: Mapping[str, str] | None = None, device: str = "cpu"
) -> Predictor:
    """Load a model for prediction.

    Args:
        model: a run's folder, a model's folder, or a hub id; by default the model that comes with the package.
        encoders: modality -> folder or hub id with the same encoder weights, where they lie elsewhere.
        device: where torch runs it, e.g. ``cuda``.

    Raises:
        UserError: no such device, no model there, a damaged one, or encoder weights that are missing or others.
    """
    check_device(device)
    return Predictor(load_bundle(model, overrides=encoders, device=device))


def _clip(sentiment: float) -> float:
    low, high = SENTIMENT_RANGE
    return round(min(max(float(sentiment), low), high), 4)


def _on_their_own(
    predictions: Sequence[Prediction], recordings: Sequence[str | None], speakers: Sequence[str | None] | None
) -> OnTheirOwn:
    sentiment = np.array([np.nan if p.sentiment is None else p.sentiment for p in predictions])
    emotions = np.array([[p.emotions.get(name, np.nan) for name in EMOTIONS] for p in predictions])
    modalities = [tuple(p.modalities) for p in predictions]
    return OnTheirOwn(modalities, recordings, speakers or [None] * len(modalities), sentiment, emotions)


def _told(probabilities_1e: NDArray[np.float64], limits: thresholds.EmotionThresholds) -> dict[str, Any]:
    """What a prediction says of the emotions."""
    return {
        "emotions": {name: round(float(p), 4) for name, p in zip(EMOTIONS, probabilities_1e[0], strict=True)},
        "present": thresholds.present(probabilities_1e, limits)[0],
        "top": thresholds.top(probabilities_1e, limits)[0],
    }
