"""The curve of sentiment and the bands of emotions, as inline SVG without any text in it that comes from outside."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmolre.recordings.summary import NEUTRAL
from mmolre.recordings.timeline import Moment, Timeline
from mmolre.recordings.words import clock
from mmolre.schema import EMOTIONS

_MOST = 500  # bars over the width; more cannot be told apart
_SMOOTHED = 60  # with more points a line from each to the next is a tangle, and their running mean is drawn
_HEIGHT = 120
_HEAD = f'<line class="head" x1="-9" x2="-9" y1="0" y2="{_HEIGHT}"/>'


@dataclass(frozen=True, slots=True)
class _Bar:
    """One utterance, or the mean of a few in a long recording."""

    start: float
    end: float
    sentiment: float | None
    low: float | None
    high: float | None
    emotions: dict[str, float]


def render(timeline: Timeline) -> str:
    """Both charts as HTML; a click or the arrow keys are for the page's script."""
    moments = [m for m in timeline.moments if m.scored]
    bars = _thinned(moments)
    if not bars:
        return ""
    seconds = max(timeline.seconds, 0.001)
    times = "".join(f"<span>{clock(seconds * i / 4)}</span>" for i in range(5))
    axis = f'<div class="axis" aria-hidden="true">{times}</div>'
    parts = []
    size = _together(moments)
    dot = "an utterance" if size == 1 else f"the mean of {size} utterances"
    if any(b.sentiment is not None for b in bars):
        parts.append(
            '<section aria-labelledby="c1"><h2 id="c1">Sentiment over time</h2><div class="chart curve">'
            '<div class="scale" aria-hidden="true"><span>+3</span><span>0</span><span>−3</span></div>'
            f"{_curve(bars, seconds)}{axis}</div>"
            '<p class="legend"><span>up: positive, down: negative; a dot is ' + f"{dot}</span>"
            f"{_line_legend(bars)}<span>{_band_legend(bars, size)}</span>"
            '<span class="screen">click: play from there; arrow keys: 5 s</span></p></section>'
        )
    if any(b.emotions for b in bars):
        rows = "".join(f'<div class="name">{name}</div>{_strip(bars, moments, name, seconds)}' for name in EMOTIONS)
        parts.append(
            '<section aria-labelledby="c2"><h2 id="c2">Emotions over time</h2>'
            f'<div class="chart bands">{rows}{axis}</div>'
            f'<p class="legend"><span>height: probability, from 0 to 100 %; a bar is {dot}</span></p></section>'
        )
    return "".join(parts)


def _band_legend(bars: Sequence[_Bar], size: int) -> str:
    if all(b.low is None for b in bars):
        return "uncertainty band not known"
    return "pale: uncertainty band" if size == 1 else "pale: the mean of their uncertainty bands"


def _line_legend(bars: Sequence[_Bar]) -> str:
    reach = _reach(bars)
    return f"<span>line: mean of {2 * reach + 1} next to each other</span>" if reach else ""


def _reach(bars: Sequence[_Bar]) -> int:
    """How many points to either side the line's mean takes in."""
    return 0 if len(bars) <= _SMOOTHED else -(-len(bars) // 80)


def _curve(bars: Sequence[_Bar], seconds: float) -> str:
    shapes = [f'<line class="grid" x1="0" x2="1000" y1="{_y(v)}" y2="{_y(v)}"/>' for v in (-2, -1, 1, 2)]
    shapes.append(f'<line class="zero" x1="0" x2="1000" y1="{_y(0)}" y2="{_y(0)}"/>')
    dots, line, before = [], [], None
    reach = _reach(bars)
    values = [b.sentiment for b in bars if b.sentiment is not None]
    for i, b in enumerate(b for b in bars if b.sentiment is not None):
        assert b.sentiment is not None
        around = values[max(i - reach, 0) : i + reach + 1]
        x0, x1 = _x(b.start, seconds), _x(b.end, seconds)
        if b.low is not None and b.high is not None:
            shapes.append(
                f'<rect class="band" x="{x0}" y="{_y(b.high)}" width="{max(x1 - x0, 1):.2f}" '
                f'height="{_y(b.low) - _y(b.high):.2f}"/>'
            )
        x = f"{(x0 + x1) / 2:.2f}"
        far = before is None or b.start - before > max(10.0, seconds / 50)
        line.append(f"{'M' if far else 'L'}{x} {_y(sum(around) / len(around))}")
        colour = " n" if round(b.sentiment, 1) <= -NEUTRAL else " p" if round(b.sentiment, 1) >= NEUTRAL else ""
        dots.append(f'<path class="dot{colour}" d="M{x} {_y(b.sentiment)}h0.01"/>')
        before = b.end
    kind = "many" if reach else "few"
    path = f'<path class="line" d="{"".join(line)}"/>'
    content = "".join([*shapes, *([*dots, path] if reach else [path, *dots]), _HEAD])
    return (
        f'<svg id="curve" class="{kind}" viewBox="0 0 1000 {_HEIGHT}" '
        'preserveAspectRatio="none" role="slider" tabindex="0" '
        f'aria-label="Sentiment over time; position in the recording" aria-valuemin="0" '
        f'aria-valuemax="{round(seconds)}" aria-valuenow="0" aria-valuetext="0:00">{content}</svg>'
    )


def _strip(bars: Sequence[_Bar], moments: Sequence[Moment], emotion: str, seconds: float) -> str:
    shapes = []
    for b in bars:
        if emotion in b.emotions:
            x0, x1 = _x(b.start, seconds), _x(b.end, seconds)
            height = round(_HEIGHT * b.emotions[emotion], 2)
            shapes.append(
                f'<rect class="e-{emotion}" x="{x0}" y="{_HEIGHT - height:.2f}" width="{max(x1 - x0, 1):.2f}" '
                f'height="{height}"/>'
            )
    known = [(m.emotions[emotion], m.start) for m in moments if emotion in m.emotions]
    highest, when = max(known) if known else (0.0, 0.0)
    label = f"{emotion}: at most {highest:.0%}, at {clock(when)}"
    return (
        f'<svg viewBox="0 0 1000 {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<line class="grid" x1="0" x2="1000" y1="60" y2="60"/>{"".join(shapes)}{_HEAD}</svg>'
    )


def _x(time: float, seconds: float) -> float:
    return round(min(1000 * time / seconds, 1000.0), 2)


def _y(sentiment: float) -> float:
    return round(_HEIGHT * (3 - sentiment) / 6, 2)


def _thinned(moments: Sequence[Moment]) -> list[_Bar]:
    size = _together(moments)
    return [_mean(moments[i : i + size]) for i in range(0, len(moments), size)]


def _together(moments: Sequence[Moment]) -> int:
    """How many utterances one point stands for."""
    return max(-(-len(moments) // _MOST), 1)


def _mean(group: Sequence[Moment]) -> _Bar:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return sum(known) / len(known) if known else None

    emotions = {e: mean([m.emotions.get(e) for m in group]) for e in EMOTIONS}
    return _Bar(
        group[0].start,
        max(m.end for m in group),
        mean([m.sentiment for m in group]),
        mean([m.low for m in group]),
        mean([m.high for m in group]),
        {e: p for e, p in emotions.items() if p is not None},
    )
