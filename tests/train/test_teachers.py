import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mmolre
from mmolre import UserError
from mmolre.bundle import load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.manifest import read_manifests
from mmolre.evaluate.run import evaluate
from mmolre.predict_file import predict_file
from mmolre.schema import EMOTIONS, Utterance
from mmolre.train import teachers
from mmolre.train.loop import InterruptedRunError
from mmolre.train.run import Callbacks, train
from mmolre.train.teachers import Taught, ask_teachers
from outside import load_file as load_file_as_module
from tiny_corpus import MISSING, corpus_recipe

TASKS = ("sentiment", "emotion")


@pytest.fixture
def cache(tiny_run) -> FeatureCache:
    return FeatureCache(tiny_run.folder.parent / "features")


@pytest.fixture
def pupils(tiny_corpus):
    return [u for u in read_manifests([tiny_corpus]) if u.split == "train"]


def test_a_teacher_says_what_it_predicts_and_nothing_of_a_row_that_it_cannot_read(
    tiny_run, tiny_corpus, pupils, cache, tmp_path, monkeypatch
):
    monkeypatch.setattr(teachers, "AT_A_TIME", 8)
    seen = []
    taught = ask_teachers(
        [str(tiny_run.folder)], pupils[::-1], TASKS, tmp_path, cache=cache, asking=lambda *told: seen.append(told[1:])
    )
    assert seen == [(0, 19), (8, 19), (16, 19), (19, 19)]
    expected = evaluate(load_bundle(tiny_run.folder), [tiny_corpus], "train", cache=cache)
    index = {u.id: i for i, u in enumerate(expected.utterances)}
    for i, utterance in enumerate(pupils[::-1]):
        if utterance.id == MISSING:
            assert taught.sentiment[i].isnan()
            assert taught.emotions[i].isnan().all()
        else:
            j = index[utterance.id]
            assert taught.sentiment[i].item() == pytest.approx(expected.sentiment[j], abs=1e-5)
            np.testing.assert_allclose(taught.emotions[i], expected.emotions[j], atol=1e-5)


def test_in_bfloat16_a_teacher_says_nearly_the_same_and_features_stay_in_full_precision(
    tiny_run, pupils, cache, tmp_path, monkeypatch
):
    said = {}
    inside = []
    build = teachers.build_dataset
    monkeypatch.setattr(
        teachers, "build_dataset", lambda *a, **k: inside.append(torch.is_autocast_enabled("cpu")) or build(*a, **k)
    )
    monkeypatch.setattr(teachers, "precision_on", lambda _, wanted: wanted)  # emulated, if need be
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        out.mkdir()
        said[precision] = ask_teachers([str(tiny_run.folder)], pupils, TASKS, out, cache=cache, precision=precision)
    assert inside == [False, False]
    for full, fast in zip(*said.values(), strict=True):
        torch.testing.assert_close(fast, full, atol=0.03, rtol=0.03, equal_nan=True)
        assert not torch.equal(fast.nan_to_num(), full.nan_to_num())


def test_several_teachers_are_averaged_where_they_speak(monkeypatch, tmp_path):
    nan = np.nan
    said = {"a": [1.0, nan, nan, 2.0], "b": [2.0, 3.0, nan, nan]}
    monkeypatch.setattr(
        teachers, "_ask", lambda name, *_: (np.array(said[name]), np.array(said[name])[:, None] * np.ones(6) / 3)
    )
    taught = ask_teachers(["a", "b"], [None] * 4, TASKS, tmp_path)  # type: ignore[list-item]
    expected = torch.tensor([1.5, 3.0, nan, 2.0])
    torch.testing.assert_close(taught.sentiment, expected, equal_nan=True)
    torch.testing.assert_close(taught.emotions, expected[:, None].expand(4, 6) / 3, equal_nan=True)
    kept = ask_teachers(["nobody"], [None] * 4, TASKS, tmp_path)  # type: ignore[list-item]
    assert torch.equal(kept.sentiment.nan_to_num(9), taught.sentiment.nan_to_num(9))
    with pytest.raises(KeyError):  # other utterances: asked again
        ask_teachers(["nobody"], [None] * 3, TASKS, tmp_path)  # type: ignore[list-item]


