"""The page that shows many recordings at a glance and leads to their reports."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from urllib.parse import quote

from mmolre.recordings.report import escape, fill, policy, signed
from mmolre.recordings.summary import mood, summarise
from mmolre.recordings.timeline import Timeline
from mmolre.recordings.words import clock

TEMPLATE = files("mmolre.recordings") / "overview.html"
MARK = b"<title>Recordings: sentiment and emotions</title>"
"""In each overview of ours."""
_COLUMNS = 60


def render_overview(timelines: Mapping[str, Timeline], failed: Sequence[tuple[str, str]]) -> str:
    """The page.

    Args:
        timelines: folder's name -> what was found.
        failed: names of recordings that could not be analysed, and why.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    problems = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in failed)
    count = len(timelines)
    values = {
        "policy": policy(template),
        "title": f"{count} recording{'s' if count != 1 else ''}",
        "rows": "".join(_row(folder, timelines[folder]) for folder in sorted(timelines)),
        "failed": f"<h2>Could not be analysed</h2><ul>{problems}</ul>" if failed else "",
    }
    return "".join(fill(template, values))


def _row(folder: str, t: Timeline) -> str:
    link = quote(folder.encode("utf-8", "surrogateescape")) + "/report.html"
    shown = t.recording if folder == t.recording else f"{t.recording} ({folder})"  # several of one name
    name = f'<th scope="row"><a href="./{link}">{escape(shown)}</a></th>'
    amount = f'<td class="num">{clock(t.seconds)}</td><td class="num">{len(t.moments)}</td>'
    s = summarise(t.moments)
    if s.unscored:
        reason = escape(s.unscored) if t.moments else "no speech found"
        return f'<tr>{name}{amount}<td colspan="3">{reason}</td></tr>'
    sentiment = "–" if s.sentiment is None else f"{signed(s.sentiment)} {mood(s.sentiment)}"
    return f"<tr>{name}{amount}<td>{sentiment}</td><td>{_sparkline(t)}</td><td>{s.likeliest(2)}</td></tr>"


def _sparkline(t: Timeline) -> str:
    """Bars up for positive, down for negative: the mean of each stretch."""
    bars = []
    for i in range(_COLUMNS):
        low, high = (t.seconds * (i + k) / _COLUMNS for k in (0, 1))
        found = [m.sentiment for m in t.moments if m.sentiment is not None and m.start < high and m.end > low]
        if found:
            height = 15 * sum(found) / len(found) / 3
            y = 15 - max(height, 0)
            kind = "p" if height > 0 else "n"
            bars.append(f'<rect class="{kind}" x="{i}" y="{y:.2f}" width=".8" height="{abs(height):.2f}"/>')
    zero = f'<line class="zero" x1="0" x2="{_COLUMNS}" y1="15" y2="15"/>'
    return f'<svg viewBox="0 0 {_COLUMNS} 30" preserveAspectRatio="none" aria-hidden="true">{zero}{"".join(bars)}</svg>'
