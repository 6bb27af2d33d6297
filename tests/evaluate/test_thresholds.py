import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmolre.errors import UserError
from mmolre.evaluate.emotion import emotion_metrics
from mmolre.evaluate.thresholds import (
    EmotionThresholds,
    fit_thresholds,
    modality_key,
    present,
    thresholds_for,
    top,
)

nan = float("nan")
DEFAULT = EmotionThresholds.default()


def one_value(t: float) -> EmotionThresholds:
    return EmotionThresholds((t,) * 6, (t,) * 6, t, t, t)


# A coarse grid makes equal scores common; 0 and 1 are the ends that a sloppy cut loses.
coarse = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
scores = arrays(float, (9, 6), elements=st.one_of(coarse, st.floats(0, 1)))
labels = arrays(float, (9, 6), elements=st.sampled_from([0.0, 0.0, 0.0, 1.0, 1 / 3, nan]))


@given(scores, labels)
@settings(max_examples=80, deadline=None)
def test_the_fit_is_as_good_as_the_best_of_all_thresholds(prob, truth):
    fitted = emotion_metrics(prob, truth, fit_thresholds(prob, truth))
    tried = [emotion_metrics(prob, truth, one_value(t)) for t in [*np.unique(prob), np.nextafter(1, 2)]]
    complete = truth[~np.isnan(truth).any(axis=1)] > 0
    # Where one class alone is labelled there is nothing to fit, on purpose: it stays .5.
    if len(np.unique(truth[~np.isnan(truth)] > 0)) == 2:
        assert fitted["micro_f1"] == pytest.approx(max(m["micro_f1"] for m in tried))
    if len(np.unique(complete)) == 2:
        assert fitted["jaccard"] == pytest.approx(max(m["jaccard"] for m in tried))
    if (complete.sum(axis=1) == 1).any():
        assert fitted["top_accuracy"] == pytest.approx(max(m["top_accuracy"] for m in tried))
    for name, value in fitted["wa"].items():
        if not np.isnan(value):
            assert value == pytest.approx(max(m["wa"][name] for m in tried))
            assert fitted["f1"][name] == pytest.approx(max(m["f1"][name] for m in tried))


def test_random_floats_against_brute_force():
    rng = np.random.default_rng(1)
    truth = (rng.random((120, 6)) < 0.25).astype(float)
    prob = np.clip(0.35 + 0.2 * truth + rng.normal(0, 0.15, truth.shape), 0, 1)
    fitted = emotion_metrics(prob, truth, fit_thresholds(prob, truth))
    there = truth > 0
    for e, name in enumerate(fitted["wa"]):
        cuts = [prob[:, e] >= t for t in [*prob[:, e], 2]]
        assert fitted["wa"][name] == pytest.approx(
            max((c[there[:, e]].mean() + (~c[~there[:, e]]).mean()) / 2 for c in cuts)
        )
        assert fitted["f1"][name] == pytest.approx(
            max(2 * (c & there[:, e]).sum() / (c.sum() + there[:, e].sum()) for c in cuts)
        )
    best = 0.0
    for t in prob.ravel():
        c = prob >= t
        best = max(best, float(((c & there).sum(1) / np.maximum(1, (c | there).sum(1))).mean()))
    assert fitted["jaccard"] == pytest.approx(best)


