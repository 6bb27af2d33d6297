from dataclasses import replace

import numpy as np
import pytest

from mmolre import UserError
from mmolre.evaluate.thresholds import EmotionThresholds
from mmolre.experiments.scored import (
    PREDICTIONS_FILE,
    Scored,
    combine,
    common_keys,
    read_predictions,
    write_predictions,
)
from mmolre.schema import Utterance

CUTS = {"text": EmotionThresholds.default()}


def scored(ids: str, shift: float = 0.0, sentiment: bool = True, emotions: bool = True) -> Scored:
    n = len(ids)
    place = np.array([ord(i) for i in ids], float)
    return Scored(
        [(i, 0) for i in ids],
        place + shift if sentiment else np.full(n, np.nan),
        np.full((n, 6), 0.5 + shift) if emotions else np.full((n, 6), np.nan),
        place,
        np.tile(place[:, None], (1, 6)),
        [("text",)] * n,
        CUTS,
        0.0,
    )


def test_two_models_are_one_row_on_what_both_have():
    got = combine({"sentiment": scored("abcd", 0.1, emotions=False), "emotion": scored("dbx", 0.2, sentiment=False)})
    assert got.keys == [("b", 0), ("d", 0)]
    assert got.sentiment.tolist() == [ord("b") + 0.1, ord("d") + 0.1]
    assert got.emotions.tolist() == [[0.7] * 6] * 2
    assert got.true_sentiment.tolist() == [ord("b"), ord("d")]


def test_other_data_is_refused():
    with pytest.raises(UserError, match=r"no utterance of test was scored by all of the runs.* compare fewer"):
        common_keys([scored("ab"), scored("xy")])
    other = scored("ab")
    with pytest.raises(UserError, match="different data: the labels of test rows differ"):
        common_keys([scored("ab"), replace(other, true_sentiment=other.true_sentiment + 1)])


def test_kept_and_read_again(tiny_run, tmp_path):
    utterances = [
        Utterance("é\u2028", sentiment=-1.25, emotions=(0, 1, None, 0, 3, 0), text="x"),
        Utterance("é\u2028", sentiment=None, emotions=(None,) * 6, text="y"),
    ]
    sentiment = np.array([0.1, np.nan])
    emotions = np.array([[1 / 3] * 6, [np.nan] * 6])
    (tmp_path / "model").symlink_to(tiny_run.folder / "model")
    write_predictions(tmp_path / PREDICTIONS_FILE, utterances, [("text",), ("text", "audio")], sentiment, emotions)
    got = read_predictions(tmp_path)
    assert got.keys == [("é\u2028", 0), ("é\u2028", 1)]
    np.testing.assert_array_equal(got.sentiment, sentiment)
    np.testing.assert_array_equal(got.emotions, emotions)
    np.testing.assert_array_equal(got.true_sentiment, [-1.25, np.nan])
    np.testing.assert_array_equal(got.true_emotions[0], [0, 1, np.nan, 0, 3, 0])
    assert got.modalities == [("text",), ("text", "audio")]
    assert got.at([("é\u2028", 1)]).modalities == [("text", "audio")]
    (tmp_path / PREDICTIONS_FILE).write_text('{"id": "a"')
    with pytest.raises(UserError, match="no readable predictions"):
        read_predictions(tmp_path)
