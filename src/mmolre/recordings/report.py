"""The report: one HTML file that needs no network and runs nothing that it was not made with.

Every text from outside goes through :func:`escape`; the content security policy allows the page's own script and style
by their hashes and nothing else, so that even a text that got through would be inert.
"""

import base64
import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from importlib.resources import files

from mmolre import __version__
from mmolre.data import language as languages
from mmolre.evaluate.residuals import LEVELS
from mmolre.recordings import charts, summary
from mmolre.recordings.summary import (
    CONTRAST,
    Summary,
    by_speaker,
    disagreements,
    mood,
    strongest,
    summarise,
)
from mmolre.recordings.timeline import NOT_ENOUGH, Alone, Moment, Timeline
from mmolre.recordings.words import clock

TEMPLATE = files("mmolre.recordings") / "report.html"
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
"""Spelling needs them, and emoji of several."""
_UNSEEN = (
    "\N{SOFT HYPHEN}\N{ZERO WIDTH SPACE}\N{WORD JOINER}\N{ZERO WIDTH NO-BREAK SPACE}"
    "\N{LEFT-TO-RIGHT MARK}\N{RIGHT-TO-LEFT MARK}\N{ARABIC LETTER MARK}"
)


def render(timeline: Timeline, sound: bytes | str) -> Iterator[str]:
    """The page, in pieces.

    Args:
        timeline: what to show.
        sound: an mp3 to embed, or the name of one beside the page.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    embedded = isinstance(sound, bytes)
    values = {
        "policy": policy(template, media="blob:" if embedded else "'self' file:"),
        "title": escape(f"{timeline.recording}: sentiment and emotions"),
        "skip": '<a class="skip" href="#transcript">To the transcript</a>' if timeline.speech_found else "",
        "name": escape(timeline.recording),
        "facts": _facts(timeline),
        "notes": _notes(timeline),
        "summary": _whole(timeline),
        "player": _player(None if embedded else sound),
        "charts": charts.render(timeline) if timeline.speech_found else "",
        "speakers": _speakers(timeline),
        "moments": _moments(timeline),
        "transcript": _transcript(timeline),
        "limits": _limits(timeline),
        "version": escape(__version__),
        "sound": base64.b64encode(sound).decode() if isinstance(sound, bytes) else "",
        "times": _data([max(timeline.seconds, 0.001), [[m.start, m.end, _spoken(m)] for m in timeline.moments]]),
    }
    yield from fill(template, values)


def fill(template: str, values: dict[str, str]) -> Iterator[str]:
    """The template with each ``{{name}}`` replaced; what is put in is never looked at again."""
    for i, part in enumerate(re.split(r"\{\{(\w+)\}\}", template)):
        yield values[part] if i % 2 else part


def policy(template: str, media: str = "'none'") -> str:
    """A content security policy that allows the template's own script and style, and sound from ``media``."""

    def hashes(pattern: str) -> str:
        found = re.findall(pattern, template, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in found)
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    script, style = hashes(r"<script>(.*?)</script>"), hashes(r"<style>(.*?)</style>")
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; media-src {media}; "
        "base-uri 'none'; form-action 'none'"
    )


def escape(text: str) -> str:
    """Safe inside an element and inside a quoted attribute; no control characters, no overriding of the direction."""
    return html.escape("".join(map(_harmless, text)), quote=True)


def _harmless(char: str) -> str:
    if char.isprintable() or char in _JOINERS or _is_emoji(char):
        return char
    if unicodedata.category(char) == "Zs":
        return " "
    return "" if char in _UNSEEN else "\N{REPLACEMENT CHARACTER}"


def _is_emoji(char: str) -> bool:
    """Or a part of one: the tags that make flags, and what is younger than Python's tables of Unicode."""
    code = ord(char)
    none = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return 0xE0020 <= code <= 0xE007F or (unicodedata.category(char) == "Cn" and not none)


def _data(value: list) -> str:
    seconds, moments = value
    content = json.dumps({"seconds": seconds, "moments": moments}, ensure_ascii=True)
    return content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _facts(t: Timeline) -> str:
    known = languages.name(t.language) if t.language else "language"
    parts = [clock(t.seconds), _utterances(len(t.moments)), f"words from {t.transcript}"]
    return escape(" · ".join([*parts, f"{known}: {t.language_source}"]))


def _notes(t: Timeline) -> str:
    if not t.notes:
        return ""
    return f'<div class="note" role="note">{"".join(f"<p>{escape(n)}</p>" for n in t.notes)}</div>'


