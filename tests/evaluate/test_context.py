import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from mmolre.errors import UserError
from mmolre.evaluate.context import LEAST, OUTPUTS, RIDGE, STEP, Context, Recordings, fit_context, outputs, values
from mmolre.evaluate.decision import Decision
from mmolre.evaluate.thresholds import fit_thresholds
from mmolre.inference import RawPredictions

NAN = float("nan")
WEIGHTS = Context(tuple((0.1 * v, -0.2, 0.5) for v in range(OUTPUTS)))


def others(recordings, values_nv):
    sums = Recordings()
    sums.add(recordings, values_nv)
    return sums.others(recordings, values_nv)


def apply(recordings, values_nv, context=WEIGHTS):
    return context.apply(values_nv, others(recordings, values_nv))


def drawn(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, OUTPUTS))


def test_worked_by_hand():
    own = np.zeros((4, OUTPUTS))
    own[:, 0] = [1.0, 2.0, 6.0, -1.0]
    found = others(["a", "a", "a", "b"], own)
    assert found.trust.tolist() == [0.5, 0.5, 0.5, 0.0]
    assert found.mean[:, 0].tolist() == [4.0, 3.5, 1.5, 0.0]
    context = Context(((0.2, -0.1, 0.3),) + ((0.0, 0.0, 0.0),) * 6)
    # 1 + .5 (.2 - .1 + 1.2) / 2, 2 + .5 (.2 - .2 + 1.05) 2 / 3, 6 + .5 (.2 - .6 + .45) 6 / 7; the last has no others
    expected = [1.325, 2.35, 6 + 0.15 / 7, -1.0]
    assert apply(["a", "a", "a", "b"], own, context)[:, 0] == pytest.approx(expected)
    emotion = Context(((0.0, 0.0, 0.0),) * 6 + ((0.2, -0.1, 0.3),))
    own[:, 6] = own[:, 0]
    expected = [1.65, 2.525, 6.025, -1.0]  # the same, whole
    assert apply(["a", "a", "a", "b"], own, emotion)[:, 6] == pytest.approx(expected)


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_neither_order_nor_chunks_matter_and_who_is_alone_stays(recordings, random):
    own = drawn(len(recordings))
    expected = apply(recordings, own)
    order = random.sample(range(len(recordings)), len(recordings))
    mixed = apply([recordings[i] for i in order], own[order])
    np.testing.assert_allclose(mixed, expected[order], rtol=1e-12, atol=1e-12)
    sums = Recordings()
    for i in range(0, len(recordings), 3):
        sums.add(recordings[i : i + 3], own[i : i + 3])
    for i, recording in enumerate(recordings):
        one = WEIGHTS.apply(own[[i]], sums.others([recording], own[[i]]))
        np.testing.assert_allclose(one[0], expected[i], rtol=1e-12, atol=1e-12)
        alone = recording is None or recordings.count(recording) == 1
        assert np.array_equal(expected[i], own[i]) == alone


def test_what_is_neutral_stays_so():
    own = drawn(3)
    own[:, 0] = [0.0, 2.0, 3.0]
    assert apply(["a"] * 3, own)[0, 0] == 0.0


def test_values_and_outputs_are_inverse_and_finite():
    sentiment, probabilities = np.array([0.5, 9.0, NAN]), np.array([[0.2] * 6, [0.0] * 6, [1.0] * 6])
    found = values(sentiment, probabilities)
    assert found[:2, 0].tolist() == [0.5, 3.0]
    assert np.isnan(found[2, 0])
    back = outputs(found)[1]
    np.testing.assert_allclose(back[:, 0], [0.2, LEAST, 1 - LEAST])


