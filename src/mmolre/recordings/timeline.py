"""What is known of a recording after analysis. Plain data: reading it back needs neither torch nor the recording."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mmolre.errors import UserError
from mmolre.schema import EMOTIONS

if TYPE_CHECKING:
    import pandas

FORMAT = 1
"""Of ``timeline.json``; raised when what it holds changes."""

NOT_ENOUGH = "not enough speech"
"""Why most utterances have no score that have none."""


@dataclass(frozen=True, slots=True)
class Alone:
    """What one modality alone would say: sentiment in [-3, 3], emotion -> probability."""

    sentiment: float | None
    emotions: dict[str, float]


@dataclass(frozen=True, slots=True)
class Moment:
    """One utterance of a recording.

    Attributes:
        start, end: seconds.
        text: the words.
        speaker: where the transcript names one.
        sentiment: in [-3, 3]; ``None`` where it is not scored.
        low, high: four of five utterances of the model's valid data lay within; ``None`` where that is not known.
        emotions: name -> calibrated probability; empty where it is not scored.
        present: emotions over their thresholds.
        top: the one that stands out, if any.
        words, voice: what text alone and sound alone would say; ``None`` where it has not that modality.
        contrast: how far words and voice are apart here, compared with the rest of the recording: 0 to 1 in the
            probability of ``contrast_emotion``, positive where the words say it more than the voice.
        contrast_emotion: the emotion in which they differ most.
        truncated: whether the words were more than the encoder reads.
        unscored: why there is no score.
    """

    start: float
    end: float
    text: str
    speaker: str | None = None
    sentiment: float | None = None
    low: float | None = None
    high: float | None = None
    emotions: dict[str, float] = field(default_factory=dict)
    present: list[str] = field(default_factory=list)
    top: str | None = None
    words: Alone | None = None
    voice: Alone | None = None
    contrast: float | None = None
    contrast_emotion: str | None = None
    truncated: bool = False
    unscored: str | None = None

    @property
    def scored(self) -> bool:
        """Whether the model said anything of it."""
        return self.unscored is None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The analysis of one recording.

    Attributes:
        recording: the file's name.
        source: the SHA-256 of the file.
        seconds: how much sound could be read.
        moments: the utterances, by their start.
        language: an ISO 639-1 code, ``None`` where unknown.
        language_source: how it is known.
        transcript: where the words are from.
        model: facts about the model, for the report.
        notes: what a reader should know of this analysis.
        key: tells one analysis from another: recording, transcript, transcriber, model, as they were when it began.
    """

    recording: str
    source: str
    seconds: float
    moments: list[Moment]
    language: str | None
    language_source: str
    transcript: str
    model: dict[str, Any]
    notes: list[str]
    key: str

    @property
    def speech_found(self) -> bool:
        """Whether anything is said in it."""
        return bool(self.moments)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; what ``timeline.json`` holds."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        values = dict(data)
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        moments = []
        for item in values.pop("moments"):
            alone = {k: Alone(**item[k]) if item[k] else None for k in ("words", "voice")}
            moments.append(Moment(**{**item, **alone}))
        found = cls(moments=moments, **values)
        times = [found.seconds, *(time for moment in moments for time in (moment.start, moment.end))]
        if not all(type(time) in (int, float) and math.isfinite(time) for time in times):
            raise ValueError("a time that is no number")
        return found

    def rows(self) -> list[dict[str, Any]]:
        """A flat dict per utterance: the columns of ``timeline.csv`` and of :meth:`to_pandas`."""
        rows = []
        for m in self.moments:
            row: dict[str, Any] = {"start": m.start, "end": m.end, "text": m.text, "speaker": m.speaker}
            row |= {"sentiment": m.sentiment, "sentiment_low": m.low, "sentiment_high": m.high}
            row |= {name: m.emotions.get(name) for name in EMOTIONS}
            row["top"] = m.top
            for prefix, alone in (("text_only", m.words), ("voice_only", m.voice)):
                row[f"{prefix}_sentiment"] = alone.sentiment if alone else None
                row |= {f"{prefix}_{name}": alone.emotions.get(name) if alone else None for name in EMOTIONS}
            row |= {"contrast": m.contrast, "contrast_emotion": m.contrast_emotion, "not_scored": m.unscored}
            rows.append(row)
        return rows

    def to_pandas(self) -> "pandas.DataFrame":
        """One row per utterance; see :meth:`rows`.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas") from None
        return pandas.DataFrame(self.rows(), columns=list(COLUMNS))


COLUMNS = (
    *("start", "end", "text", "speaker", "sentiment", "sentiment_low", "sentiment_high", *EMOTIONS, "top"),
    *("text_only_sentiment", *(f"text_only_{name}" for name in EMOTIONS)),
    *("voice_only_sentiment", *(f"voice_only_{name}" for name in EMOTIONS)),
    *("contrast", "contrast_emotion", "not_scored"),
)
"""Of the table, in order."""


def read_timeline(path: Path) -> Timeline | None:
    """A finished analysis; ``None`` where there is none, or something else."""
    try:
        return Timeline.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
