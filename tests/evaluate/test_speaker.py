import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from mmolre.errors import UserError
from mmolre.evaluate.context import Context
from mmolre.evaluate.decision import Decision
from mmolre.evaluate.speaker import (
    BETWEEN,
    CLASSES,
    FEWEST,
    FEWEST_OF_CLASS,
    LEAST,
    PULL,
    E,
    Speakers,
    fit_speakers,
    logits_of,
    probabilities_of,
)
from mmolre.evaluate.together import OnTheirOwn, Together
from mmolre.inference import RawPredictions

NAN = float("nan")
MEANS = np.vstack([3 * np.eye(E) - 1, np.full(E, -2.5)])
ROOT = np.tril(np.random.default_rng(5).normal(scale=0.3, size=(E, E))) + np.eye(E)
VOICES = Speakers(tuple(map(tuple, MEANS.tolist())), tuple(map(tuple, (ROOT @ ROOT.T).tolist())))
WORDS = Context(((0.0, 0.0, 0.0),) + ((0.5, -0.2, 0.8),) * E)


def said(classes, shift, seed=0):
    noise = np.random.default_rng(seed).normal(size=(len(classes), E)) @ ROOT.T
    return MEANS[classes] + shift + noise


def labels(classes):
    return (np.asarray(classes)[:, None] == np.arange(E)).astype(float)


def log_posterior(shift, prior, logits):
    within = np.array(VOICES.within)
    each = [multivariate_normal(mean + shift, within).pdf(logits) for mean in MEANS]
    of_shift = multivariate_normal(np.zeros(E), BETWEEN * within).logpdf(shift)
    return np.log(prior @ np.array(each)).sum() + of_shift + np.log(prior).sum()


@pytest.mark.parametrize("classes", [[0] * 9, [0, 1, 2, 3, 4, 5, 6] * 2, [6] * 20 + [1] * 3])
def test_the_shift_is_the_likeliest_one(classes):
    logits = said(classes, np.linspace(-1, 1, E))
    found = VOICES.shift(logits)

    def lost(x):
        prior = np.exp(x[E:] - np.logaddexp.reduce(x[E:]))
        return -log_posterior(x[:E], prior, logits)

    slow = minimize(lost, np.zeros(E + CLASSES), method="BFGS")
    np.testing.assert_allclose(found, slow.x[:E], atol=2e-3)


def test_what_all_of_a_speakers_utterances_hold_is_left_to_them():
    """Twenty sad utterances are no reason to think that sadness is how the speaker sounds; a shift common to all is."""
    sad = [2] * 20
    kept = VOICES.shift(said(sad, np.zeros(E)))
    assert np.abs(kept).max() < 0.25 * np.abs(MEANS[2] - MEANS.mean(axis=0)).max()
    shift = np.array([1.5, 0, 0, -1, 0, 0])
    classes = [0, 1, 2, 3, 4, 5, 6] * 6
    before, after = (VOICES.shift(said(classes, s)) for s in (np.zeros(E), shift))
    np.testing.assert_allclose(after - before, shift, atol=0.3)


def test_few_utterances_have_no_shift():
    logits = said([0] * FEWEST, np.ones(E))
    assert VOICES.shift(logits).any()
    assert not VOICES.shift(logits[1:]).any()
    assert not VOICES.shift(logits[:0]).any()


@given(st.integers(0, 1000), st.integers(FEWEST, 40))
@settings(max_examples=30, deadline=None)
def test_order_does_not_matter_and_no_shift_is_beyond_the_prior(seed, count):
    rng = np.random.default_rng(seed)
    logits = said(rng.integers(0, CLASSES, count), rng.normal(size=E), seed)
    found = VOICES.shift(logits)
    np.testing.assert_allclose(VOICES.shift(rng.permutation(logits)), found, atol=1e-8)
    np.testing.assert_allclose(VOICES.shift(np.repeat(logits[:1], count, axis=0)), VOICES.shift(logits[[0] * count]))


@given(st.lists(st.floats(0, 1), min_size=E, max_size=E), st.floats(0, 1))
def test_logits_and_probabilities(weights, rest):
    total = sum(weights) + rest
    if total < 1e-3:
        return
    p = np.array([weights]) / total
    back = probabilities_of(logits_of(p))
    np.testing.assert_allclose(back, p, atol=(E + 1) * LEAST)
    assert back.sum() <= 1 + 1e-12


