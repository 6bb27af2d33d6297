"""What an utterance is, and what the two tasks predict. Standard library only, so importing it costs nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
"""The six emotions, in the order of every emotion axis in this package (CMU-MOSEI's own order)."""

EMOTION_RANGE = (0.0, 3.0)
"""Emotion intensities as CMU-MOSEI annotates them; an emotion is *present* iff its intensity is > 0."""

SENTIMENT_RANGE = (-3.0, 3.0)
"""Sentiment, from strongly negative to strongly positive."""

SPLITS = ("train", "valid", "test")

TASKS = ("sentiment", "emotion")
"""MSA (one regression target) and MER (six binary targets)."""


_NO_FEATURES: Mapping[str, Path] = {}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where an utterance's words stand among those of its recording.

    Attributes:
        texts: of the recording's utterances, in their order in time; one sequence for all of them.
        place: the utterance's own, among them.
    """

    texts: Sequence[str]
    place: int

    def sides(self, most: int) -> tuple[str, str]:
        """What was said before and after, each of at most ``most`` characters, the nearest."""
        before, after = "", ""
        at = self.place - 1
        while at >= 0 and len(before) < most:
            before, at = f"{self.texts[at]} {before}", at - 1
        at = self.place + 1
        while at < len(self.texts) and len(after) < most:
            after, at = f"{after} {self.texts[at]}", at + 1
        return before.strip()[-most:], after.strip()[:most]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance: what was said, where its sound is, and what is known of how it was felt.

    ``None`` always means *missing*: an absent modality, an unlabelled target, an unknown split. It never means 0.

    Attributes:
        id: unique within a manifest.
        text: the words, never blank; ``None`` where absent.
        audio: an existing or not yet checked file, already resolved against its root; ``None`` where absent.
        start, end: seconds. Where ``cut`` is true they cut the utterance out of ``audio``; else information only.
        cut: whether ``start``/``end`` are to be applied to ``audio``.
        split: one of :data:`SPLITS`.
        speaker, video_id: whose, and of which recording; never model inputs: they say what is read together.
        sentiment: in [-3, 3].
        emotions: six intensities in [0, 3] in the order of :data:`EMOTIONS`, each ``None`` where unlabelled.
        features: name -> file of ready-made features (:mod:`mmolre.data.feature_file`); one mapping for a whole
            manifest. Whether a file holds this utterance is for its reader to say.
        row: where it came from, for messages, e.g. ``segments.csv:17``.
        surroundings: the words around it, where they are known (:func:`mmolre.data.surroundings.surrounded`); read by
            encoders of which that is asked, and no part of what the utterance is.
    """

    id: str
    text: str | None = None
    audio: Path | None = None
    start: float | None = None
    end: float | None = None
    cut: bool = False
    split: str | None = None
    speaker: str | None = None
    video_id: str | None = None
    sentiment: float | None = None
    emotions: tuple[float | None, ...] = (None,) * len(EMOTIONS)
    features: Mapping[str, Path] = field(default_factory=lambda: _NO_FEATURES, hash=False)
    row: str = ""
    surroundings: Surroundings | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Take a file's name as text, too."""
        if isinstance(self.audio, str):
            object.__setattr__(self, "audio", Path(self.audio))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that it claims to have: text, audio, then the names of ready-made features."""
        own = (m for m, value in (("text", self.text), ("audio", self.audio)) if value is not None)
        return (*own, *self.features)

    @property
    def labelled_for(self) -> tuple[str, ...]:
        """The tasks of :data:`TASKS` of which it has a label."""
        return tuple(
            task
            for task, labels in (("sentiment", (self.sentiment,)), ("emotion", self.emotions))
            if any(label is not None for label in labels)
        )

    @property
    def recording(self) -> str | None:
        """What it is one utterance of: its video, else the longer sound that it is cut out of; None if of nothing."""
        if self.video_id is not None:
            return self.video_id
        return str(self.audio) if self.cut and self.audio is not None else None
