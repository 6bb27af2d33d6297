import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmolre import EMOTIONS, UserError, Utterance
from mmolre.cli import app
from mmolre.data.manifest import ManifestWarning, read_manifest
from mmolre.evaluate.sentiment import sentiment_metrics
from mmolre.experiments import crossvalidate as module
from mmolre.experiments import variants
from mmolre.experiments.crossvalidate import crossvalidate, deal, result_table
from mmolre.experiments.runs import Where
from mmolre.train.loop import InterruptedRunError
from mmolre.train.recipe import load_recipe
from mmolre.train.run import Callbacks
from tiny_corpus import corpus_recipe, write_rows, write_videos


def utterance(number: int, speaker: str | None, split: str | None = "train", **labels) -> Utterance:
    return Utterance(f"u{number}", text="so", split=split, speaker=speaker, **({"sentiment": 1.0} | labels))


class TestDeal:
    @given(
        st.lists(st.tuples(st.integers(0, 9), st.sampled_from(("train", None, "valid", "test"))), min_size=1),
        st.integers(2, 6),
    )
    def test_nothing_is_heard_before(self, rows, folds):
        utterances = [utterance(i, f"s{speaker}", split) for i, (speaker, split) in enumerate(rows)]
        try:
            found = deal(utterances, "speaker", folds)
        except UserError:
            speakers = {u.speaker for u in utterances if u.split in ("train", None)}
            assert len(speakers) < folds or folds == 2  # else it can be done; of two, one may have a single speaker
            return
        dealt = sorted(u.id for u in utterances if u.split in ("train", None))
        assert sorted(u.id for fold in found for u in fold.held_out) == dealt  # each once
        for fold in found:
            assert not {u.speaker for u in fold.held_out} & {u.speaker for u in fold.learned}
            by_split = Counter(u.split for u in fold.learned)
            assert by_split["train"]
            assert by_split["valid"]
            assert set(by_split) == {"train", "valid"}
            assert not {u.id for u in fold.learned} & {u.id for u in utterances if u.split == "test"}

    def test_valid_stays_valid_but_of_who_is_held_out(self):
        utterances = [utterance(i, f"s{i % 4}") for i in range(20)]
        utterances += [utterance(20, "s0", "valid"), utterance(21, "other", "valid")]
        for fold in deal(utterances, "speaker", 4):
            valid = {u.id for u in fold.learned if u.split == "valid"}
            assert valid == ({"u21"} if fold.held_out[0].speaker == "s0" else {"u20", "u21"})
            assert len(fold.held_out) == 5

    def test_without_valid_a_tenth_of_all_is(self):
        utterances = [utterance(i, f"s{i % 20}") for i in range(100)]
        found = deal(utterances, "speaker", 4)
        chosen = [{u.speaker for u in fold.learned if u.split == "valid"} for fold in found]
        assert [len(speakers) for speakers in chosen] == [2] * 4
        for one, fold in enumerate(found):  # the next fold's
            assert chosen[one] <= {u.speaker for u in found[(one + 1) % 4].held_out}
            assert sum(u.split == "train" for u in fold.learned) == 65

    def test_folds_are_of_about_equal_size(self):
        sizes = [40, 30, 20, 10, 10, 10, 10, 5, 5, 5, 5]
        utterances = [utterance(100 * s + i, f"s{s}") for s, n in enumerate(sizes) for i in range(n)]
        assert [len(fold.held_out) for fold in deal(utterances, "speaker", 3)] == [50] * 3

    def test_who_is_of_no_group_is_one_alone(self):
        utterances = [utterance(0, "u1"), utterance(1, None), utterance(2, None), utterance(3, "u1")]
        held = [{u.id for u in fold.held_out} for fold in deal(utterances, "speaker", 3)]
        assert sorted(map(sorted, held)) == [["u0", "u3"], ["u1"], ["u2"]]  # not with the speaker of that name

    def test_only_what_is_labelled(self):
        utterances = [utterance(i, f"s{i}") for i in range(6)] + [utterance(9, "s9", sentiment=None)]
        assert "u9" not in {u.id for fold in deal(utterances, "speaker", 3) for u in [*fold.learned, *fold.held_out]}

    def test_the_same_for_every_order(self):
        utterances = [utterance(i, f"s{i % 7}") for i in range(30)]
        held = [
            [{u.id for u in fold.held_out} for fold in deal(rows, "speaker", 3)]
            for rows in (utterances, utterances[::-1])
        ]
        assert held[0] == held[1]

    @pytest.mark.parametrize(
        ("speakers", "by", "folds", "message"),
        [
            ("abcd", "speaker", 1, "--folds 1: at least two"),
            ("abcd", "speaker", 5, "--folds 5: 4 speakers are too few"),
            ("ab", "speaker", 2, "--folds 2: 2 speakers are too few"),  # one to hold out, one to choose by
            ("abcd", "recording", 2, r"no utterance names its recording \(column video_id\); give --by speaker or"),
            ("abcd", "utterance", 9, "--folds 9: 4 utterances are too few"),
            ("", "speaker", 2, "no labelled utterance to deal out"),
        ],
    )
    def test_what_cannot_be_dealt(self, speakers, by, folds, message):
        with pytest.raises(UserError, match=message):
            deal([utterance(i, speaker) for i, speaker in enumerate(speakers)], by, folds)


