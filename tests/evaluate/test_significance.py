import numpy as np
import pytest

from mmolre.evaluate.sentiment import pearson
from mmolre.evaluate.significance import paired_bootstrap


def mae(pred, truth):
    return float(np.abs(pred - truth).mean())


rng = np.random.default_rng(0)
TRUTH = rng.normal(size=300)
GOOD, POOR = TRUTH + rng.normal(0, 0.5, 300), TRUTH + rng.normal(0, 0.8, 300)


def test_identical_predictions_do_not_differ():
    result = paired_bootstrap(mae, GOOD, GOOD, TRUTH, higher_is_better=False, n_resamples=200)
    assert (result.delta, result.low, result.high, result.p) == (0, 0, 0, 1)


def test_a_clear_difference_is_found_and_signed_by_direction():
    better = paired_bootstrap(mae, GOOD, POOR, TRUTH, higher_is_better=False, n_resamples=500)
    assert better.delta == pytest.approx(mae(POOR, TRUTH) - mae(GOOD, TRUTH))
    assert 0 < better.low < better.delta < better.high
    assert better.p == pytest.approx(2 / 501)  # the smallest that 500 resamples can claim
    worse = paired_bootstrap(mae, POOR, GOOD, TRUTH, higher_is_better=False, n_resamples=500)
    assert (worse.delta, worse.high, worse.p) == pytest.approx((-better.delta, -better.low, better.p))
    corr = paired_bootstrap(pearson, GOOD, POOR, TRUTH, higher_is_better=True, n_resamples=200)
    assert corr.low > 0
    assert corr.delta == pytest.approx(pearson(GOOD, TRUTH) - pearson(POOR, TRUTH))


def test_noise_is_not_found_to_differ():
    noise = np.random.default_rng(5)
    ps = []
    for seed in range(20):
        a, b = (TRUTH + noise.normal(0, 0.5, 300) for _ in "ab")
        ps.append(paired_bootstrap(mae, a, b, TRUTH, higher_is_better=False, n_resamples=200, seed=seed).p)
    assert 0.2 < np.mean(ps) < 0.8


def test_interval_agrees_with_the_normal_one_for_a_mean():
    difference = np.abs(POOR - TRUTH) - np.abs(GOOD - TRUTH)
    half = 1.96 * difference.std() / np.sqrt(300)
    result = paired_bootstrap(mae, GOOD, POOR, TRUTH, higher_is_better=False)
    assert (result.low, result.high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.012)


def test_groups_are_drawn_whole():
    groups = np.repeat([f"v{i}" for i in range(10)], 30)
    seen = []

    def spy(pred, truth):
        seen.append([int((truth == t).sum()) for t in TRUTH[:30]])
        return 0.0

    paired_bootstrap(spy, GOOD, POOR, TRUTH, higher_is_better=True, groups=groups, n_resamples=20)
    assert all(len(set(counts)) == 1 for counts in seen)  # all utterances of the first video as often as one another
    assert len({counts[0] for counts in seen}) > 1  # and not the same number each time
    # Utterances that all say the same are no more evidence than one.
    clustered = np.repeat(np.random.default_rng(1).normal(0.2, 1, 10), 30)
    zeros = np.zeros(300)
    mean = lambda p, t: float(p.mean())  # noqa: E731
    alone = paired_bootstrap(mean, clustered, zeros, zeros, higher_is_better=True, n_resamples=500)
    whole = paired_bootstrap(mean, clustered, zeros, zeros, higher_is_better=True, groups=groups, n_resamples=500)
    assert whole.high - whole.low > 3 * (alone.high - alone.low)


def test_same_seed_same_result_and_bad_input():
    run = lambda seed: paired_bootstrap(mae, GOOD, POOR, TRUTH, higher_is_better=False, n_resamples=50, seed=seed)  # noqa: E731
    assert run(1) == run(1) != run(2)
    with pytest.raises(ValueError, match="299"):
        paired_bootstrap(mae, GOOD[:-1], POOR, TRUTH, higher_is_better=False)
    with pytest.raises(ValueError, match="not defined"):
        paired_bootstrap(lambda p, t: float("nan"), GOOD, POOR, TRUTH, higher_is_better=False, n_resamples=5)


def test_undefined_resamples_are_left_out():
    truth = np.array([0.0, 0.0, 1.0])  # a resample without the last has no correlation
    result = paired_bootstrap(
        pearson, truth, truth + np.array([0.1, 0.5, 0]), truth, higher_is_better=True, n_resamples=300
    )
    assert np.isfinite([result.low, result.high, result.p]).all()


@pytest.mark.parametrize("groups", [None, ["v"] * 4])
def test_one_of_a_kind_shows_nothing(groups):
    n = 4 if groups else 1
    result = paired_bootstrap(mae, np.full(n, 0.1), np.full(n, 0.3), np.zeros(n), higher_is_better=False, groups=groups)
    assert (result.delta, result.p) == (pytest.approx(0.2), 1)
    assert np.isnan([result.low, result.high]).all()
    with pytest.raises(ValueError, match="not defined"):
        paired_bootstrap(lambda p, t: float("nan"), [1.0], [1.0], [1.0], higher_is_better=True)
