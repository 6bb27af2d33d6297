"""From a model's raw outputs to sentiment, probabilities and thresholds; fitted on valid, kept beside the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmolre.evaluate.anchor import Anchor, fit_anchors
from mmolre.evaluate.calibration import Calibration, combine, fit_calibration, fit_exclusive, sigmoid
from mmolre.evaluate.context import Context, fit_context, values
from mmolre.evaluate.speaker import Speakers, fit_speakers, logits_of
from mmolre.evaluate.thresholds import (
    EmotionThresholds,
    fit_thresholds,
    modality_key,
    thresholds_for,
)
from mmolre.evaluate.together import OnTheirOwn, Together, companions
from mmolre.inference import RawPredictions


@dataclass(frozen=True, slots=True)
class Decision:
    """How a model's outputs are read, per set of modalities (``text``, ``audio``, ``text+audio``).

    Attributes:
        late: whether an utterance with several modalities takes the mean of their own calibrated logits
            (:func:`mmolre.evaluate.calibration.combine`) instead of the fused model's.
        calibration: set of modalities -> Platt scaling, or the temperature of a softmax.
        thresholds: set of modalities -> thresholds on the calibrated probabilities.
        anchors: set of several modalities -> how far its fused sentiment is trusted; wholly where it is not named.
        context: how the other utterances of a recording are read with each.
        context_thresholds: as ``thresholds``, on the probabilities that it gives.
        speakers: set of modalities that holds at most one emotion -> how the utterances of a speaker are read together.
    """

    late: bool
    calibration: dict[str, Calibration]
    thresholds: dict[str, EmotionThresholds]
    anchors: dict[str, Anchor] = field(default_factory=dict)
    context: Context | None = None
    context_thresholds: dict[str, EmotionThresholds] = field(default_factory=dict)
    speakers: dict[str, Speakers] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        raw: RawPredictions,
        emotions: NDArray,
        fusion: str = "auto",
        *,
        sentiment: NDArray | None = None,
        anchored: bool = False,
        recordings: Sequence[str | None] | None = None,
        speakers: Sequence[str | None] | None = None,
        exclusive: Sequence[str] = (),
    ) -> Self:
        """Fit calibration and thresholds.

        Args:
            raw: predictions on the valid split.
            emotions: (n, 6) intensities there, NaN = unlabelled.
            fusion: ``fused``, ``late``, or ``auto``: late where no labelled utterance has several modalities.
            sentiment: (n,) labels there, NaN = unlabelled; for what follows.
            anchored: whether the fused sentiment is to be anchored.
            recordings: n, what each is an utterance of, if they are to be read together.
            speakers: n, whose; for those with at most one emotion.
            exclusive: sets of modalities whose utterances hold at most one emotion, or none, whose logit is 0 (as
                :func:`mmolre.train.objective.emotion_loss` has it): calibrated as a softmax of these seven, and ``top``
                is the likeliest of them; no limit fitted to valid, where such voices are few, comes between.
        """
        labelled = np.atleast_1d((~np.isnan(emotions)).any(axis=1))
        sets = rows_by_set(raw.modalities)
        several = [key for key, rows in sets.items() if "+" in key and labelled[rows].any()]
        late = fusion == "late" or (fusion == "auto" and not several)
        # Every utterance that has a modality says how to read it alone, be it alone there or not.
        alone = {m: np.flatnonzero(~np.isnan(logits).any(axis=1) & labelled) for m, logits in raw.alone.items()}
        alone = {m: rows for m, rows in alone.items() if len(rows)}

        def fitted(key: str, logits: NDArray, truth: NDArray) -> Calibration:
            return fit_exclusive(logits, truth) if key in exclusive else fit_calibration(logits, truth)

        calibration = {m: fitted(m, raw.alone[m][rows], emotions[rows]) for m, rows in alone.items()}
        if not late:
            for key in several:
                calibration[key] = fitted(key, raw.logits[sets[key]], emotions[sets[key]])

        # What valid has no label of is still what the model was trained to say: a softmax, or none.
        told = bool((~np.isnan(raw.logits)).any())
        unseen = [key for key in exclusive if told and key not in calibration and not (late and "+" in key)]
        calibration |= {key: Calibration(exclusive=True) for key in unseen}

        def limits(key: str, prob: NDArray, truth: NDArray, *, calibrated: bool = True) -> EmotionThresholds:
            found = fit_thresholds(prob, truth, calibrated=calibrated)
            return replace(found, rest=key in calibration and calibration[key].exclusive)

        thresholds = {
            m: limits(m, calibration[m].apply(raw.alone[m][rows]), emotions[rows]) for m, rows in alone.items()
        }
        thresholds |= {key: replace(EmotionThresholds.default(), rest=True) for key in unseen}
        probabilities = cls(late, calibration, {}).probabilities(raw)
        for key in several:
            # The mean of calibrated logits is not calibrated itself.
            thresholds[key] = limits(key, probabilities[sets[key]], emotions[sets[key]], calibrated=not late)
        anchors = {}
        if sentiment is None:
            sentiment = np.full(len(emotions), np.nan)
        if anchored:
            anchors = fit_anchors(raw.sentiment, raw.alone_sentiment, sentiment, raw.modalities)
        if recordings is None:
            return cls(late, calibration, thresholds, anchors)
        on_its_own = cls(late, calibration, {}, anchors)
        own = OnTheirOwn(raw.modalities, recordings, speakers or [None] * len(recordings), *on_its_own.read(raw))
        # As :meth:`together` has it: a set whose logits are a mean is not exclusive.
        held = on_its_own.exclusive
        within, by = companions(own, held)
        context = fit_context(values(own.sentiment, own.probabilities), within, sentiment, emotions)
        by_speaker = {}
        for key in held & set(sets):
            rows = sets[key]
            found = fit_speakers(logits_of(own.probabilities[rows]), [by[i] for i in rows], emotions[rows])
            by_speaker |= {key: found} if found is not None else {}
        together = cls(late, calibration, {}, anchors, context, {}, by_speaker)
        _, probabilities = together.read(raw, recordings, speakers)
        in_context = {
            key: limits(key, probabilities[rows], emotions[rows])
            for key, rows in sets.items()
            if key not in held and labelled[rows].any() and not np.isnan(probabilities[rows]).any()
        }
        return cls(late, calibration, thresholds, anchors, context, thresholds | in_context, by_speaker)

    @property
    def exclusive(self) -> frozenset[str]:
        """The sets of modalities that are read as holding at most one emotion."""
        return frozenset(key for key, calibration in self.calibration.items() if calibration.exclusive)

    @property
    def needs_each_alone(self) -> bool:
        """Whether predictions from each modality alone are read at all."""
        return self.late or bool(self.anchors)

    def read(
        self,
        raw: RawPredictions,
        recordings: Sequence[str | None] | None = None,
        speakers: Sequence[str | None] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n,) sentiment and (n, 6) calibrated probabilities; NaN where the model lacks the task.

        Read on its own nothing is clipped. Read with others, each utterance's sentiment is clipped to [-3, 3] and its
        probabilities to [1e-4, 1 - 1e-4] before they are shifted, be there others or not
        (:meth:`mmolre.evaluate.together.Together.read`).

        Args:
            recordings: n, what each is an utterance of; without them each is read on its own.
            speakers: n, whose; None = unknown.
        """
        own = self.sentiment(raw), self.probabilities(raw)
        together = self.together()
        if together is None or recordings is None:
            return own
        on_their_own = OnTheirOwn(raw.modalities, recordings, speakers or [None] * len(recordings), *own)
        together.add(on_their_own)
        return together.read(on_their_own)

    def together(self) -> Together | None:
        """An empty collection of utterances to read with each other; ``None`` if each is read on its own."""
        if self.context is None:
            return None
        return Together(self.context, self.speakers, self.exclusive)

    def sentiment(self, raw: RawPredictions) -> NDArray[np.float64]:
        """(n,) sentiment of each on its own, not clipped; NaN where the model has no such task."""
        result = raw.sentiment.copy()
        for key, rows in rows_by_set(raw.modalities).items():
            if key in self.anchors:
                anchor = self.anchors[key]
                alone = raw.alone_sentiment[anchor.modality][rows]
                result[rows] = alone + anchor.weight * (result[rows] - alone)
        return result

    def probabilities(self, raw: RawPredictions) -> NDArray[np.float64]:
        """(n, 6) calibrated probabilities of each on its own; NaN where the model has no emotion task."""
        result = np.full_like(raw.logits, np.nan)
        if np.isnan(raw.logits).all():
            return result
        for key, rows in rows_by_set(raw.modalities).items():
            parts = key.split("+")
            if self.late and len(parts) > 1:
                own = {m: self._calibrated(m, raw.alone[m][rows]) for m in parts}
                result[rows] = sigmoid(combine(own))
            else:
                result[rows] = sigmoid(self._calibrated(key, raw.logits[rows]))
        return result

    def _calibrated(self, key: str, logits: NDArray) -> NDArray[np.float64]:
        return self.calibration.get(key, Calibration()).logits(logits)

    def limits(self, *, together: bool) -> dict[str, EmotionThresholds]:
        """Set of modalities -> thresholds, for utterances read with others or each on its own."""
        return self.context_thresholds if together and self.context is not None else self.thresholds

    def for_rows(self, modalities: Sequence[tuple[str, ...]], *, together: bool = False) -> list[EmotionThresholds]:
        """Each row's thresholds; see :meth:`limits`."""
        return [thresholds_for(self.limits(together=together), row) for row in modalities]

    def to_json(self) -> dict[str, Any]:
        """JSON-able; :meth:`from_json` gives back the same."""
        context = {}
        if self.context is not None:
            limits = {key: t.to_json() for key, t in self.context_thresholds.items()}
            context = {"context": self.context.to_json(), "context_thresholds": limits}
        if self.speakers:
            context |= {"speakers": {key: found.to_json() for key, found in self.speakers.items()}}
        return {
            "emotion_fusion": "late" if self.late else "fused",
            "calibration": {key: c.to_json() for key, c in self.calibration.items()},
            "thresholds": {key: t.to_json() for key, t in self.thresholds.items()},
            "anchors": {key: anchor._asdict() for key, anchor in self.anchors.items()},
        } | context

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            UserError: unreadable numbers.
        """
        return cls(
            data.get("emotion_fusion") == "late",
            {key: Calibration.from_json(c) for key, c in data.get("calibration", {}).items()},
            {key: EmotionThresholds.from_json(t) for key, t in data.get("thresholds", {}).items()},
            {key: Anchor.from_json(key, a) for key, a in data.get("anchors", {}).items()},
            Context.from_json(data["context"]) if "context" in data else None,
            {key: EmotionThresholds.from_json(t) for key, t in data.get("context_thresholds", {}).items()},
            {key: Speakers.from_json(found) for key, found in data.get("speakers", {}).items()},
        )


def rows_by_set(modalities: Sequence[tuple[str, ...]]) -> dict[str, NDArray[np.int64]]:
    """Set of modalities -> the rows that have exactly it."""
    keys = np.array([modality_key(row) for row in modalities])
    return {str(key): np.flatnonzero(keys == key) for key in np.unique(keys)} if len(keys) else {}