@pytest.fixture
def videos(tmp_path):
    """Rows of train alone, in five videos."""
    manifest, rows = write_videos(tmp_path / "corpus", lambda _, number: f"v{number % 5}")
    write_rows(manifest, [row | {"split": ""} if row["split"] == "train" else row for row in rows])
    return manifest


@pytest.fixture
def recipe(tiny_encoders):
    return corpus_recipe(tiny_encoders, epochs=1, primary=("sentiment.mae",))


def test_each_fold_has_a_teacher_of_its_own(videos, recipe, tmp_path, monkeypatch):
    ids = [u.id for u in read_manifest(videos)]
    said = "".join(json.dumps({"id": id_, "sentiment": 1.0}) + "\n" for id_ in ids)
    for number in (1, 2):
        (tmp_path / f"said-{number}.jsonl").write_text(said)
    taught = recipe.model_copy(update={"teachers": (str(tmp_path / "said-{fold}.jsonl"),)})
    asked = []
    train_on = module.train_on
    monkeypatch.setattr(module, "train_on", lambda r, *a, **k: asked.append(r.teachers) or train_on(r, *a, **k))
    with pytest.raises(UserError, match=r"said-3\.jsonl cannot be read"):
        crossvalidate(taught, Where([videos], tmp_path / "out"), by="recording", folds=3)
    assert not asked  # not after two folds of three
    crossvalidate(taught, Where([videos], tmp_path / "out"), by="recording", folds=2)
    assert asked == [(str(tmp_path / f"said-{number}.jsonl"),) for number in (1, 2)]


def test_what_may_have_learned_the_utterances_is_named(videos, recipe, tiny_run, tmp_path):
    said = [{"id": u.id, "sentiment": 1.0} for u in read_manifest(videos)]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    names = {"teachers": (str(tmp_path / "said.jsonl"),), "start_from": str(tiny_run.folder)}
    content, _ = crossvalidate(
        recipe.model_copy(update=names), Where([videos], tmp_path / "a"), by="recording", folds=2
    )
    assert content["known_before"] == [names["start_from"], *names["teachers"]]
    assert "true only if they have not learned these" in result_table(content)
    for number in (1, 2):
        shutil.copytree(tiny_run.folder / "model", tmp_path / f"model-{number}")
    own = recipe.model_copy(update={"start_from": str(tmp_path / "model-{fold}")})
    content, _ = crossvalidate(own, Where([videos], tmp_path / "b"), by="recording", folds=2)
    assert content["known_before"] == []
    assert "true only" not in result_table(content)