@given(st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_of_calibrated_probabilities_the_expected_metrics_are_the_best_that_there_are(seed):
    rng = np.random.default_rng(seed)
    prob = rng.beta(1, 3, (40, 6))
    truth = (rng.random((40, 6)) < prob).astype(float)
    truth[0], truth[1] = 1, 0
    truth[2:6, 0] = nan
    fitted = fit_thresholds(prob, truth, calibrated=True)
    by_label = fit_thresholds(prob, truth)
    assert (fitted.jaccard, fitted.top_none) == (by_label.jaccard, by_label.top_none)

    def expected(p, t):
        """Weighted accuracy and F1 times constants, if each emotion is there as often as its probability says."""
        c = p >= t
        return p[c].sum() / p.sum() - (1 - p)[c].sum() / (1 - p).sum(), p[c].sum() / (c.sum() + p.sum())

    for e in range(6):
        p = prob[~np.isnan(truth[:, e]), e]
        tried = [expected(p, t) for t in [*p, 2]]
        assert expected(p, fitted.wa[e])[0] == pytest.approx(max(wa for wa, _ in tried))
        assert expected(p, fitted.macro_f1[e])[1] == pytest.approx(max(f1 for _, f1 in tried))
        below, above = p[p < p.mean()].max(), p[p >= p.mean()].min()
        assert below <= fitted.wa[e] <= above  # by theory: as often as the emotion is there at all
    p = prob[~np.isnan(truth)]
    assert expected(p, fitted.micro_f1)[1] == pytest.approx(max(expected(p, t)[1] for t in [*p, 2]))


def test_expected_or_not_what_is_labelled_one_way_alone_stays_one_half():
    prob = np.full((4, 6), 0.2)
    assert fit_thresholds(prob, np.zeros((4, 6)), calibrated=True) == DEFAULT
    assert fit_thresholds(prob, np.full((4, 6), nan), calibrated=True) == DEFAULT


def test_a_gap_is_cut_in_its_middle():
    prob = np.tile(np.array([[0.1], [0.2], [0.6], [0.8]]), (1, 6))
    truth = np.tile(np.array([[0.0], [0.0], [1.0], [2.0]]), (1, 6))
    thresholds = fit_thresholds(prob, truth)
    assert thresholds.wa == pytest.approx((0.4,) * 6)
    assert thresholds.macro_f1 == pytest.approx((0.4,) * 6)
    assert thresholds.micro_f1 == pytest.approx(0.4)
    # A sample without any label counts 0 whatever is predicted for it, so all up to .6 is as good.
    assert thresholds.jaccard == pytest.approx(0.3)


def test_of_equal_cuts_the_widest_run_wins_then_the_one_near_half():
    # WA is 3/4 with the threshold in (.5, .98] and in (.35, .45]: the first is wider, though further from .5.
    prob = np.tile(np.array([[0.98], [0.5], [0.45], [0.35]]), (1, 6))
    truth = np.tile(np.array([[1.0], [0.0], [1.0], [0.0]]), (1, 6))
    assert fit_thresholds(prob, truth).wa == pytest.approx((0.74,) * 6)
    # Binary fractions make both runs exactly as wide: (.5, .75] and (.125, .375]; .625 is nearer to .5 than .25.
    prob = np.tile(np.array([[0.75], [0.5], [0.375], [0.125]]), (1, 6))
    assert fit_thresholds(prob, truth).wa == (0.625,) * 6


def test_neighbouring_floats_are_told_apart():
    low = 0.7
    high = float(np.nextafter(low, 1))
    prob = np.tile(np.array([[low], [high]]), (1, 6))
    truth = np.tile(np.array([[0.0], [1.0]]), (1, 6))
    assert emotion_metrics(prob, truth, fit_thresholds(prob, truth))["wa_mean"] == 1


def test_nothing_to_fit_is_one_half():
    assert fit_thresholds(np.zeros((0, 6)), np.zeros((0, 6))) == DEFAULT
    assert fit_thresholds(np.full((4, 6), 0.2), np.full((4, 6), nan)) == DEFAULT
    assert fit_thresholds(np.full((4, 6), 0.2), np.zeros((4, 6))) == DEFAULT
    rng = np.random.default_rng(0)
    prob, truth = rng.random((30, 6)), (rng.random((30, 6)) < 0.5).astype(float)
    truth[:, 2], truth[:, 4] = 1.0, nan  # always there; never labelled
    thresholds = fit_thresholds(prob, truth)
    assert thresholds.wa[2] == thresholds.wa[4] == thresholds.macro_f1[2] == thresholds.macro_f1[4] == 0.5
    assert thresholds.wa[0] != 0.5


def test_none_threshold():
    prob = np.full((6, 6), 0.05)
    truth = np.zeros((6, 6))
    prob[[0, 1, 2], [0, 3, 5]] = 0.8, 0.6, 0.5
    truth[[0, 1, 2], [0, 3, 5]] = 1
    prob[[3, 4], 2] = 0.3, 0.2  # none is there
    prob[5, 1], truth[5, :2] = 0.01, 1  # two emotions are there: not used
    assert fit_thresholds(prob, truth).top_none == pytest.approx(0.4)


@given(scores, labels, arrays(float, (9, 6), elements=st.floats(0, 1)))
@settings(max_examples=30, deadline=None)
def test_unlabelled_cells_do_not_move_thresholds(prob, truth, other):
    assert fit_thresholds(np.where(np.isnan(truth), other, prob), truth) == fit_thresholds(prob, truth)


def test_present_and_top():
    thresholds = EmotionThresholds((0.9,) * 6, (0.5, 0.2, 0.5, 0.5, 0.5, 0.05), 0.9, 0.9, 0.3)
    prob = np.array([[0.6, 0.2, 0.1, 0, 0, 0.04], [0.1, 0.1, 0.1, 0.29, 0, 0], [0, 0, 0, 0, 0.3, 0]])
    assert present(prob, thresholds) == [["happy", "sad"], [], []]
    assert top(prob, thresholds) == ["happy", None, "disgust"]


def test_top_of_alternatives():
    thresholds = replace(DEFAULT, top_none=0.9, rest=True)
    prob = np.array([[0.4, 0.2, 0.1, 0, 0, 0], [0.3, 0.2, 0.1, 0, 0, 0], [0.5, 0.2, 0.9, 0.1, 0, 0], [0.0] * 6])
    assert top(prob, thresholds) == ["happy", None, "anger", None]  # .3 and .4 are left; more than 1 is no matter
    assert top(prob, DEFAULT) == [None, None, "anger", None]


def test_alternatives_among_several_sets():
    text, audio = one_value(0.2), replace(one_value(0.8), rest=True)
    both = thresholds_for({"text": text, "audio": audio}, ("text", "audio"))
    assert not both.rest
    assert both.top_none == pytest.approx(0.5)
    assert thresholds_for({"audio": audio}, ("text", "audio")).rest
    assert EmotionThresholds.from_json(json.loads(json.dumps(audio.to_json()))) == audio
    assert "rest" not in text.to_json()


def test_json_round_trip_is_exact():
    rng = np.random.default_rng(3)
    fitted = fit_thresholds(rng.random((50, 6)), (rng.random((50, 6)) < 0.3).astype(float))
    assert EmotionThresholds.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


@pytest.mark.parametrize(
    "change",
    [{"wa": [0.5] * 5}, {"macro_f1": None}, {"jaccard": "x"}, {"top_none": nan}, {"more": 1}, {"wa": 0.5}],
)
def test_broken_json_is_refused(change):
    with pytest.raises(UserError, match=r"^emotion thresholds: .*valid$"):
        EmotionThresholds.from_json(DEFAULT.to_json() | change)
    with pytest.raises(UserError, match="micro_f1"):
        EmotionThresholds.from_json({k: v for k, v in DEFAULT.to_json().items() if k != "micro_f1"})


def test_thresholds_by_set_of_modalities():
    assert modality_key(("audio", "text")) == "text+audio"
    text, audio = one_value(0.2), one_value(0.8)
    both = thresholds_for({"text": text, "audio": audio}, ("text", "audio"))
    assert both.wa == pytest.approx((0.5,) * 6)  # the mean in logit space
    assert both.top_none == pytest.approx(0.5)
    assert thresholds_for({"text": text, "text+audio": audio}, ("audio", "text")) is audio
    assert thresholds_for({"text": text, "audio": audio}, ("audio",)) is audio
    assert thresholds_for({"text": text}, ("audio",)) == DEFAULT
    assert thresholds_for({"text": text}, ("text", "audio")).jaccard == pytest.approx(0.2)
    extreme = thresholds_for({"text": one_value(0.0), "audio": one_value(1.0000001)}, ("text", "audio"))
    assert extreme.jaccard == pytest.approx(0.5)