def corpus(n=600, size=5, seed=0):
    """Utterances of recordings that have moods, which a model sees little of in each."""
    draw = np.random.default_rng(seed)
    recordings = [f"r{i // size}" for i in range(n)]
    mood = np.repeat(draw.normal(size=(n // size, OUTPUTS)), size, axis=0)
    truth = mood + draw.normal(size=(n, OUTPUTS))
    own = truth + 2 * draw.normal(size=(n, OUTPUTS))
    own[:, 0] = np.clip(own[:, 0], -3, 3)
    return own, recordings, truth[:, 0], (truth[:, 1:] > 0.5).astype(float)


def test_the_fit_is_the_minimum_that_scipy_finds():
    own, recordings, sentiment, emotions = corpus()
    found = fit_context(own, recordings, sentiment, emotions)
    of = others(recordings, own)

    def loss(w, v):
        size = np.abs(own[:, 0])
        trust = of.trust * (size / (size + 1) if v == 0 else 1)
        z = own[:, v] + trust * (w[0] + w[1] * own[:, v] + w[2] * of.mean[:, v])
        if v == 0:
            each = np.sqrt((z - sentiment) ** 2 + STEP**2)
        else:
            each = np.logaddexp(0, z) - z * emotions[:, v - 1]
        return each.sum() + RIDGE / 2 * w @ w

    for v in range(OUTPUTS):
        expected = minimize(loss, np.zeros(3), args=(v,), method="BFGS", options={"gtol": 1e-7}).x
        np.testing.assert_allclose(found.weights[v], expected, atol=2e-4)


def test_others_help_where_recordings_have_moods():
    own, recordings, sentiment, emotions = corpus()
    context = fit_context(own, recordings, sentiment, emotions)
    fresh, recordings, sentiment, emotions = corpus(seed=1)
    together = apply(recordings, fresh, context)
    assert np.abs(together[:, 0] - sentiment).mean() < 0.8 * np.abs(fresh[:, 0] - sentiment).mean()
    for e in range(6):
        assert roc_auc_score(emotions[:, e], together[:, 1 + e]) > roc_auc_score(emotions[:, e], fresh[:, 1 + e]) + 0.02


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_unlabelled_cells_count_as_others_and_no_more(seed):
    own, recordings, sentiment, emotions = corpus(60, seed=seed)
    draw = np.random.default_rng(seed)
    hidden, cells = draw.random(60) < 0.3, draw.random((60, 6)) < 0.3
    sentiment[hidden], emotions[cells] = NAN, NAN
    found = fit_context(own, recordings, sentiment, emotions)
    # What is predicted of them is read as others'; of the loss's gradient, which is 0, they are no part.
    of = others(recordings, own)
    trust = of.trust * np.abs(own[:, 0]) / (np.abs(own[:, 0]) + 1)
    features = trust[:, None] * np.stack([np.ones(60), own[:, 0], of.mean[:, 0]], axis=1)
    error = (own[:, 0] + features @ found.weights[0] - sentiment)[~hidden]
    gradient = features[~hidden].T @ (error / np.hypot(error, STEP)) + RIDGE * np.array(found.weights[0])
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert found == fit_context(own, recordings, sentiment, emotions)


@pytest.mark.parametrize("labels", ["none", "no recordings", "one task"])
def test_without_anything_to_learn_from_all_stays(labels):
    own, recordings, sentiment, emotions = corpus(60)
    if labels == "none":
        sentiment[:], emotions[:] = NAN, NAN
    elif labels == "no recordings":
        recordings = [None] * 60
    else:
        own[:, 1:], emotions[:] = NAN, NAN
    found = fit_context(own, recordings, sentiment, emotions)
    assert all(w == (0.0, 0.0, 0.0) for w in found.weights[1:])
    together = apply(recordings, own, found)
    np.testing.assert_array_equal(together[:, 1:], own[:, 1:])
    assert (found.weights[0] != (0.0, 0.0, 0.0)) == (labels == "one task")


def test_json():
    assert Context.from_json(json.loads(json.dumps(WEIGHTS.to_json()))) == WEIGHTS
    for bad in (None, "x", [[1, 2, 3]], [[1, 2]] * 7, [[1, 2, "x"]] * 7, [[1, 2, NAN]] * 7, [[[1], 2, 3]] * 7):
        with pytest.raises(UserError, match="context: not 7 times 3 numbers"):
            Context.from_json(bad)


def raw_of(own):
    modalities = [("text",)] * len(own)
    return RawPredictions(modalities, own[:, 0], own[:, 1:], {"text": own[:, 1:]}, {"text": own[:, 0]})


def test_a_decision_in_context():
    own, recordings, sentiment, emotions = corpus()
    raw = raw_of(own)
    plain = Decision.fit(raw, emotions, sentiment=sentiment)
    decision = Decision.fit(raw, emotions, sentiment=sentiment, recordings=recordings)
    assert plain.context is None
    assert decision.context is not None
    assert decision.calibration == plain.calibration
    for a, b in zip(decision.read(raw), plain.read(raw), strict=True):
        np.testing.assert_array_equal(a, b)
    read = decision.read(raw, recordings)
    expected = apply(recordings, values(*plain.read(raw)), decision.context)
    np.testing.assert_allclose(values(*read)[:, 1:], expected[:, 1:], atol=1e-9)
    np.testing.assert_allclose(read[0], expected[:, 0])
    # Probabilities in context are sharper and still mean what they say.
    assert abs(read[1].mean() - emotions.mean()) < 0.01
    assert read[1].std() > 1.1 * plain.read(raw)[1].std()
    assert decision.thresholds == decision.limits(together=False) == plain.thresholds == plain.limits(together=True)
    assert decision.context_thresholds == {"text": fit_thresholds(read[1], emotions, calibrated=True)}
    assert decision.limits(together=True) == decision.context_thresholds
    assert decision.for_rows([("text",)], together=True) == [decision.context_thresholds["text"]]
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision
    assert "context" not in plain.to_json()


def test_voices_with_at_most_one_emotion_are_neither_shifted_nor_shift():
    """Each emotion shifted by itself, the probabilities of a softmax would no longer be any."""
    own, recordings, sentiment, emotions = corpus()
    voices = np.arange(len(own)) % 2 == 1
    modalities = [("audio",) if voice else ("text",) for voice in voices]
    alone = {m: np.where((voices == (m == "audio"))[:, None], own, NAN) for m in ("text", "audio")}
    both = RawPredictions(
        modalities,
        own[:, 0],
        own[:, 1:],
        {m: x[:, 1:] for m, x in alone.items()},
        {m: x[:, 0] for m, x in alone.items()},
    )
    one = np.where(np.arange(6) == emotions.argmax(axis=1)[:, None], emotions, 0.0)
    truth = np.where(voices[:, None], one, emotions)
    found = Decision.fit(both, truth, sentiment=sentiment, recordings=recordings, exclusive=("audio",))
    read, plain = found.read(both, recordings), found.read(both)
    for a, b in zip(read, plain, strict=True):
        np.testing.assert_allclose(a[voices], b[voices], rtol=1e-12)
        assert not np.allclose(a[~voices], b[~voices])
    assert (read[1][voices].sum(axis=1) <= 1 + 1e-9).all()
    # The words are read as if the voices were of no recording, when it is fitted too.
    of_words = [None if voice else r for voice, r in zip(voices, recordings, strict=True)]
    again = Decision.fit(both, truth, sentiment=sentiment, recordings=of_words, exclusive=("audio",))
    assert found == again
    np.testing.assert_array_equal(found.read(both, of_words)[0], read[0])
    assert found.context_thresholds["audio"] == found.thresholds["audio"]


def test_a_decision_in_context_without_a_task():
    own, recordings, sentiment, emotions = corpus(60)
    own[:, 1:] = NAN
    decision = Decision.fit(raw_of(own), np.full_like(emotions, NAN), sentiment=sentiment, recordings=recordings)
    read = decision.read(raw_of(own), recordings)
    assert not np.isnan(read[0]).any()
    assert np.isnan(read[1]).all()
