import numpy as np

from mmolre.evaluate.residuals import band, sentiment_error_quantiles


def test_quantiles_of_the_error_per_set_of_modalities():
    errors = np.linspace(-1, 1, 101)
    predicted = np.zeros(202)
    truth = np.concatenate([errors, 2 * errors])
    modalities = [("text",)] * 101 + [("text", "audio")] * 101
    found = sentiment_error_quantiles(predicted, truth, modalities)
    assert found["text"] == {"low": -0.8, "high": 0.8, "n": 101}
    assert found["text+audio"] == {"low": -1.6, "high": 1.6, "n": 101}
    assert found["all"]["n"] == 202


def test_unlabelled_rows_and_few_rows_give_nothing():
    truth = np.full(60, np.nan)
    truth[:49] = 1.0
    assert sentiment_error_quantiles(np.zeros(60), truth, [("text",)] * 60) == {}
    truth[49] = 1.0
    assert set(sentiment_error_quantiles(np.zeros(60), truth, [("text",)] * 60)) == {"all", "text"}


def test_band_of_its_own_set_or_of_all_or_none():
    about = {"sentiment_error_quantiles": {"all": {"low": -1, "high": 2, "n": 99}, "text": {"low": -3, "high": 0.5}}}
    assert band(about, "text") == (-3.0, 0.5)
    assert band(about, "text+audio") == (-1.0, 2.0)
    assert band({}, "text") is None
