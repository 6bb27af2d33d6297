import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mmolre import UserError, Utterance
from mmolre.experiments.crossvalidate import deal
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


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """Four actors' 84 utterances, whose features :func:`made` draws."""
    x, y, speakers = made()
    utterances = [
        Utterance(f"u{i}", audio=tmp_path / f"{i}.wav", split="train", speaker=str(s), emotions=emotions_of(int(e)))
        for i, (e, s) in enumerate(zip(y, speakers, strict=True))
    ]
    monkeypatch.setattr(script, "statistics", lambda rows, _: np.stack([x[int(u.id[1:])] for u in rows]))
    monkeypatch.setattr(script, "read_manifest", lambda _: utterances)
    return utterances


def emotions_of(index: int) -> tuple[float, ...]:
    return tuple(float(i == index) for i in range(6))


def test_a_file_for_each_fold_of_what_it_learns_alone(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "m.csv", "--folds", "4", "--out", str(tmp_path / "said-{fold}.jsonl")])
    script.main()
    for number, fold in enumerate(deal(manifest, "speaker", 4), 1):
        lines = (tmp_path / f"said-{number}.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == [u.id for u in fold.learned if u.split == "train"]


@pytest.mark.parametrize(
    ("folds", "out", "reason"),
    [("3", "said.jsonl", r"needs \{fold\} in it"), ("9", "said-{fold}.jsonl", "^--folds 9: 4 speakers are too few")],
)
def test_what_is_wrong_with_the_folds_is_said_in_a_line(manifest, tmp_path, monkeypatch, folds, out, reason):
    monkeypatch.setattr(sys, "argv", ["", "m.csv", "--folds", folds, "--out", str(tmp_path / out)])
    with pytest.raises(UserError, match=reason):
        script.main()
    assert not list(tmp_path.glob("*.jsonl"))
