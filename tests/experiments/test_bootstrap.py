import json
from dataclasses import replace

import numpy as np
import pytest

from mmolre.evaluate.emotion import emotion_metrics
from mmolre.evaluate.report import direction
from mmolre.evaluate.sentiment import sentiment_metrics
from mmolre.evaluate.significance import paired_bootstrap
from mmolre.evaluate.thresholds import EmotionThresholds
from mmolre.experiments import table
from mmolre.experiments.bootstrap import compare, draw, resampled
from mmolre.experiments.scored import Scored

N = 60
CUTS = {
    "text": EmotionThresholds((0.3,) * 6, (0.4, 0.5, 0.6, 0.4, 0.5, 0.6), 0.45, 0.35, 0.5),
    "audio": EmotionThresholds.default(),
}


def some(seed: int, *, unlabelled: bool = True) -> Scored:
    """Labels are the same for every seed, predictions are not."""
    labels, draws = np.random.default_rng(0), np.random.default_rng(seed)
    sentiment = np.round(labels.normal(size=N) * 1.5, 1).clip(-3, 3)
    sentiment[:9] = 0
    emotions = (labels.random((N, 6)) < 0.4).astype(float)
    if unlabelled:
        sentiment[::7] = np.nan
        emotions[::5] = np.nan
        emotions[1, 2] = np.nan
    prediction = np.nan_to_num(sentiment) + draws.normal(size=N)
    probability = (0.4 * np.nan_to_num(emotions) + 0.6 * draws.random((N, 6))).clip(0, 1)
    sets = [("text",) if i % 3 else ("audio",) for i in range(N)]
    return Scored([(str(i), 0) for i in range(N)], prediction, probability, sentiment, emotions, sets, CUTS, 0.0)


@pytest.mark.parametrize("unlabelled", [True, False])
def test_all_drawn_once_gives_the_metrics(unlabelled):
    scored = some(1, unlabelled=unlabelled)
    values = resampled(scored, np.ones((1, N), np.uint16))
    metrics = scored.metrics()
    assert len(values) == 11
    for key, (value,) in values.items():
        task, name = key.split(".")
        assert value == pytest.approx(metrics[task][name], abs=1e-12), key


@pytest.mark.parametrize("key", ["sentiment.mae", "sentiment.corr", "sentiment.acc2_non0", "sentiment.acc7"])
def test_as_the_slow_bootstrap_of_sentiment(key):
    a, b = some(1), some(2)
    counts = draw(N, 40)
    name = key.split(".")[1]
    slow = paired_bootstrap(
        lambda p, t: sentiment_metrics(p, t)[name],
        *(a.sentiment, b.sentiment, a.true_sentiment),
        higher_is_better=direction(key) == "max",
        n_resamples=40,
    )
    delta = sentiment_metrics(a.sentiment, a.true_sentiment)[name]
    delta -= sentiment_metrics(b.sentiment, b.true_sentiment)[name]
    fast = compare(key, [resampled(a, counts)[key]], [resampled(b, counts)[key]], delta)
    for field in ("delta", "low", "high", "p"):
        assert getattr(fast, field) == pytest.approx(getattr(slow, field), abs=1e-9)


@pytest.mark.parametrize("name", ["wa_mean", "macro_f1", "micro_f1", "jaccard", "hamming"])
def test_as_the_slow_bootstrap_of_emotions(name):
    a, b = some(1), some(2)
    key, counts, rows = f"emotion.{name}", draw(N, 12), a.row_thresholds()

    def metric(p, t):
        # The thresholds' rows go with the predictions, as a column of them.
        return emotion_metrics(p[:, :6], t, [rows[int(i)] for i in p[:, 6]])[name]

    index = np.arange(N)[:, None].astype(float)
    both = [np.hstack([s.emotions, index]) for s in (a, b)]
    up = direction(key) == "max"
    slow = paired_bootstrap(metric, *both, a.true_emotions, higher_is_better=up, n_resamples=12)
    fast = compare(key, [resampled(a, counts)[key]], [resampled(b, counts)[key]], slow.delta if up else -slow.delta)
    assert (fast.low, fast.high, fast.p) == pytest.approx((slow.low, slow.high, slow.p), abs=1e-9)


