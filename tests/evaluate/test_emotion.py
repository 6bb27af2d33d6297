import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from mmolre.errors import UserError
from mmolre.evaluate.emotion import emotion_metrics
from mmolre.evaluate.thresholds import EmotionThresholds
from mmolre.schema import EMOTIONS

nan = float("nan")
DEFAULT = EmotionThresholds.default()
DISTINCT = EmotionThresholds((0.3, 0.35, 0.4, 0.45, 0.55, 0.6), (0.5, 0.2, 0.6, 0.3, 0.7, 0.4), 0.45, 0.38, 0.62)


def sample(n=300, seed=0, unlabelled=0.0):
    rng = np.random.default_rng(seed)
    truth = np.maximum(0, rng.normal(-0.5, 1, (n, 6)))
    prob = np.clip(0.3 + 0.3 * (truth > 0) + rng.normal(0, 0.2, (n, 6)), 0, 1)
    truth[rng.random((n, 6)) < unlabelled] = nan
    return prob, truth


def flat(metrics):
    out = {}
    for key, value in metrics.items():
        out |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return out


def test_agrees_with_sklearn():
    prob, truth = sample()
    there = truth > 0
    m = emotion_metrics(prob, truth, DISTINCT)
    by_wa, by_f1 = prob >= np.array(DISTINCT.wa), prob >= np.array(DISTINCT.macro_f1)
    by_micro, by_jaccard = prob >= DISTINCT.micro_f1, prob >= DISTINCT.jaccard
    for e, name in enumerate(EMOTIONS):
        assert m["wa"][name] == pytest.approx(sk.balanced_accuracy_score(there[:, e], by_wa[:, e]))
        assert m["wf1"][name] == pytest.approx(sk.f1_score(there[:, e], by_wa[:, e], average="weighted"))
        assert m["f1"][name] == pytest.approx(sk.f1_score(there[:, e], by_f1[:, e]))
        assert m["average_precision"][name] == pytest.approx(sk.average_precision_score(there[:, e], prob[:, e]))
        assert m["auc"][name] == pytest.approx(sk.roc_auc_score(there[:, e], prob[:, e]))
        assert m["support"][name] == there[:, e].sum()
    assert m["macro_f1"] == pytest.approx(sk.f1_score(there, by_f1, average="macro"))
    assert m["micro_f1"] == pytest.approx(sk.f1_score(there, by_micro, average="micro"))
    assert m["hamming"] == pytest.approx(sk.hamming_loss(there, by_micro))
    assert m["jaccard"] == pytest.approx(sk.jaccard_score(there, by_jaccard, average="samples", zero_division=0))
    assert m["jaccard_empty1"] == pytest.approx(sk.jaccard_score(there, by_jaccard, average="samples", zero_division=1))
    assert m["jaccard_empty1"] > m["jaccard"]  # else the two kinds are not told apart by this sample
    assert m["accuracy_cells"] == pytest.approx(((prob >= 0.5) == there).mean())
    for mean, per in (("wa_mean", "wa"), ("wf1_mean", "wf1"), ("ap_mean", "average_precision"), ("auc_mean", "auc")):
        assert m[mean] == pytest.approx(np.mean(list(m[per].values())))


def test_empty_sample_in_both_kinds_of_jaccard():
    truth = np.array([[0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]], float)
    prob = np.array([[0.1] * 6, [0.9, 0.1, 0.1, 0.1, 0.1, 0.9]])
    m = emotion_metrics(prob, truth, DEFAULT)
    assert m["jaccard"] == pytest.approx((0 + 1 / 3) / 2)
    assert m["jaccard_empty1"] == pytest.approx((1 + 1 / 3) / 2)
    assert m["accuracy_cells_majority"] == pytest.approx(10 / 12)


