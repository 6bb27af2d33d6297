"""Utterances of a recording to what the model says of them, from words and voice, and from each alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mmolre.data.cache import Features
from mmolre.encoders.base import Encoder
from mmolre.errors import UserError
from mmolre.evaluate.residuals import band
from mmolre.evaluate.thresholds import modality_key
from mmolre.inference import infer
from mmolre.predictor import Prediction, Predictor
from mmolre.recordings.cut import Cut
from mmolre.recordings.sound import Sound
from mmolre.recordings.timeline import NOT_ENOUGH, Alone, Moment
from mmolre.schema import EMOTIONS, SENTIMENT_RANGE, Surroundings

CHUNK = 64
_BATCH = 4  # utterances may last 20 s: 16 of them at a time take a third of a gigabyte more, and are no faster
FEWEST_WORDS = 2
FEWEST_VOICE_SECONDS = 0.3

_AROUND_SECONDS = 0.1  # word times are a little tight
_FEWEST_TO_COMPARE = 5  # what is usual in a recording needs some utterances to say


def recording_encoders(predictor: Predictor) -> dict[str, Encoder]:
    """The encoders of text and audio that the model has.

    Raises:
        UserError: the model reads something that a recording does not give.
    """
    found = {m: s for m, s in predictor.bundle.encoders.items() if isinstance(s, Encoder)}
    if not found:
        reads = " and ".join(predictor.bundle.encoders)
        raise UserError(f"this model reads {reads}, which a recording alone does not give: use one of text or audio")
    return found


def score(
    predictor: Predictor,
    cuts: Sequence[Cut],
    sound: Sound,
    *,
    unreadable: str | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Moment]:
    """What the model says of each utterance; in bounded memory.

    Args:
        predictor: of a model that reads text, audio, or both.
        cuts: the utterances.
        sound: of the recording.
        unreadable: why nothing of it can be scored, if so.
        progress: called with the share that is done, 0 to 1.
    """
    encoders = recording_encoders(predictor)
    moments: list[Moment] = []
    texts = tuple(cut.text for cut in cuts)
    for first in range(0, len(cuts), CHUNK):
        chunk = cuts[first : first + CHUNK]
        around = [Surroundings(texts, first + i) for i in range(len(chunk))]
        moments += _score_chunk(predictor, encoders, chunk, around, sound, unreadable)
        progress((first + len(chunk)) / len(cuts))
    return _with_contrast(_in_context(predictor, moments))


def _score_chunk(
    predictor: Predictor,
    encoders: dict[str, Encoder],
    cuts: Sequence[Cut],
    around: Sequence[Surroundings],
    sound: Sound,
    unreadable: str | None,
) -> list[Moment]:
    moments = [Moment(c.start, c.end, c.text, c.speaker, unscored=unreadable or _too_little(c, encoders)) for c in cuts]
    features: list[dict[str, Features]] = [{} for _ in cuts]
    for i, moment in enumerate(moments):
        if moment.scored and "text" in encoders and (reason := encoders["text"].check(moment.text)):
            moments[i] = replace(moment, unscored=reason)
    wanted = [i for i, moment in enumerate(moments) if moment.scored]
    if not wanted:
        return moments
    if "text" in encoders:
        encoder = encoders["text"]
        excerpts = [encoder.excerpt(moments[i].text, around[i]) for i in wanted]
        for i, found in zip(wanted, encoder.encode(excerpts), strict=True):
            features[i]["text"] = found
    if "audio" in encoders:
        for i in wanted:
            wave = sound.piece(moments[i].start - _AROUND_SECONDS, moments[i].end + _AROUND_SECONDS)
            if len(wave) and not encoders["audio"].check(wave):
                features[i]["audio"] = encoders["audio"].encode([wave])[0]
    for i in wanted:
        if not features[i]:  # a model of voices, and a piece without sound
            moments[i] = replace(moments[i], unscored=NOT_ENOUGH)
    wanted = [i for i in wanted if features[i]]
    if not wanted:
        return moments
    both, alone = _predict(predictor, [features[i] for i in wanted])
    for at, i in enumerate(wanted):
        moments[i] = _moment(predictor, moments[i], both[at], *(alone[m].get(at) for m in ("text", "audio")))
    return moments


def _too_little(cut: Cut, encoders: dict[str, Encoder]) -> str | None:
    words = sum(any(char.isalnum() for char in word) for word in cut.text.split())
    if "text" in encoders and words < FEWEST_WORDS:
        return NOT_ENOUGH
    return NOT_ENOUGH if cut.end - cut.start < FEWEST_VOICE_SECONDS else None


def _predict(
    predictor: Predictor, features: Sequence[dict[str, Features]]
) -> tuple[list[Prediction], dict[str, dict[int, Prediction]]]:
    """From all that an utterance has; and modality -> row -> from that alone."""
    raw = infer(predictor.bundle.model, [{m: f.values for m, f in row.items()} for row in features], batch_size=_BATCH)
    alone: dict[str, dict[int, Prediction]] = {"text": {}, "audio": {}}
    for modality, found in alone.items():
        rows = [i for i, row in enumerate(features) if modality in row]
        if rows:
            only = raw.only(modality, rows)
            read = predictor.read(only, [str(i) for i in rows], [features[i][modality].truncated for i in rows])
            found.update(zip(rows, read, strict=True))
    truncated = [any(f.truncated for f in row.values()) for row in features]
    return predictor.read(raw, [str(i) for i in range(len(features))], truncated), alone


def _moment(
    predictor: Predictor, moment: Moment, both: Prediction, words: Prediction | None, voice: Prediction | None
) -> Moment:
    return replace(
        _with(predictor, moment, both),
        words=Alone(words.sentiment, words.emotions) if words else None,
        voice=Alone(voice.sentiment, voice.emotions) if voice else None,
        truncated=both.truncated,
    )


def _with(predictor: Predictor, moment: Moment, both: Prediction) -> Moment:
    ends = band(predictor.bundle.about, modality_key(tuple(both.modalities)))
    low = high = None
    if ends is not None and both.sentiment is not None:
        low, high = (round(float(np.clip(both.sentiment + e, *SENTIMENT_RANGE)), 4) for e in ends)
    return replace(
        moment,
        sentiment=both.sentiment,
        low=low,
        high=high,
        emotions=both.emotions,
        present=both.present,
        top=both.top,
    )


def _in_context(predictor: Predictor, moments: list[Moment]) -> list[Moment]:
    """Each scored utterance also in the light of the recording's others, where the model reads it so."""
    rows = [i for i, moment in enumerate(moments) if moment.scored]
    if not predictor.reads_context or not rows:
        return moments
    own = []
    for i in rows:
        m = moments[i]
        read = [name for name, alone in (("text", m.words), ("audio", m.voice)) if alone]
        own.append(Prediction(str(i), m.sentiment, m.emotions, m.present, m.top, read, m.truncated))
    done = list(moments)
    together = predictor.in_context(own, ["recording"] * len(own), [moments[i].speaker for i in rows])
    for i, prediction in zip(rows, together, strict=True):
        done[i] = _with(predictor, moments[i], prediction)
    return done


def _with_contrast(moments: list[Moment]) -> list[Moment]:
    """Where words and voice differ, beyond how they differ in this recording anyway.

    The two were learned from different people and have different base rates, so that only what departs from the
    recording's own mean of each is compared.
    """
    rows = [i for i, m in enumerate(moments) if m.words and m.voice and m.words.emotions and m.voice.emotions]
    if len(rows) < _FEWEST_TO_COMPARE:
        return moments
    words = np.array([[moments[i].words.emotions[e] for e in EMOTIONS] for i in rows])  # type: ignore[union-attr]
    voice = np.array([[moments[i].voice.emotions[e] for e in EMOTIONS] for i in rows])  # type: ignore[union-attr]
    difference = (words - np.median(words, axis=0)) - (voice - np.median(voice, axis=0))
    done = list(moments)
    for i, row in zip(rows, np.clip(difference, -1, 1), strict=True):
        most = int(np.abs(row).argmax())
        done[i] = replace(moments[i], contrast=round(float(row[most]), 4), contrast_emotion=EMOTIONS[most])
    return done