def test_the_form_in_the_docs_is_one_that_a_recipe_takes(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    (value,) = re.findall(r"--set 'teachers=(.*?)'", page)
    (tmp_path / "r.yaml").write_text("name: r\nencoders: {text: {source: minilm}}\n")
    assert load_recipe(tmp_path / "r.yaml", {"teachers": value}).teachers == ("said-{fold}.jsonl",)


def test_each_is_read_by_who_has_not_learned_it(videos, recipe, tmp_path, monkeypatch):
    where = Where([videos], tmp_path / "out")
    told: list[str] = []
    learned = []
    train_on = module.train_on

    def watched(recipe, utterances, *rest, **more):
        learned.append({u.id for u in utterances})
        return train_on(recipe, utterances, *rest, **more)

    monkeypatch.setattr(module, "train_on", watched)
    content, failed = crossvalidate(recipe, where, by="recording", folds=3, tell=told.append)
    assert failed == 1  # whose sound is missing
    assert told[0] == "8 utterances of the split test are left alone"
    assert told[1] == "fold 1 of 3: 8 utterances of 2 recordings held out"
    assert {path.name for path in where.out.iterdir()} == {
        *("data.json", "folds.json", "fold-1", "fold-2", "fold-3", "crossvalidate.json", "predictions.jsonl")
    }
    said = [json.loads(line) for line in (where.out / "predictions.jsonl").read_text().splitlines()]
    of = {u.id: u for u in read_manifest(videos)}
    assert {row["id"] for row in said} == {name for name in of if name.startswith("train-") and name != "train-7"}
    counts = content["utterances"]
    assert sum(counts) == len(said) == 19
    assert set(said[0]["emotions"]) == set(EMOTIONS)
    start = 0
    for fold, (count, seen) in enumerate(zip(counts, learned, strict=True)):
        held = said[start : start + count]
        start += count
        assert not {of[row["id"]].video_id for row in held} & {of[name].video_id for name in seen}
        truth = np.array([of[row["id"]].sentiment for row in held], np.float64)
        metrics = sentiment_metrics(np.array([row["sentiment"] for row in held]), truth)
        assert content["metrics"]["sentiment.mae"]["values"][fold] == pytest.approx(metrics["mae"])
    assert json.loads((where.out / "crossvalidate.json").read_text())["metrics"].keys() == content["metrics"].keys()
    table = result_table(content)
    assert "19 utterances, each read by a model that learned without its recording" in table
    assert max(map(len, table.splitlines())) <= 80
    mae = content["metrics"]["sentiment.mae"]
    assert mae["trivial"] >= 1.5
    row = next(line for line in table.splitlines() if line.startswith("sentiment.mae"))
    numbers = (mae["mean"], mae["sd"], max(mae["values"]), min(mae["values"]), mae["trivial"])
    assert row.split()[2:] == [f"{x:.4f}" for x in numbers]

    # What was said is a teacher.
    taught = recipe.model_copy(update={"teachers": (str(where.out / "predictions.jsonl"),), "name": "taught"})
    crossvalidate(taught, where._replace(out=tmp_path / "taught"), by="recording", folds=3)
    assert (tmp_path / "taught/fold-1/taught.safetensors").exists()


def test_in_context_each_on_its_own_is_scored_too(videos, recipe, tmp_path):
    together, _ = crossvalidate(
        recipe.model_copy(update={"context": "recording"}), Where([videos], tmp_path / "a"), by="recording", folds=3
    )
    alone, _ = crossvalidate(recipe, Where([videos], tmp_path / "b"), by="recording", folds=3)
    assert "on_its_own" not in alone
    assert together["on_its_own"] == alone["metrics"]
    assert together["metrics"] != alone["metrics"]
    lines = result_table(together).splitlines()
    half = lines.index("each utterance on its own:")
    assert lines[half + 1 :] == result_table(alone).splitlines()[4:]
    assert max(map(len, lines)) <= 80


def test_in_context_what_is_held_out_without_labels_is_read_too(videos, recipe, tmp_path, monkeypatch):
    rows = [{"id": u.id, "text": u.text, "video_id": u.video_id} for u in read_manifest(videos) if u.text]
    splits = ["test" if i % 6 == 3 else "" for i in range(len(rows))]
    labels = [{"split": split, "sentiment": i % 5 - 2 if i % 3 else ""} for i, split in enumerate(splits)]
    write_rows(videos, [row | label for row, label in zip(rows, labels, strict=True)])
    given: list[list[Utterance]] = []
    evaluate_on = module.evaluate_on
    monkeypatch.setattr(module, "evaluate_on", lambda b, rows, **k: given.append(rows) or evaluate_on(b, rows, **k))
    told: list[str] = []
    content, _ = crossvalidate(
        recipe.model_copy(update={"context": "recording"}),
        Where([videos], tmp_path / "out"),
        by="recording",
        folds=3,
        tell=told.append,
    )
    everything = read_manifest(videos)
    for fold, rows_given in zip(deal(everything, "recording", 3), given, strict=True):
        of = {u.video_id for u in fold.held_out}
        expected = {u.id for u in everything if u.video_id in of and u.split != "test"}
        assert {u.id for u in rows_given} == expected != {u.id for u in fold.held_out}
    assert content["utterances"] == [len(fold.held_out) for fold in deal(everything, "recording", 3)]
    assert told[1].startswith(f"fold 1 of 3: {content['utterances'][0]} utterances of ")


def test_stopped_and_going_on(videos, recipe, tmp_path):
    where = Where([videos], tmp_path / "out")
    left = iter([False] * 4 + [True])
    with pytest.raises(InterruptedRunError):
        crossvalidate(
            recipe, where._replace(callbacks=Callbacks(should_stop=lambda: next(left))), by="recording", folds=3
        )
    first = (where.out / "fold-1/log.jsonl").read_bytes()
    assert not (where.out / "predictions.jsonl").exists()
    content, _ = crossvalidate(recipe, where, by="recording", folds=3)
    assert (where.out / "fold-1/log.jsonl").read_bytes() == first
    again, _ = crossvalidate(recipe, where, by="recording", folds=3)
    assert again == content
    whole, _ = crossvalidate(recipe, where._replace(out=tmp_path / "whole"), by="recording", folds=3)
    assert whole == content
    with pytest.raises(UserError, match="out holds 3 folds by recording; give another --out"):
        crossvalidate(recipe, where, by="recording", folds=4)


def test_what_is_mended_can_be_tried_again(videos, recipe, tmp_path, monkeypatch):
    def no_training(*_, **__):
        raise AssertionError("a fold is trained, and another cannot be")

    mended: list[dict] = [
        {"id": u.id, "text": u.text, "video_id": u.video_id, "sentiment": 1, "happy": 1}
        for u in read_manifest(videos)
        if u.text
    ]
    write_rows(videos, mended)
    held = {u.id for u in deal(read_manifest(videos), "recording", 3)[2].held_out}
    write_rows(videos, [row | {"sentiment": ""} if row["id"] in held else row for row in mended])
    alone = variants.only_task(recipe, "sentiment")
    monkeypatch.setattr(module, "train_on", no_training)
    where = Where([videos], tmp_path / "out")
    with pytest.raises(UserError, match="fold 2: no utterance of split valid with text or audio in it is labelled"):
        crossvalidate(alone, where, by="recording", folds=3)
    assert not where.out.exists()
    write_rows(videos, mended[:-1])
    for folds in (2, 3):  # nothing has been trained yet
        with pytest.raises(AssertionError, match="a fold is trained"):
            crossvalidate(alone, where, by="recording", folds=folds)
    write_rows(videos, mended)
    with pytest.raises(AssertionError, match="a fold is trained"):
        crossvalidate(alone, where, by="recording", folds=3)


def test_further_data_is_learned_and_not_scored(videos, recipe, tmp_path, monkeypatch):
    more = write_rows(tmp_path / "more.csv", [
        {"id": f"m{i}", "split": split, "text": "so very good", "sentiment": 1}
        for i, split in enumerate(("train", "train", "valid", "test"))
    ])  # fmt: skip
    learned = []
    train_on = module.train_on

    def watched(recipe, utterances, *rest, **kwargs):
        learned.append({u.id: u.split for u in utterances})
        return train_on(recipe, utterances, *rest, **kwargs)

    monkeypatch.setattr(module, "train_on", watched)
    where = Where([videos], tmp_path / "out")
    crossvalidate(recipe, where, by="recording", folds=3, further=[more], modalities=["text"])
    assert all(seen["m0"] == seen["m1"] == "train" and seen["m2"] == "valid" for seen in learned)
    said = [json.loads(line)["id"] for line in (where.out / "predictions.jsonl").read_text().splitlines()]
    assert not any(name.startswith("m") for name in said)
    assert set(said) == {u.id for u in read_manifest(videos) if u.split is None and u.text}


def test_further_rows_of_who_is_held_out_are_left_out_there(videos, recipe, tmp_path, monkeypatch):
    more = write_rows(tmp_path / "more.csv", [
        {"id": f"m{i}", "split": "train", "text": "so very good", "sentiment": 1, "video_id": f"v{i}" if i < 5 else ""}
        for i in range(6)
    ])  # fmt: skip
    learned: list[set[str]] = []
    monkeypatch.setattr(module, "train_on", lambda _, rows, *__, **___: learned.append({u.id for u in rows}) or stop())
    told: list[str] = []

    def stop():
        raise InterruptedRunError

    where = Where([videos], tmp_path / "out")
    with pytest.raises(InterruptedRunError), pytest.warns(ManifestWarning, match="each is read as one recording"):
        crossvalidate(recipe, where, by="recording", folds=3, further=[more], tell=told.append)
    held = {u.id for u in deal(list(read_manifest(videos)), "recording", 3)[0].held_out}
    videos_held = {u.video_id for u in read_manifest(videos) if u.id in held}
    assert len(videos_held) == 2
    assert {name for name in learned[0] if name.startswith("m")} == {
        f"m{i}" for i in range(6) if f"v{i}" not in videos_held
    }
    assert told[1] == "fold 1 of 3: 8 utterances of 2 recordings held out, and 2 further ones of the same"


def test_a_modality_that_is_not_read(videos, recipe, tmp_path):
    with pytest.raises(UserError, match="tiny does not read 'voice'; it reads text, audio"):
        crossvalidate(recipe, Where([videos], tmp_path / "out"), by="recording", folds=3, modalities=["voice"])
    assert not (tmp_path / "out").exists()


def test_the_command(videos, recipe, tmp_path, capsys, monkeypatch):
    path = tmp_path / "tiny.yaml"
    path.write_text(recipe.model_dump_json())
    monkeypatch.setenv("MMOLRE_HOME", str(tmp_path / "home"))
    out = tmp_path / "out"
    code = app.cli(
        prog="mmolre", args=["crossvalidate", str(path), "--data", str(videos), "--folds", "3", "--out", str(out)]
    )
    assert code == 3  # one row failed
    shown = capsys.readouterr()
    assert "sentiment.mae" in shown.out
    assert "fold 3 of 3" in shown.err
    with pytest.raises(UserError, match="names its speaker"):
        app.cli(prog="mmolre", args=["crossvalidate", str(path), "--data", str(videos), "--by", "speaker"])
