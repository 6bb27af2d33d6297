import json

import numpy as np
import pytest

from mmolre.errors import UserError
from mmolre.evaluate.calibration import (
    MIN_SCALE,
    Calibration,
    combine,
    expected_calibration_error,
    fit_calibration,
    fit_exclusive,
)

nan = float("nan")


def bce(logits, truth):
    there = truth > 0
    return float((np.logaddexp(0, logits) - there * logits)[~np.isnan(truth)].mean())


def sample(n=4000, scale=0.5, bias=-1.0, seed=0):
    """Raw logits, and labels that follow sigmoid(scale * logit + bias)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, 6))
    truth = (rng.random((n, 6)) < 1 / (1 + np.exp(-(scale * logits + bias)))).astype(float)
    return logits, truth


def test_recovers_a_known_scale_and_bias():
    logits, truth = sample()
    calibration = fit_calibration(logits, truth)
    assert calibration.scale == pytest.approx((0.5,) * 6, abs=0.06)
    assert calibration.bias == pytest.approx((-1.0,) * 6, abs=0.15)
    assert bce(calibration.logits(logits), truth) < bce(logits, truth)
    raw = 1 / (1 + np.exp(-logits))
    assert expected_calibration_error(calibration.apply(logits), truth) < 0.02
    assert expected_calibration_error(raw, truth) > 0.1


def test_each_emotion_is_the_optimum_of_its_objective():
    logits, truth = sample(80, seed=4)
    logits[:, 3:] *= 2  # so that emotions differ
    unit = np.sqrt((logits**2).mean())

    def cross_entropy(a, b, x, y):
        z = a * x + b
        return (np.logaddexp(0, z) - z * y).sum()

    def of_all(w):
        return cross_entropy(*w, logits, truth) + 0.35 * ((w[0] - 1) ** 2 + w[1] ** 2)

    common = fit_calibration(logits, truth, ridge=0.7, pull=1e9)  # so strong that all are the common ones
    centre = np.array([common.scale[0], common.bias[0]])
    assert np.ptp(common.scale) < 1e-6
    assert np.ptp(common.bias) < 1e-6

    def of_one(w):
        pulled = (unit * (w[0] - centre[0])) ** 2 + (w[1] - centre[1]) ** 2
        return cross_entropy(*w, logits[:, 2], truth[:, 2]) + 2.5 * pulled

    each = fit_calibration(logits, truth, ridge=0.7, pull=5.0)
    best = np.array([each.scale[2], each.bias[2]])
    for step in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert of_all(centre + step) > of_all(centre)
        assert of_one(best + step) > of_one(best)


def test_an_emotion_without_labels_gets_what_all_say_and_unlabelled_cells_do_not_matter():
    logits, truth = sample(50)
    truth[:, 3] = nan
    truth[:25, 0] = nan
    calibration = fit_calibration(logits, truth)
    common = fit_calibration(logits, truth, pull=1e9)
    assert (calibration.scale[3], calibration.bias[3]) == pytest.approx((common.scale[0], common.bias[0]), abs=1e-6)
    assert fit_calibration(np.where(np.isnan(truth), nan, logits), truth) == calibration


def test_without_any_label_it_changes_nothing():
    logits, truth = sample(50)
    assert fit_calibration(logits, np.full_like(truth, nan)) == Calibration()


def test_few_labels_of_one_emotion_do_not_outweigh_all_others():
    logits, truth = sample(4000)
    few = truth.copy()
    few[8:, 0] = nan
    few[:8, 0] = 1.0  # all of the eight that are known
    lone, drawn = fit_calibration(logits, few, pull=1e-3), fit_calibration(logits, few)
    assert bce(drawn.logits(logits)[:, 0], truth[:, 0]) < 1.05 * bce(0.5 * logits[:, 0] - 1, truth[:, 0])
    assert bce(lone.logits(logits)[:, 0], truth[:, 0]) > 2 * bce(drawn.logits(logits)[:, 0], truth[:, 0])


def test_hard_cases_stay_finite_and_keep_the_ranking():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 30, (200, 6))
    truth = (logits > 0).astype(float)  # separable
    truth[:, 1] = 1 - truth[:, 1]  # worse than chance
    truth[:, 2], truth[:, 3] = 0.0, 1.0  # one class only
    calibration = fit_calibration(logits, truth)
    assert np.isfinite([*calibration.scale, *calibration.bias]).all()
    assert calibration.scale[1] == MIN_SCALE
    assert min(calibration.scale) >= MIN_SCALE
    prob = calibration.apply([[-1e6] * 6, [1e6] * 6])
    assert ((prob >= 0) & (prob <= 1)).all()


def test_bad_input():
    with pytest.raises(UserError, match="not finite"):
        fit_calibration(np.full((2, 6), nan), np.zeros((2, 6)))
    with pytest.raises(ValueError, match="must both be"):
        fit_calibration(np.zeros((2, 5)), np.zeros((2, 5)))


def test_json_round_trip_is_exact():
    calibration = fit_calibration(*sample(100))
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


@pytest.mark.parametrize("change", [{"scale": [1.0] * 5}, {"scale": [-1.0] * 6}, {"bias": None}, {"bias": [nan] * 6}])
def test_broken_json_is_refused(change):
    with pytest.raises(UserError, match=r"^emotion calibration: .*valid$"):
        Calibration.from_json(Calibration().to_json() | change)


def test_combining_is_the_mean_and_never_beyond_either():
    text, audio = np.array([[2.0, -1, 0, 0, 0, 0]]), np.array([[4.0, 3, 0, 0, 0, 0]])
    assert combine({"text": text, "audio": audio})[0, :2].tolist() == [3.0, 1.0]
    assert (combine({"audio": audio}) == audio).all()


def test_expected_calibration_error_by_hand():
    # two bins of two: (.1, .2) with frequency .5, (.8, .9) with frequency 1
    prob, truth = [0.9, 0.1, 0.8, 0.2, 0.3], [1.0, 0.0, 2.0, 1.0, nan]
    assert expected_calibration_error(prob, truth, bins=2) == pytest.approx((0.35 + 0.15) / 2)
    assert np.isnan(expected_calibration_error([0.5], [nan]))


def softmaxed(n=3000, scale=0.4, seed=1):
    """Raw logits, and labels of at most one emotion that follow a softmax of scale * (them and 0)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (n, 6))
    z = scale * np.column_stack([logits, np.zeros(n)])
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    which = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    return logits, np.eye(7)[which][:, :6], p