def _whole(t: Timeline) -> str:
    heading = '<section aria-labelledby="whole"><h2 id="whole">In short</h2>'
    if not t.speech_found:
        return f'{heading}<p class="big">No speech found.</p><p>So nothing is scored.</p></section>'
    s = summarise(t.moments)
    spoken = f'<p class="soft">{escape(_amount(s))}</p></section>'
    if s.unscored:
        enough = s.unscored == NOT_ENOUGH
        reason = "Not enough speech for a score of the whole" if enough else f"Nothing is scored: {s.unscored}"
        return f'{heading}<p class="big">{escape(reason)}.</p>{spoken}'
    lines = []
    if s.sentiment is not None:
        lines.append(
            f'<p class="big">On the whole {mood(s.sentiment)} ({signed(s.sentiment)} on a scale from −3 to +3): '
            f"{s.positive:.0%} of the speech positive, {s.negative:.0%} negative, "
            f"{max(1 - s.positive - s.negative, 0):.0%} neutral.</p>"
        )
    if s.emotions:
        lines.append(f"<p>Emotions, how probable on average: {s.likeliest()}.</p>")
    return heading + "".join(lines) + spoken


def _amount(s: Summary) -> str:
    return f"{clock(s.seconds)} of speech in {_utterances(s.moments)}"


def _utterances(count: int) -> str:
    return f"{count} utterance{'s' if count != 1 else ''}"


def _player(source: str | None) -> str:
    src = f' src="{escape(source)}"' if source else ""
    return (
        f'<section class="player screen" aria-label="Player"><audio controls preload="metadata"{src}></audio>'
        '<div class="row"><span class="now" id="now"></span>'
        '<label><input type="checkbox" id="follow" checked> scroll along</label></div>'
        '<p class="hidden">Space plays and pauses, n and p go to the next and the previous utterance.</p>'
        '<p class="hidden" id="gone-to" role="status"></p></section>'
    )