def test_top_accuracy_by_hand():
    truth = np.zeros((5, 6))
    truth[0, 1] = truth[1, 2] = truth[2, 3] = 1
    truth[4, :2] = 1  # two emotions: not counted
    prob = np.full((5, 6), 0.1)
    prob[0, 1] = 0.7  # right
    prob[1, 2] = 0.61  # the right one, but below the none-threshold
    prob[2, 0] = 0.9  # another one
    # sample 3: none, rightly
    m = emotion_metrics(prob, truth, DISTINCT)
    assert m["top_accuracy"] == pytest.approx(2 / 4)
    assert m["top_n"] == 4
    alternatives = replace(DISTINCT, rest=True)  # sample 1's come to more than 1, so that nothing is left for none
    assert emotion_metrics(prob, truth, alternatives)["top_accuracy"] == pytest.approx(3 / 4)
    mixed = [alternatives, DISTINCT, alternatives, alternatives, DISTINCT]
    assert emotion_metrics(prob, truth, mixed)["top_accuracy"] == pytest.approx(2 / 4)
    truth[3, 5] = nan  # not all six labelled: not counted
    assert emotion_metrics(prob, truth, DISTINCT)["top_n"] == 3


def test_one_class_only_is_left_out_of_the_means():
    prob, truth = sample()
    truth[:, 0], truth[:, 1] = 0.0, 1.0
    m = emotion_metrics(prob, truth, DEFAULT)
    for key, mean in (("wa", "wa_mean"), ("auc", "auc_mean"), ("average_precision", "ap_mean")):
        assert math.isnan(m[key]["happy"])
        assert math.isnan(m[key]["sad"])
        assert m[mean] == pytest.approx(np.mean(list(m[key].values())[2:]))


def test_nothing_labelled_is_undefined_without_a_warning():
    m = flat(emotion_metrics(np.full((3, 6), 0.5), np.full((3, 6), nan), DEFAULT))
    counts = {key: m.pop(key) for key in [*(k for k in m if k.startswith("support")), "n", "top_n"]}
    assert set(counts.values()) == {0}
    assert all(math.isnan(value) for value in m.values())


def test_no_sample_is_undefined_too():
    m = flat(emotion_metrics(np.empty((0, 6)), np.empty((0, 6)), DEFAULT))
    assert all(value == 0 or math.isnan(value) for value in m.values())


def test_one_threshold_per_sample():
    prob, truth = sample(40)
    other = EmotionThresholds((0.7,) * 6, (0.7,) * 6, 0.7, 0.7, 0.7)
    mixed = emotion_metrics(prob, truth, [DEFAULT] * 20 + [other] * 20)
    shifted = np.where(np.arange(40)[:, None] < 20, prob >= 0.5, prob >= 0.7).astype(float)
    expected = emotion_metrics(shifted, truth, DEFAULT)
    for key in ("wa_mean", "wf1_mean", "micro_f1", "macro_f1", "jaccard", "hamming"):
        assert mixed[key] == pytest.approx(expected[key])
    with pytest.raises(ValueError, match="39 thresholds for 40"):
        emotion_metrics(prob, truth, [DEFAULT] * 39)


cells = st.one_of(st.just(nan), st.just(0.0), st.floats(0.1, 3))


@given(
    arrays(float, (12, 6), elements=st.floats(0, 1)),
    arrays(float, (12, 6), elements=cells),
    arrays(float, (12, 6), elements=st.one_of(st.just(nan), st.floats(0, 1))),
    st.permutations(range(12)),
)
@settings(max_examples=40, deadline=None)
def test_unlabelled_cells_never_leak_and_order_does_not_matter(prob, truth, other, order):
    expected = flat(emotion_metrics(prob, truth, DISTINCT))
    leaky = np.where(np.isnan(truth), other, prob)
    assert flat(emotion_metrics(leaky, truth, DISTINCT)) == pytest.approx(expected, nan_ok=True)
    assert flat(emotion_metrics(prob[order], truth[order], DISTINCT)) == pytest.approx(expected, nan_ok=True)


def test_broken_predictions_are_refused():
    prob, truth = sample(4)
    prob[0, 0], prob[1, 1] = nan, 1.5
    with pytest.raises(UserError, match="2 of 24 predictions are not probabilities"):
        emotion_metrics(prob, truth, DEFAULT)
    with pytest.raises(ValueError, match="must both be"):
        emotion_metrics(prob[:, :5], truth[:, :5], DEFAULT)