def test_a_file_of_predictions_is_a_teacher(tiny_run, tiny_corpus, pupils, cache, tmp_path):
    """What ``mmolre predict`` writes teaches what the model itself does; beside it, a file with little to say."""
    said = tmp_path / "said.jsonl"
    predict_file(mmolre.load(tiny_run.folder), [tiny_corpus], said)
    runs, files, both = (tmp_path / name for name in ("run", "file", "both"))
    for folder in (runs, files, both):
        folder.mkdir()
    model = ask_teachers([str(tiny_run.folder)], pupils, TASKS, runs, cache=cache)
    file = ask_teachers([str(said)], pupils[::-1], TASKS, files)
    for a, b in zip(model, file, strict=True):
        torch.testing.assert_close(a, b.flip(0), equal_nan=True, atol=1e-4, rtol=0)  # four digits
    few = tmp_path / "Few.JSONL"
    few.write_text(
        json.dumps({"id": pupils[0].id, "sentiment": None, "emotions": {"happy": 0.25}})
        + "\n"
        + json.dumps({"id": pupils[1].id, "sentiment": -3})
        + "\n"
        + json.dumps({"id": "of another corpus", "sentiment": 1, "emotions": {}})
    )
    mean = ask_teachers([str(said), str(few)], pupils, TASKS, both)
    half = (model.emotions[0, 0] + 0.25) / 2
    assert mean.emotions[0, 0].item() == pytest.approx(half.item(), abs=1e-4)
    assert mean.sentiment[1].item() == pytest.approx((model.sentiment[1].item() - 3) / 2, abs=1e-4)
    torch.testing.assert_close(mean.emotions[0, 1:], model.emotions[0, 1:], atol=1e-4, rtol=0)


def test_a_file_that_is_none_of_predictions(pupils, tmp_path):
    bad = tmp_path / "bad.jsonl"
    good = json.dumps({"id": pupils[0].id, "sentiment": 1})
    for line in (
        "{",
        "[]",
        "1",
        '{"sentiment": 1}',
        '{"id": [], "sentiment": 1}',
        '{"id": "a", "sentiment": "1"}',
        '{"id": "a", "sentiment": true}',
        '{"id": "a", "sentiment": 4}',
        '{"id": "a", "sentiment": NaN}',
        '{"id": "a", "emotions": {"happy": 1.5}}',
        '{"id": "a", "emotions": {"happiness": 0.5}}',
        '{"id": "a", "emotions": [0, 0, 0, 0, 0, 0]}',
    ):
        bad.write_text(f"{good}\n{line}\n")
        with pytest.raises(UserError, match=r"teachers: .*bad.jsonl, line 2 is no prediction: a line is to be"):
            ask_teachers([str(bad)], pupils, TASKS, tmp_path)
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"bad.jsonl cannot be read: .*codec"):
        ask_teachers([str(bad)], pupils, TASKS, tmp_path)
    with pytest.raises(UserError, match=r"none.jsonl cannot be read: .*No such file"):
        ask_teachers([str(tmp_path / "none.jsonl")], pupils, TASKS, tmp_path)
    bad.write_text(good)
    with pytest.raises(UserError, match=r"bad.jsonl says nothing of emotion for any training utterance"):
        ask_teachers([str(bad)], pupils, ("emotion",), tmp_path)
    assert list(tmp_path.iterdir()) == [bad]


def test_a_file_that_is_not_there_is_missed_before_anything_is_written(tiny_encoders, tiny_corpus, cache, tmp_path):
    recipe = corpus_recipe(tiny_encoders).model_copy(update={"teachers": (str(tmp_path / "none.jsonl"),)})
    with pytest.raises(UserError, match=r"teachers: .*none.jsonl cannot be read: there is no such file"):
        train(recipe, [tiny_corpus], tmp_path / "run", cache=cache)
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_without_the_file_that_it_has_read(tiny_encoders, tiny_corpus, pupils, cache, tmp_path):
    said = tmp_path / "said.jsonl"
    said.write_text("".join(json.dumps({"id": u.id, "sentiment": 1}) + "\n" for u in pupils))
    recipe = corpus_recipe(tiny_encoders).model_copy(update={"teachers": (str(said),)})
    answers = iter([False, True])
    with pytest.raises(InterruptedRunError):
        train(
            recipe, [tiny_corpus], tmp_path / "r", cache=cache, callbacks=Callbacks(should_stop=lambda: next(answers))
        )
    said.unlink()
    assert train(recipe, [tiny_corpus], tmp_path / "r", cache=cache).state["finished"]