def test_exclusive_logits_are_those_of_a_softmax_over_seven():
    logits, _, p = softmaxed(50)
    calibration = Calibration(scale=(0.4,) * 6, exclusive=True)
    np.testing.assert_allclose(calibration.apply(logits), p[:, :6], atol=1e-12)
    np.testing.assert_allclose(calibration.logits(logits), np.log(p[:, :6]) - np.log1p(-p[:, :6]), atol=1e-9)
    np.testing.assert_allclose(calibration.apply(logits[3]), p[3, :6], atol=1e-12)
    far = calibration.logits(np.array([4000.0, 3000, 0, 0, 0, -9000]))
    assert np.isfinite(far).all()
    assert far[0] == pytest.approx(400)


def test_exclusive_recovers_a_known_temperature():
    logits, truth, _ = softmaxed()
    calibration = fit_exclusive(logits, truth)
    assert calibration.exclusive
    assert calibration.scale == pytest.approx((0.4,) * 6, abs=0.02)
    assert calibration.bias == (0.0,) * 6
    assert expected_calibration_error(calibration.apply(logits), truth) < 0.02
    assert fit_exclusive(logits[:1], truth[:1], ridge=1e9).scale == pytest.approx((1.0,) * 6)


def test_exclusive_is_the_optimum_of_its_objective():
    logits, truth, _ = softmaxed(60)

    def loss(scale):
        z = scale * np.column_stack([logits, np.zeros(60)])
        which = np.where(truth.any(1), truth.argmax(1), 6)
        return (np.log(np.exp(z).sum(1)) - z[range(60), which]).sum() + (scale - 1) ** 2 / 2

    found = fit_exclusive(logits, truth).scale[0]
    assert min(np.linspace(0.05, 1.5, 2901), key=loss) == pytest.approx(found, abs=1e-3)


def test_exclusive_takes_rows_of_at_most_one_emotion_with_all_labels():
    logits, truth, _ = softmaxed(80)
    odd = truth.copy()
    odd[:20, 0], odd[20:30, :2] = nan, 1
    assert fit_exclusive(logits, odd) == fit_exclusive(logits[30:], truth[30:])
    assert fit_exclusive(logits, np.full_like(truth, nan)).scale == pytest.approx((1.0,) * 6)
    against = fit_exclusive(logits, np.eye(6)[logits.argmin(1)])
    assert against.scale == (MIN_SCALE,) * 6
    with pytest.raises(UserError, match="not finite"):
        fit_exclusive(np.full((2, 6), nan), np.zeros((2, 6)))


def test_exclusive_json_round_trip():
    calibration = fit_exclusive(*softmaxed(60)[:2])
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration
    assert "exclusive" not in Calibration().to_json()
