import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from mmolre.errors import UserError
from mmolre.evaluate.sentiment import sentiment3_metrics, sentiment_metrics, weighted_f1

nan = float("nan")


def mmsa(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """MMSA's rules, written with scikit-learn and per-sample loops, as the oracle."""
    kept = truth != 0
    return {
        "mae": float(np.mean([abs(p - t) for p, t in zip(pred, truth, strict=True)])),
        "corr": float(np.corrcoef(pred, truth)[0, 1]),
        "acc2_has0": accuracy_score(truth >= 0, pred >= 0),
        "f1_has0": f1_score(truth >= 0, pred >= 0, average="weighted"),
        "acc2_non0": accuracy_score(truth[kept] > 0, pred[kept] > 0),
        "f1_non0": f1_score(truth[kept] > 0, pred[kept] > 0, average="weighted"),
        "acc7": accuracy_score(np.round(np.clip(truth, -3, 3)).astype(int), np.round(np.clip(pred, -3, 3)).astype(int)),
        "acc5": accuracy_score(np.round(np.clip(truth, -2, 2)).astype(int), np.round(np.clip(pred, -2, 2)).astype(int)),
        "n": len(truth),
    }


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_mmsas_rules(seed):
    rng = np.random.default_rng(seed)
    truth = np.round(rng.uniform(-3, 3, 200) * 3) / 3
    pred = truth + rng.normal(0, 1.5, 200)
    assert (truth == 0).any()
    assert (np.abs(pred) > 3).any()
    assert sentiment_metrics(pred, truth) == pytest.approx(mmsa(pred, truth))


def test_halves_round_to_even():
    # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, and the same below 0; rounding half up would give 0 of 6.
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    even = np.array([0.0, 2.0, 2.0, 0.0, -2.0, -2.0])
    assert sentiment_metrics(halves, even)["acc7"] == 1
    assert sentiment_metrics(even, halves)["acc7"] == 1


def test_acc5_clips_at_two_and_mae_does_not_clip():
    metrics = sentiment_metrics([5.0, 2.4], [3.0, 3.0])
    assert metrics["acc5"] == 1
    assert metrics["acc7"] == 0.5
    assert metrics["mae"] == pytest.approx((2.0 + 0.6) / 2)


def test_zeros_in_both_conventions():
    pred = np.array([0.0, -0.1, 0.2, 0.0, 0.0])
    truth = np.array([1.0, 0.0, 0.0, -1.0, 2.0])
    metrics = sentiment_metrics(pred, truth)
    # has0: predictions >= 0 are + - + + +, truths >= 0 + + + - +: three right.
    assert metrics["acc2_has0"] == pytest.approx(3 / 5)
    assert metrics["f1_has0"] == pytest.approx(4 / 5 * 3 / 4)  # class "+": P 3/4, R 3/4; class "-": never right
    # non0: the first and the last two remain, predictions > 0 are - - -, truths > 0 + - +: one right.
    assert metrics["acc2_non0"] == pytest.approx(1 / 3)
    assert metrics["f1_non0"] == pytest.approx(1 / 3 * 1 / 2)  # class "-": P 1/3, R 1; class "+": never predicted


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3])
def test_constants_have_no_correlation(constant):
    metrics = sentiment_metrics(np.full(7, constant), np.linspace(-1, 1, 7))
    assert math.isnan(metrics["corr"])
    assert math.isnan(sentiment_metrics(np.linspace(-1, 1, 7), np.full(7, constant))["corr"])
    assert not math.isnan(metrics["mae"])


@pytest.mark.parametrize("truth", [[], [nan, nan]])
def test_nothing_labelled(truth):
    metrics = sentiment_metrics(np.zeros(len(truth)), truth)
    assert metrics.pop("n") == 0
    assert all(math.isnan(value) for value in metrics.values())


def test_one_sample_and_only_zeros():
    one = sentiment_metrics([1.0], [0.0])
    assert one["mae"] == 1
    assert one["acc2_has0"] == 1
    assert math.isnan(one["corr"])
    assert math.isnan(one["acc2_non0"])


finite = st.floats(-4, 4, allow_nan=False)


@given(st.lists(st.tuples(finite, st.one_of(st.just(nan), finite)), min_size=1, max_size=20), st.randoms())
@settings(max_examples=60, deadline=None)
def test_unlabelled_never_leaks_and_order_does_not_matter(pairs, random):
    pred, truth = (np.array(column) for column in zip(*pairs, strict=True))
    expected = sentiment_metrics(pred, truth)
    leaky = np.where(np.isnan(truth), nan, pred)  # even a broken prediction, where nothing is labelled
    order = random.sample(range(len(pairs)), len(pairs))
    assert sentiment_metrics(leaky, truth) == pytest.approx(expected, nan_ok=True)
    assert sentiment_metrics(pred[order], truth[order]) == pytest.approx(expected, nan_ok=True, rel=1e-9, abs=1e-9)


def test_broken_predictions_are_refused():
    with pytest.raises(UserError, match="2 of 3 predictions are not finite"):
        sentiment_metrics([nan, float("inf"), 0.0], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="must both be"):
        sentiment_metrics(np.zeros((3, 1)), np.zeros(3))


def test_weighted_f1_agrees_with_sklearn():
    rng = np.random.default_rng(0)
    truth, pred = rng.integers(0, 3, 50), rng.integers(0, 4, 50)  # a class that is only ever predicted
    assert weighted_f1(pred, truth) == pytest.approx(f1_score(truth, pred, average="weighted", zero_division=0))


def test_three_classes():
    pred = np.array([-1.0, -0.5, 0.5, 0.6, 2.0, 0.0])
    truth = np.array([-1.0, 0.0, 0.0, 1.0, -2.0, nan])
    metrics = sentiment3_metrics(pred, truth)
    assert metrics["acc3"] == pytest.approx(0.8)
    assert metrics["f1_3"] == pytest.approx(f1_score([-1, 0, 0, 1, -1], [-1, 0, 0, 1, 1], average="weighted"))
    assert metrics["n"] == 5