def test_what_dialogues_teach():
    """Of a corpus that says signs alone: its zeros as labels, and the teacher's sentiment where it has the sign."""
    path = Path(__file__).parents[2] / "scripts" / "dialogues.py"
    if not path.is_file():
        pytest.skip("an installed package has no scripts")
    script = load_file_as_module(path)
    rows = [Utterance(str(i), "Hm.", sentiment=s) for i, s in enumerate([1.0, -1.0, 0.0, 1.0, None])]
    assert [u.sentiment for u in script.without_signs(rows)] == [None, None, 0, None, None]
    said = Taught(torch.tensor([2.25, 0.5, 1.0, 3.5, 1.0]), torch.full((5, 6), 0.5))
    assert list(script.agreeing(rows, said)) == [{"id": "0", "sentiment": 2.25}, {"id": "3", "sentiment": 3.0}]
    silent = Taught(torch.tensor([np.nan, 0.12345, *[0.0] * 3]), said.emotions)
    lines = list(script.all_said(rows, silent))
    assert [line["id"] for line in lines] == ["1", "2", "3", "4"]
    assert lines[0] == {"id": "1", "sentiment": 0.1235, "emotions": dict.fromkeys(EMOTIONS, 0.5)}
    valid = [Utterance(str(i), "Hm.", video_id=f"d{i // 3}", split="valid") for i in range(30)] + [
        Utterance("alone", "Hm.", split="valid")
    ]
    dealt = script.split_valid(valid, 7)
    assert 7 <= sum(u.split == "valid" for u in dealt) <= 9
    assert [u.id for u in dealt] == [u.id for u in valid]
    of = {(u.recording or u.id): {v.split for v in dealt if v.recording == u.recording} for u in dealt}
    assert {frozenset(splits) for splits in of.values()} == {frozenset({"valid"}), frozenset({"test"})}


def test_a_teacher_without_anything_to_say(tiny_run, pupils, cache, tmp_path):
    folder = str(tiny_run.folder)
    with pytest.raises(UserError, match=r"teachers: .*none is to be trained first, .*: no model at"):
        ask_teachers([str(tmp_path / "none")], pupils, TASKS, tmp_path)
    with pytest.raises(UserError, match="predicts sentiment and emotion, of which the recipe has nothing"):
        ask_teachers([folder], pupils, (), tmp_path, cache=cache)
    blank = [u for u in pupils if u.id == MISSING]
    with pytest.raises(UserError, match="reads text or audio, which no training utterance has"):
        ask_teachers([folder], blank, TASKS, tmp_path, cache=cache)
    assert not list(tmp_path.iterdir())


def test_a_run_learns_from_its_teachers_and_goes_on_exactly(tiny_run, tiny_encoders, tiny_corpus, cache, tmp_path):
    plain = corpus_recipe(tiny_encoders)
    recipe = plain.model_copy(update={"teachers": (str(tiny_run.folder),)})
    whole, parts, untaught = tmp_path / "whole", tmp_path / "parts", tmp_path / "untaught"
    train(recipe, [tiny_corpus], whole, cache=cache)
    answers = iter([False, True])
    with pytest.raises(InterruptedRunError):
        train(recipe, [tiny_corpus], parts, cache=cache, callbacks=Callbacks(should_stop=lambda: next(answers)))
    train(recipe, [tiny_corpus], parts, cache=cache)
    train(plain, [tiny_corpus], untaught, cache=cache)
    changed = tmp_path / "changed"  # what a recipe that failed had been told is not believed
    changed.mkdir()
    n = len(load_file(whole / teachers.TAUGHT_FILE)["sentiment"])
    save_file({"sentiment": torch.ones(n), "emotions": torch.ones(n, 6)}, changed / teachers.TAUGHT_FILE)
    train(recipe, [tiny_corpus], changed, cache=cache)

    def weights(run):
        return (run / "model" / "model.safetensors").read_bytes()

    assert weights(whole) == weights(parts)
    assert weights(whole) == weights(changed)
    assert weights(whole) != weights(untaught)


def test_all_of_the_loss_from_a_teacher_needs_no_labels(tiny_run, tiny_encoders, tiny_corpus, cache, tmp_path):
    """With teaching 1 the labels of the training rows are of no effect."""
    recipe = corpus_recipe(tiny_encoders, epochs=1)
    recipe = recipe.model_copy(
        update={
            "teachers": (str(tiny_run.folder),),
            "objective": recipe.objective.model_copy(update={"teaching": 1.0}),
        }
    )
    other = tiny_corpus.with_name("other-labels.csv")
    with tiny_corpus.open(newline="") as source, other.open("w", newline="") as target:
        rows = csv.DictReader(source)
        writer = csv.DictWriter(target, rows.fieldnames or [])
        writer.writeheader()
        writer.writerows(row | ({"sentiment": "0.25"} if row["split"] == "train" else {}) for row in rows)
    try:
        for name, data in (("a", tiny_corpus), ("b", other)):
            train(recipe, [data], tmp_path / name, cache=cache)
    finally:
        other.unlink()
    first, second = ((tmp_path / n / "model" / "model.safetensors").read_bytes() for n in "ab")
    assert first == second


def test_a_file_of_predictions_may_begin_with_a_mark_and_end_with_a_blank_line(pupils, tmp_path):
    path = tmp_path / "said.jsonl"
    line = json.dumps({"id": pupils[0].id, "sentiment": 1.5, "emotions": {"happy": 0.5}})
    path.write_text(f"{line}\n\n  \n", encoding="utf-8-sig")
    taught = ask_teachers([str(path)], pupils, TASKS, tmp_path)
    assert taught.sentiment[0] == 1.5