def test_fit_worked_slowly():
    rng = np.random.default_rng(3)
    classes = np.array([0, 1, 2, 3, 4, 5, 6] * 12)
    speakers = [("r", "a"), ("r", "b"), None] * 28
    emotions = labels(classes)
    z = said(classes, np.zeros(E)) + rng.normal(size=(1, E))
    emotions[4, 2] = NAN  # not wholly labelled
    emotions[10, :2] = 1.0  # two at once
    found = fit_speakers(z, speakers, emotions)
    rows = [i for i in range(len(classes)) if speakers[i] is not None and i not in (4, 10)]
    means = [np.mean([z[i] for i in rows if classes[i] == c], axis=0) for c in range(CLASSES)]
    np.testing.assert_allclose(found.means, means)
    scatter = np.zeros((E, E))
    for speaker in (("r", "a"), ("r", "b")):
        rest = np.array([z[i] - means[classes[i]] for i in rows if speakers[i] == speaker])
        scatter += len(rest) * np.cov(rest.T, bias=True)
    free = len(rows) - 2 - 6
    np.testing.assert_allclose(
        found.within, (scatter + PULL * np.eye(E) * np.trace(scatter / free) / E) / (free + PULL), atol=1e-12
    )


def test_nothing_is_fitted_to_too_little():
    classes = np.repeat(np.arange(CLASSES), FEWEST_OF_CLASS)
    z, emotions = said(classes, np.zeros(E)), labels(classes)
    assert fit_speakers(z, ["a"] * len(z), emotions) is not None
    assert fit_speakers(z[1:], ["a"] * (len(z) - 1), emotions[1:]) is None
    assert fit_speakers(z, [None] * len(z), emotions) is None
    assert fit_speakers(z, ["a"] * len(z), np.full_like(emotions, NAN)) is None
    assert fit_speakers(np.zeros_like(z), ["a"] * len(z), emotions) is None
    assert fit_speakers(z[:0], [], emotions[:0]) is None


def test_json():
    assert Speakers.from_json(json.loads(json.dumps(VOICES.to_json()))) == VOICES
    good = VOICES.to_json()
    uneven = np.array(good["within"])
    uneven[0, 1] += 0.1
    for bad in (
        None,
        {},
        good | {"means": good["means"][1:]},
        good | {"within": [[0.0] * E] * E},
        good | {"within": uneven.tolist()},
        good | {"means": [[NAN] * E] * CLASSES},
        good | {"within": "x"},
        good | {"within": np.diag([float("inf")] + [1.0] * (E - 1)).tolist()},
    ):
        with pytest.raises(UserError, match="speakers: not 7 means and a covariance"):
            Speakers.from_json(bad)


def collection():
    return Together(WORDS, {"audio": VOICES}, frozenset({"audio"}))


