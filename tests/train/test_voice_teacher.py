from pathlib import Path

import numpy as np
import pytest

from mmolre import Utterance
from outside import load_file

script = load_file(Path(__file__).parents[2] / "scripts" / "voice_teacher.py")


def made(seed: int = 0):
    """Features, labels and speakers of 4 × 21 utterances, whose labels can be read off the features."""
    draw = np.random.default_rng(seed)
    y = np.tile(np.arange(7), 12)
    x = (np.eye(7)[y] * 3 + draw.normal(size=(84, 7))).astype(np.float32)
    return x, y, np.repeat(["a", "b", "c", "d"], 21)


def test_strangers_hear_what_there_is():
    x, y, speakers = made()
    found = script.said_by_strangers(x, y, speakers)
    assert found.shape == (84, 7)
    assert found.sum(1) == pytest.approx(1)
    assert (found.argmax(1) == y).mean() > 0.6


def test_no_label_of_ones_own_is_heard():
    x, y, speakers = made()
    found = script.said_by_strangers(x, y, speakers)
    others = y.copy()
    others[speakers == "b"] = np.roll(y[speakers == "b"], 1)
    again = script.said_by_strangers(x, others, speakers)
    assert again[speakers == "b"] == pytest.approx(found[speakers == "b"])
    assert np.abs(again[speakers == "a"] - found[speakers == "a"]).max() > 1e-3


def test_an_emotion_that_only_one_acts():
    x, y, speakers = made()
    kept = (y != 3) | (speakers == "c")
    found = script.said_by_strangers(x[kept], y[kept], speakers[kept])
    assert (found[speakers[kept] == "c", 3] == 0).all()


@pytest.mark.parametrize(
    ("emotions", "index"),
    [
        ((0, 0, 2, 0, 0, 0), 2),
        ((0,) * 6, 6),
        ((1, 0, 0, 0, 0, 1), None),
        ((0, None, 0, 0, 0, 1), None),
        ((None,) * 6, None),
    ],
)
def test_at_most_one_emotion_is_learned(emotions, index):
    assert script.emotion_of(Utterance("u", text="a", emotions=emotions)) == index