def _speakers(t: Timeline) -> str:
    summaries = by_speaker(t)
    if not summaries:
        return ""
    rows = []
    for s in summaries:
        name = escape(s.name or "")
        amount = f'<td class="num">{clock(s.seconds)}</td><td class="num">{s.moments}</td>'
        if s.unscored:
            rows.append(f'<tr><th scope="row">{name}</th>{amount}<td colspan="4">{escape(s.unscored)}</td></tr>')
            continue
        sentiment = "–" if s.sentiment is None else f"{signed(s.sentiment)} {mood(s.sentiment)}"
        rows.append(
            f'<tr><th scope="row">{name}</th>{amount}<td>{sentiment}</td><td class="num">{s.positive:.0%}</td>'
            f'<td class="num">{s.negative:.0%}</td><td>{s.likeliest(3)}</td></tr>'
        )
    return (
        '<section aria-labelledby="speakers"><h2 id="speakers">Speakers</h2><div class="wide"><table><thead><tr>'
        '<th scope="col">speaker</th><th scope="col" class="num">speech</th><th scope="col" class="num">utterances</th>'
        '<th scope="col">mean sentiment</th><th scope="col" class="num">positive</th><th scope="col" class="num">'
        'negative</th><th scope="col">likeliest emotions</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _moments(t: Timeline) -> str:
    lists = [
        ("Most positive", [(m, _mood(m)) for m in strongest(t, 1)]),
        ("Most negative", [(m, _mood(m)) for m in strongest(t, -1)]),
        ("Words and voice disagree", [(m, _disagreement(m)) for m in disagreements(t)]),
    ]
    shown = []
    for title, found in lists:
        if found:
            items = "".join(
                f'<li>{_jump(m)}<span><span class="said">{escape(m.text)}</span><br>'
                f'<span class="soft">{escape(what)}</span></span></li>'
                for m, what in found
            )
            shown.append(f"<div><h3>{title}</h3><ol>{items}</ol></div>")
    if not shown:
        return ""
    return (
        '<section aria-labelledby="moments"><h2 id="moments">Moments</h2>'
        f'<div class="columns">{"".join(shown)}</div></section>'
    )


def _disagreement(m: Moment) -> str:
    emotion, contrast = m.contrast_emotion or "", m.contrast or 0.0
    in_words = m.words.emotions.get(emotion, 0.0) if m.words else 0.0
    in_voice = m.voice.emotions.get(emotion, 0.0) if m.voice else 0.0
    more = "the words" if contrast > 0 else "the voice"
    return f"{emotion}: more in {more} than is usual here (words {in_words:.0%}, voice {in_voice:.0%})"


def _transcript(t: Timeline) -> str:
    if not t.speech_found:
        return ""
    items = "".join(_item(m) for m in t.moments)
    return (
        '<section aria-labelledby="transcript"><h2 id="transcript" tabindex="-1">Transcript</h2>'
        '<p class="soft screen">Choose a time to hear it. <kbd>space</kbd> plays and pauses, <kbd>n</kbd> and '
        f'<kbd>p</kbd> go to the next and the previous utterance.</p><ol class="transcript">{items}</ol></section>'
    )


def _item(m: Moment) -> str:
    speaker = f'<span class="speaker">{escape(m.speaker)}:</span> ' if m.speaker else ""
    details = ""
    if m.words and m.voice:
        details = (
            f"<details><summary>words and voice apart</summary>words alone: {escape(_alone(m.words))}<br>"
            f"voice alone: {escape(_alone(m.voice))}</details>"
        )
    said = f'{speaker}<span class="said">{escape(m.text)}</span>'
    level = _level(m.sentiment)
    return f'<li class="{level}">{_jump(m)}<div>{said}<div class="meta">{escape(_mood(m))}</div>{details}</div></li>'


def _jump(m: Moment) -> str:
    time = clock(m.start)
    return f'<button type="button" class="t" data-t="{m.start:.3f}" aria-label="play from {time}">{time}</button>'


def _mood(m: Moment) -> str:
    if not m.scored:
        return f"not scored: {m.unscored}"
    parts = []
    if m.sentiment is not None:
        band = "" if m.low is None or m.high is None else f" ({signed(m.low)} to {signed(m.high)})"
        parts.append(f"{signed(m.sentiment)} {mood(m.sentiment)}{band}")
    if m.emotions:
        parts.append(", ".join(f"{e} {m.emotions[e]:.0%}" for e in m.present) or "no emotion over its threshold")
    if m.truncated:
        parts.append("its end was not read")
    return " · ".join(parts)


def _spoken(m: Moment) -> str:
    """A few words for the player's line and for screen readers."""
    if not m.scored:
        return f"not scored ({m.unscored})"
    top = f", {m.top}" if m.top else ""
    return (f"sentiment {signed(m.sentiment)}" if m.sentiment is not None else "emotions") + top


def _alone(a: Alone) -> str:
    ranked = sorted(a.emotions.items(), key=lambda item: -item[1])[:3]
    sentiment = [] if a.sentiment is None else [signed(a.sentiment)]
    return ", ".join([*sentiment, *(f"{e} {p:.0%}" for e, p in ranked)])


def _level(sentiment: float | None) -> str:
    sentiment = round(sentiment or 0.0, 1)
    if abs(sentiment) < 0.5:
        return "z"
    return ("p" if sentiment > 0 else "n") + ("1" if abs(sentiment) < 1.0 else "2" if abs(sentiment) < 2.0 else "3")


def signed(value: float) -> str:
    """With a true minus sign."""
    return summary.signed(value).replace("-", "−")


def _limits(t: Timeline) -> str:
    paragraphs: Sequence[str] = [
        "The model predicts how annotators would judge an utterance, from its words and its sound. It does not know "
        "what somebody feels. Do not judge people by it or decide about them: not in hiring, school, policing, "
        "health, insurance or credit. Ask for the consent of those who are heard.",
        "Sentiment goes from −3 to +3. " + _band_words(t),
        "Emotions are probabilities, calibrated on valid data: of utterances like those, about as many were judged to "
        "have the emotion as the number says. Utterances in another kind of recording may be off. Several emotions "
        "may be likely at once.",
        "Words alone and voice alone: what the model says from one of them. They were learned from different people "
        f"and situations; a disagreement is shown where they are at least {CONTRAST:.0%} farther apart than is usual "
        "in this recording. Where no other data was at hand, the emotions of words and voice together are the mean of "
        f"both.{_context_words(t)}"
        if {"text", "audio"} <= set(t.model.get("reads", []))
        else "This model reads only " + " and ".join(t.model.get("reads", [])) + "." + _context_words(t),
        f"The words come from {t.transcript}. Misheard words give wrong scores; speakers are told apart only where a "
        "transcript names them. Short exclamations are joined to what is said next to them, or not scored "
        "(“not enough speech”).",
        _learned(t),
        "Irony, quotations, singing, several people at once, noise, children and accents other than North American "
        "English are often misread.",
    ]
    return "".join(f"<p>{escape(p)}</p>" for p in paragraphs)


def _context_words(t: Timeline) -> str:
    if not t.model.get("context"):
        return ""
    alone = "; words alone and voice alone are not" if {"text", "audio"} <= set(t.model.get("reads", [])) else ""
    return f" Each score is then read in the light of the other utterances of this recording{alone}."


def _band_words(t: Timeline) -> str:
    errors = t.model.get("sentiment_error_quantiles")
    if not errors:
        return "How uncertain each number is: band not known for this model."
    count = max(int(e["n"]) for e in errors.values())
    share = LEVELS[1] - LEVELS[0]
    unseen = "that the model had not learned from"
    if t.model.get("valid_learned"):
        unseen = "that the same recipe had not learned from, before it learned some of them, too"
    return (
        f"The band around it (in brackets, and pale in the curve) holds what annotators said for {share:.0%} of "
        f"{count:,} utterances {unseen}; for other kinds of speech it is wider."
    )


def _learned(t: Timeline) -> str:
    count = t.model.get("train_utterances")
    learned = f"The model learned from {count:,} utterances. " if isinstance(count, int) else ""
    return learned + "It knows English only, unless it is one of your own; its model card says more."