def test_speakers_of_different_recordings_are_different_and_words_are_of_the_recording():
    n = 12
    classes = np.arange(n) % CLASSES
    p = probabilities_of(said(classes, np.linspace(-1, 1, E)))
    sentiment = np.linspace(-1, 1, n)
    voices, words = [("audio",)] * n, [("text",)] * n

    def read(modalities, recordings, speakers):
        together = collection()
        own = OnTheirOwn(modalities, recordings, speakers, sentiment, p)
        together.add(own)
        return together.with_others, *together.read(own)

    counted, own_sentiment, by_one = read(voices, ["call"] * n, ["A"] * n)
    assert counted == n
    np.testing.assert_allclose(by_one, probabilities_of(logits_of(p) - VOICES.shift(logits_of(p))))
    np.testing.assert_array_equal(own_sentiment, sentiment)
    _, _, of_none = read(voices, [None] * n, ["A"] * n)
    np.testing.assert_array_equal(of_none, by_one)  # a corpus that knows speakers and no recordings
    two = ["A" if i % 2 else "B" for i in range(n)]
    _, _, by_two = read(voices, ["call"] * n, two)
    odd = np.arange(n) % 2 == 1
    expected = logits_of(p[odd]) - VOICES.shift(logits_of(p[odd]))
    np.testing.assert_allclose(by_two[odd], probabilities_of(expected))
    _, _, by_call = read(voices, ["call" if i % 2 else "other" for i in range(n)], ["A"] * n)
    np.testing.assert_allclose(by_call[odd], by_two[odd])
    # Of unknown speakers, and of few utterances, a voice stays as it is, to the last bit.
    for recordings, speakers in ((["call"] * n, [None] * n), ([str(i) for i in range(n)], ["A"] * n)):
        counted, _, same = read(voices, recordings, speakers)
        assert counted == 0
        np.testing.assert_allclose(same, p, atol=1e-12)
    counted, _, of_words = read(words, ["call"] * n, ["A"] * n)
    assert counted == n
    assert np.abs(of_words - p).max() > 0.05
    np.testing.assert_array_equal(read(words, ["call"] * n, [None] * n)[2], of_words)
    assert read(words, [None] * n, ["A"] * n)[0] == 0
    assert read(words, ["call", "call", *map(str, range(n - 2))], ["A"] * n)[0] == 2
    # Neither do voices change what words are read with, nor words what voices are.
    mixed = [("audio",) if i % 2 else ("text",) for i in range(n)]
    _, _, both = read(mixed, ["call"] * n, ["A"] * n)
    np.testing.assert_allclose(both[odd], by_two[odd])


def test_pieces_are_as_the_whole():
    n = 12
    p = probabilities_of(said(np.arange(n) % CLASSES, np.linspace(-1, 1, E)))

    def part(start, stop):
        rows = range(n)[start:stop]
        return OnTheirOwn(
            [("audio",)] * len(rows), ["call"] * len(rows), ["A"] * len(rows), np.zeros(len(rows)), p[rows]
        )

    whole, pieces = collection(), collection()
    whole.add(part(0, n))
    pieces.add(part(0, 5))
    pieces.add(part(5, 10))
    early = pieces.read(part(0, 1))[1]
    pieces.add(part(10, n))
    expected = whole.read(part(0, n))[1]
    np.testing.assert_allclose(np.concatenate([pieces.read(part(i, i + 1))[1] for i in range(n)]), expected)
    assert not np.allclose(early, expected[:1])  # what came later counts, too


def test_a_decision_by_speaker():
    """Fitted on two speakers of valid, it tells more of others, who sound different, than each utterance alone."""
    rng = np.random.default_rng(1)
    classes = np.tile(np.arange(CLASSES), 40)
    names = np.repeat([f"actor {i}" for i in range(8)], 35)
    shifts = {name: rng.normal(scale=0.6, size=E) for name in names}
    z = said(classes, np.array([shifts[name] for name in names]))
    emotions = labels(classes)

    def raw(rows):
        return RawPredictions([("audio",)] * len(rows), np.full(len(rows), NAN), z[rows], {"audio": z[rows]}, {})

    valid, test = np.arange(70), np.arange(70, 280)
    none = [None] * 70
    decision = Decision.fit(
        raw(valid), emotions[valid], recordings=none, speakers=names[:70].tolist(), exclusive=("audio",)
    )
    assert set(decision.speakers) == {"audio"}
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision
    plain = Decision.fit(raw(valid), emotions[valid], exclusive=("audio",))
    assert "speakers" not in plain.to_json()
    unknown = Decision.fit(raw(valid), emotions[valid], recordings=none, speakers=none, exclusive=("audio",))
    assert not unknown.speakers
    assert decision.thresholds["audio"] == decision.context_thresholds["audio"] == plain.thresholds["audio"]

    def right(probabilities):
        seven = np.column_stack([probabilities, 1 - probabilities.sum(axis=1)])
        return (seven.argmax(axis=1) == classes[test]).mean()

    nobody = [None] * len(test)
    alone, by_speaker = decision.read(raw(test))[1], decision.read(raw(test), nobody, names[test].tolist())[1]
    np.testing.assert_array_equal(decision.read(raw(test), nobody, nobody)[1], decision.read(raw(test), nobody)[1])
    np.testing.assert_allclose(plain.read(raw(test))[1], alone)
    assert right(by_speaker) > right(alone) + 0.03