def test_with_each_resample_seeds_are_drawn_for_each_model_apart():
    counts = draw(N, 50)
    a = np.array([resampled(some(seed), counts)["sentiment.mae"] for seed in (1, 2, 5)])
    b = np.array([resampled(some(seed), counts)["sentiment.mae"] for seed in (3, 4)])
    result = compare("sentiment.mae", list(a), list(b), -0.1, seed=7)
    assert result.delta == 0.1
    rng = np.random.default_rng(7)
    drawn_a, drawn_b = rng.integers(3, size=(3, 50)), rng.integers(2, size=(2, 50))
    deltas = []
    for r in range(50):
        means = []
        for values, drawn in ((a[:, r], drawn_a[:, r]), (b[:, r], drawn_b[:, r])):
            mean, wide = values.mean(), (len(values) / (len(values) - 1)) ** 0.5
            means.append(mean + wide * (np.mean([values[s] for s in drawn]) - mean))
        deltas.append(means[1] - means[0])
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(deltas, [0.025, 0.975])))


def test_the_interval_is_as_wide_as_the_means_of_so_few_trainings_vary():
    # All utterances alike, so that nothing but the seeds differs.
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5), rng.normal(size=5)
    result = compare("sentiment.corr", *([np.full(50_000, v) for v in values] for values in (a, b)), delta=0.0)
    error = np.sqrt(a.var(ddof=1) / 5 + b.var(ddof=1) / 5)
    assert result.high - result.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_one_seed_is_taken_as_given():
    result = compare("sentiment.corr", [np.array([0.2, 0.2])], [np.array([0.1, 0.1])], 0.1)
    assert (result.low, result.high) == pytest.approx((0.1, 0.1))


def test_a_metric_that_is_never_defined():
    nothing = np.full(5, np.nan)
    result = compare("emotion.macro_f1", [nothing], [nothing], 0.0)
    assert np.isnan(result.low)
    assert result.p == 1


def test_a_resample_without_any_label_of_emotions_has_no_metric_of_them():
    scored = some(1)
    counts = np.zeros((2, N), np.uint16)
    counts[0, 0] = counts[1, 1] = 3  # of these utterances the first has no label of any emotion
    values = resampled(scored, counts)
    for key in (key for key in values if key.startswith("emotion.")):
        assert np.isnan(values[key][0]), key
    assert values["emotion.micro_f1"][1] >= 0


def test_a_metric_of_one_labelled_utterance_shows_nothing():
    counts = draw(N, 20)
    one = np.arange(N) == 1
    a, b = (replace(s, true_sentiment=np.where(one, 1.0, np.nan)) for s in (some(1), some(2)))
    result = compare("sentiment.mae", *([resampled(s, counts)["sentiment.mae"]] for s in (a, b)), delta=0.1)
    assert np.isnan([result.low, result.high]).all()
    assert result.p == 1


def test_one_utterance_is_a_dash_in_the_table(tmp_path):
    a, b = (some(seed).at([("1", 0)]) for seed in (1, 2))
    scored = {"hard": [a, a], "mmolre": [b, b]}
    found = {name: table._metrics(several) for name, several in scored.items()}
    content = {"seeds": 2, "n": 1, "rows": {name: {"title": name, "metrics": of} for name, of in found.items()}}
    content["better"] = table._better(scored, found, ["hard"])
    table.write_json(tmp_path / "compare.json", content)
    kept = json.loads((tmp_path / "compare.json").read_text())
    mae = kept["better"]["mmolre"]["hard"]["sentiment.mae"]
    assert (mae["low"], mae["high"], mae["p"]) == (None, None, 1)
    pages = [table.markdown("T", of) for of in (content, kept)]
    assert pages[0] == pages[1]
    assert "| mmolre | – | – |" in pages[0].split("Against: hard")[1]
