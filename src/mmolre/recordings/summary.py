"""What stands out in a timeline: the whole, each speaker, the strongest moments, where words and voice disagree."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmolre.recordings.timeline import NOT_ENOUGH, Moment, Timeline
from mmolre.schema import EMOTIONS

FEWEST_MOMENTS = 3
FEWEST_SECONDS = 5.0
"""Less than this of speech gets no summary: "not enough speech"."""

NEUTRAL = 0.5
"""Sentiment nearer to 0 than this is called neutral."""

CONTRAST = 0.25
"""From here on words and voice are said to disagree."""

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Summary:
    """Of some utterances.

    Attributes:
        name: of the speaker, or ``None`` for all.
        moments: how many utterances.
        seconds: of speech.
        sentiment: the mean, each second of speech alike; ``None``: not enough speech.
        positive, negative: shares of speech, 0 to 1; the rest is neutral.
        emotions: name -> mean probability, the likeliest first.
        unscored: why there is neither sentiment nor emotions, if so.
    """

    name: str | None
    moments: int
    seconds: float
    sentiment: float | None
    positive: float
    negative: float
    emotions: dict[str, float]
    unscored: str | None = None

    def likeliest(self, count: int = len(EMOTIONS)) -> str:
        """The likeliest emotions with their mean probability, for people: ``happy 40%, sad 12%``."""
        return ", ".join(f"{name} {p:.0%}" for name, p in list(self.emotions.items())[:count])


def summarise(moments: Sequence[Moment], name: str | None = None) -> Summary:
    """The means over utterances that are scored, weighted by their length."""
    seconds = sum(m.end - m.start for m in moments)
    scored = [m for m in moments if m.scored]
    weight = sum(m.end - m.start for m in scored)
    if len(scored) < FEWEST_MOMENTS or weight < FEWEST_SECONDS:
        reasons = {m.unscored for m in moments}
        reason = reasons.pop() if len(reasons) == 1 else None
        return Summary(name, len(moments), seconds, None, 0.0, 0.0, {}, reason or NOT_ENOUGH)

    def mean(values: Sequence[float]) -> float:
        return sum(v * (m.end - m.start) for v, m in zip(values, scored, strict=True)) / weight

    known = [round(m.sentiment or 0.0, 1) for m in scored]  # as they are shown
    sentiment = mean([m.sentiment or 0.0 for m in scored]) if all(m.sentiment is not None for m in scored) else None
    emotions = {e: mean([m.emotions[e] for m in scored]) for e in EMOTIONS if all(e in m.emotions for m in scored)}
    return Summary(
        name,
        len(moments),
        seconds,
        sentiment,
        mean([float(s >= NEUTRAL) for s in known]),
        mean([float(s <= -NEUTRAL) for s in known]),
        dict(sorted(emotions.items(), key=lambda item: -item[1])),
    )


def by_speaker(timeline: Timeline) -> list[Summary]:
    """A summary per named speaker, in the order in which they first speak; empty where none is named."""
    names = dict.fromkeys(m.speaker for m in timeline.moments)
    if set(names) <= {None}:
        return []
    return [summarise([m for m in timeline.moments if m.speaker == n], n or "not named") for n in names]


def strongest(timeline: Timeline, sign: int) -> list[Moment]:
    """The most positive (1) or most negative (-1) utterances, the strongest first; neutral ones are none."""
    found = [m for m in timeline.moments if m.sentiment is not None and round(m.sentiment, 1) * sign >= NEUTRAL]
    return sorted(found, key=lambda m: -(m.sentiment or 0) * sign)[:SHOWN]


def disagreements(timeline: Timeline) -> list[Moment]:
    """Where words and voice are farthest apart, the farthest first."""
    found = [m for m in timeline.moments if m.contrast is not None and abs(m.contrast) >= CONTRAST]
    return sorted(found, key=lambda m: -abs(m.contrast or 0))[:SHOWN]


def signed(sentiment: float) -> str:
    """E.g. ``+1.2``; ``0.0`` has no sign."""
    return f"{sentiment:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")


def mood(sentiment: float | None) -> str:
    """A sentiment in words, on CMU-MOSEI's scale of seven; to one decimal, as it is shown."""
    if sentiment is None:
        return "not scored"
    sentiment = round(sentiment, 1)
    if abs(sentiment) < NEUTRAL:
        return "neutral"
    strength = "slightly " if abs(sentiment) < 1.5 else "" if abs(sentiment) < 2.5 else "very "
    return strength + ("positive" if sentiment > 0 else "negative")
