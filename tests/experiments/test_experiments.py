import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmolre import EMOTIONS, UserError
from mmolre.data.cache import FeatureCache
from mmolre.data.feature_file import write_feature_file
from mmolre.data.manifest import read_manifest
from mmolre.experiments import run, runs, table, variants
from mmolre.experiments.runs import Where
from mmolre.files import write_text
from mmolre.train.loop import InterruptedRunError
from mmolre.train.recipe import Recipe
from mmolre.train.run import Callbacks, train
from tiny_corpus import corpus_recipe, write_corpus, write_rows

plots = pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("features"))


@pytest.fixture
def where(tiny_corpus, cache, tmp_path) -> Where:
    return Where([tiny_corpus], tmp_path / "out", cache=cache)


@pytest.fixture
def recipe(tiny_encoders):
    return corpus_recipe(tiny_encoders, epochs=1, primary=("sentiment.mae", "emotion.wa_mean"))


def no_training(*_, **__):
    raise AssertionError("what is finished is not trained again")


def test_compare(recipe, where, monkeypatch):
    told: list[str] = []
    further = recipe.model_copy(update={"name": "mine"})
    some = ("single", "hard", "ple", "mmolre", "mine")
    failed = run.compare([recipe, further], where, seeds=1, only=some, tell=told.append)
    assert failed == 1  # the row whose sound is missing
    assert len([line for line in told if " of " in line]) == 6
    files = {path.name for path in where.out.iterdir()}
    assert files == {"data.json", "runs", "compare.json", "compare.md", "compare.png", "compare.svg"}
    content = json.loads((where.out / "compare.json").read_text())
    assert list(content["rows"]) == list(some)
    assert content["n"] == 8
    for row in content["rows"].values():
        assert {"sentiment.mae", "emotion.macro_f1"} <= row["metrics"].keys()
        assert all(len(m["values"]) == 1 and m["sd"] is None for m in row["metrics"].values())
    scored = json.loads((where.out / "runs/mmolre/seed0/metrics-test.json").read_text())
    assert content["rows"]["mmolre"]["metrics"]["sentiment.mae"]["mean"] == scored["sentiment"]["mae"]
    single = json.loads((where.out / "runs/single/emotion-seed0/metrics-test.json").read_text())
    assert content["rows"]["single"]["metrics"]["emotion.wa_mean"]["mean"] == single["emotion"]["wa_mean"]
    # The same recipe and seed: the same model.
    assert content["rows"]["mine"]["metrics"] == content["rows"]["mmolre"]["metrics"]
    assert content["better"]["mmolre"].keys() == {"hard", "single"}
    assert content["better"]["hard"].keys() == {"single"}
    difference = content["better"]["mmolre"]["hard"]["sentiment.mae"]
    means = [content["rows"][name]["metrics"]["sentiment.mae"]["mean"] for name in ("hard", "mmolre")]
    assert difference["delta"] == pytest.approx(means[0] - means[1])
    there, back = content["better"]["single"]["hard"], content["better"]["hard"]["single"]
    assert there.keys() == back.keys()
    for key, of in there.items():  # one bootstrap, seen from both sides
        assert back[key]["p"] == of["p"]
        turned = [back[key]["delta"], back[key]["high"], back[key]["low"]]
        assert [of["delta"], of["low"], of["high"]] == pytest.approx([-value if value else value for value in turned])
    assert content["costs"]["ple"]["middle"] > content["costs"]["mmolre"]["middle"]
    page = (where.out / "compare.md").read_text()
    assert "one seed" in page
    assert page.count("| MMoLRE |") == 4  # results, cost, against hard sharing, against the single-task models
    assert b"<svg" in (where.out / "compare.svg").read_bytes()

    # A second seed: only it is trained; then nothing is.
    monkeypatch.setattr(
        runs, "train", lambda recipe, *rest, **more: trained.append(recipe) or train(recipe, *rest, **more)
    )

    trained: list = []
    told.clear()
    run.compare([recipe], where, seeds=2, only=("hard", "mmolre"), tell=told.append)
    assert [r.seed for r in trained] == [1, 1]
    (line,) = [line for line in told if line.startswith("replaced")]
    assert "compare.json, which had the rows Single-task models, PLE, full rank, mine; the runs are kept" in line
    monkeypatch.setattr(runs, "train", no_training)
    told.clear()
    run.compare([recipe], where, seeds=2, only=("hard", "mmolre"), tell=told.append)
    assert told == [f"written: {where.out}/compare.md, .json, .png, .svg"]
    content = json.loads((where.out / "compare.json").read_text())

    # A third seed that is stopped leaves the table as it was; costs that are known stay known.
    def stop(*_, **__):
        raise InterruptedRunError

    monkeypatch.setattr(runs, "train", stop)
    with pytest.raises(InterruptedRunError):
        run.compare([recipe], where, seeds=3, only=("hard", "mmolre"))
    assert json.loads((where.out / "compare.json").read_text()) == content
    with monkeypatch.context() as patch:
        patch.setattr(table, "costs", stop)
        with pytest.raises(InterruptedRunError):
            run.compare([recipe], where, seeds=1, only=("hard",), tell=told.append)
    assert "which had 2 seeds and the row MMoLRE; the runs are kept" in told[-1]
    fewer = json.loads((where.out / "compare.json").read_text())
    assert fewer["costs"] == {"hard": content["costs"]["hard"]}
    monkeypatch.setattr(runs, "train", no_training)
    assert list(content["rows"]) == ["hard", "mmolre"]
    metric = content["rows"]["hard"]["metrics"]["sentiment.corr"]
    assert metric["mean"] == pytest.approx(sum(metric["values"]) / 2)
    assert metric["sd"] > 0

    changed = recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": 2})})
    with pytest.raises(UserError, match="another recipe"):
        run.compare([changed], where, seeds=2, only=("hard", "mmolre"))


def test_killed_and_going_on(recipe, where):
    left = iter([False] * 4 + [True])
    stopping = where._replace(callbacks=Callbacks(should_stop=lambda: next(left)))
    with pytest.raises(InterruptedRunError):
        run.compare([recipe], stopping, seeds=1, only=("hard", "mmolre"))
    assert not (where.out / "compare.json").exists()
    first = (where.out / "runs/hard/seed0/log.jsonl").read_bytes()
    run.compare([recipe], where, seeds=1, only=("hard", "mmolre"))
    assert (where.out / "compare.json").exists()
    assert (where.out / "runs/hard/seed0/log.jsonl").read_bytes() == first
    assert "resumed" in (where.out / "runs/mmolre/seed0/log.jsonl").read_text()


def test_other_data_is_refused(recipe, where, tmp_path):
    run.compare([recipe], where, seeds=1, only=("hard",))
    other = write_corpus(tmp_path)
    other.write_text(other.read_text().replace("1.5", "1.6"))
    with pytest.raises(UserError, match="other data"):
        run.compare([recipe], where._replace(data=[other]), seeds=1, only=("hard",))


def test_other_features_are_other_data(where, tmp_path):
    manifest = write_rows(tmp_path / "m.csv", [{"id": "a", "text": "so"}])
    where = where._replace(data=[manifest])
    runs.claim(where)
    write_text(where.out / "runs/hard/seed0/last.safetensors", "begun")
    runs.claim(where)
    for value in (0.0, 1.0):
        write_feature_file(tmp_path / "f.safetensors", [("a", np.full((1, 2), value, np.float32))])
        (tmp_path / "m.csv.json").write_text('{"features": {"f": "f.safetensors"}}')
        with pytest.raises(UserError, match="other data"):
            runs.claim(where)
        (where.out / "data.json").unlink()
        runs.claim(where)
        runs.claim(where)


def test_other_teachers_are_not_mixed_in_one_row(recipe, where, tmp_path, tiny_corpus):
    said = tmp_path / "said.jsonl"
    ids = [u.id for u in read_manifest(tiny_corpus)]
    taught = recipe.model_copy(update={"teachers": (str(said),)})
    for sentiment in (1.0, -1.0):
        said.write_text("".join(json.dumps({"id": id_, "sentiment": sentiment}) + "\n" for id_ in ids))
        if sentiment > 0:
            run.compare([taught], where, seeds=1, only=("hard",))
            run.compare([taught], where, seeds=1, only=("hard",))
    with pytest.raises(UserError, match=r"holds runs with another .*said\.jsonl"):
        run.compare([taught], where, seeds=2, only=("hard",))


def test_the_models_that_recipes_begin_with_are_known_by_their_weights(recipe, where, tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder / "model", tmp_path / "model")
    begun = recipe.model_copy(update={"start_from": str(tmp_path / "model")})
    runs.claim(where, [begun])
    write_text(where.out / "runs/hard/seed0/last.safetensors", "begun")
    runs.claim(where, [recipe])  # which begins with none
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UserError, match="holds runs with another"):
        runs.claim(where, [begun])
    (where.out / "runs/hard/seed0/last.safetensors").unlink()
    runs.claim(where, [begun])


def test_a_folder_without_runs_is_claimed_anew(where, tmp_path):
    manifest = write_rows(tmp_path / "m.csv", [{"id": "a", "text": "so"}])
    where = where._replace(data=[manifest])
    for text in ("so", "so so"):
        write_rows(manifest, [{"id": "a", "text": text}])
        runs.claim(where)
    write_text(where.out / "runs/hard/seed0/predictions-test.jsonl", "")
    runs.claim(where)
    write_rows(manifest, [{"id": "a", "text": "so"}])
    with pytest.raises(UserError, match="other data"):
        runs.claim(where)
    (where.out / "data.json").write_text("")
    with pytest.raises(UserError, match=r"data\.json cannot be read .*: delete it if its runs are"):
        runs.claim(where)


def test_the_versions_are_those_of_the_runs(recipe, where):
    run.compare([recipe], where, seeds=1, only=("hard",))
    path = where.out / "runs/hard/seed0/versions.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"torch": "1.0"}))
    run.compare([recipe], where, seeds=2, only=("hard",))
    found = json.loads((where.out / "compare.json").read_text())["versions"]
    assert found == kept | {"torch": f"1.0, {kept['torch']}"}


def changed_corpus(folder: Path, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Path:
    """The tiny corpus with changes of some rows: number and row -> what is other of it."""
    manifest = write_corpus(folder)
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return write_rows(manifest, [row | change(number, row) for number, row in enumerate(rows)])


NO_EMOTIONS = dict.fromkeys(EMOTIONS, "")


@pytest.mark.parametrize(
    ("of", "without", "only", "message"),
    [
        ("test", {"sentiment": ""}, ("single",), "no row of split 'test' with text or audio .* labelled for sentiment"),
        ("test", NO_EMOTIONS, ("single",), "no row of split 'test' with .* labelled for emotion, as 'Single-task mod"),
        ("valid", NO_EMOTIONS, ("hard", "single"), "no row of split 'valid' with .* labelled for emotion, as 'Single-"),
        ("train", NO_EMOTIONS, ("single",), "no row of split 'train' with text or audio in it is labelled for emotion"),
    ],
)
def test_what_cannot_be_learned_or_scored_is_not_begun(
    recipe, where, tmp_path, monkeypatch, of, without, only, message
):
    monkeypatch.setattr(runs, "train", no_training)
    manifest = changed_corpus(tmp_path, lambda _, row: without if row["split"] == of else {})
    with pytest.raises(UserError, match=message):
        run.compare([recipe], where._replace(data=[manifest]), seeds=1, only=only)
    assert not where.out.exists()


def test_rows_that_read_nothing_in_common_are_not_trained(recipe, where, tmp_path, monkeypatch):
    def in_turn(number: int, row: dict[str, Any]) -> dict[str, Any]:
        return {"audio" if number % 2 else "text": ""} if row["text"] and row["audio"] else {}

    def silent(_: int, row: dict[str, Any]) -> dict[str, Any]:
        return {"audio": "", "text": "so good"} if row["split"] == "test" else {}

    def untold(_: int, row: dict[str, Any]) -> dict[str, Any]:
        return {"sentiment": ""} if row["split"] == "test" and row["text"] and row["audio"] else {}

    monkeypatch.setattr(runs, "train", no_training)
    some = ("mmolre", "no-text", "no-audio")
    either = changed_corpus(tmp_path / "either", in_turn)
    alone = "no row of split 'test' that is labelled for .* can be read by all of 'MMoLRE, whole', 'without text'"
    with pytest.raises(UserError, match=alone):
        run.ablate(recipe, where._replace(data=[either]), seeds=1, only=some)
    without_sound = changed_corpus(tmp_path / "silent", silent)
    with pytest.raises(UserError, match=r"no row of split 'test' with audio in it is labelled .* 'without text' needs"):
        run.ablate(recipe, where._replace(data=[without_sound]), seeds=1, only=some)
    unlabelled = changed_corpus(tmp_path / "untold", untold)
    with pytest.raises(UserError, match="that is labelled for sentiment can be read by all of"):
        run.ablate(variants.only_task(recipe, "sentiment"), where._replace(data=[unlabelled]), seeds=1, only=some)


def test_finished_runs_ask_for_nothing_to_learn_from(recipe, where, tmp_path, monkeypatch):
    manifest = write_corpus(tmp_path)
    run.compare([recipe], where._replace(data=[manifest]), seeds=1, only=("hard",))
    changed_corpus(tmp_path, lambda _, row: {"sentiment": ""} | NO_EMOTIONS if row["split"] == "train" else {})
    (where.out / "data.json").unlink()
    monkeypatch.setattr(runs, "train", no_training)
    run.compare([recipe], where._replace(data=[manifest]), seeds=1, only=("hard",))


def test_the_table_does_not_wait_for_the_costs(recipe, where, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no costs here")

    monkeypatch.setattr(table, "costs", fails)
    with pytest.raises(RuntimeError, match="no costs"):
        run.compare([recipe], where, seeds=1, only=("hard",))
    assert "| Hard sharing |" in (where.out / "compare.md").read_text()
    assert "costs" not in json.loads((where.out / "compare.json").read_text())


def test_test_rows_that_fail_are_named(recipe, where, tmp_path):
    manifest = write_corpus(tmp_path)
    (tmp_path / "waves/test-2.wav").unlink()  # of sound alone
    assert run.compare([recipe], where._replace(data=[manifest]), seeds=1, only=("hard",)) == 2
    (line,) = (where.out / "runs/hard/seed0/failed-rows-test.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "test-2"
    # Also by who asks again; and a log that was cut is named.
    assert run.compare([recipe], where._replace(data=[manifest]), seeds=1, only=("hard",)) == 2
    log = where.out / "runs/hard/seed0/log.jsonl"
    log.write_text(log.read_text()[:-20])
    with pytest.raises(UserError, match=r"hard/seed0/log\.jsonl cannot be read .*: delete .*hard/seed0 and run"):
        run.compare([recipe], where._replace(data=[manifest]), seeds=1, only=("hard",))


def test_ablate(recipe, where):
    some = ("mmolre", "no-unitse", "no-audio", "one-task")
    run.ablate(recipe, where, seeds=1, only=(*some, "no-text"))
    content = json.loads((where.out / "ablate.json").read_text())
    assert set(content["rows"]) == {*some, "no-text"}
    # On what all rows can read: with text and with audio.
    assert content["n"] == 3
    assert set(content["better"]) == set(content["rows"]) - {"mmolre"}
    assert (where.out / "ablate.png").stat().st_size > 10_000


def test_rows_without_a_modality_learn_as_often_or_not_at_all(recipe, where):
    content = recipe.model_dump()
    content["training"]["repeat"] = {"audio": 2}
    often = Recipe.model_validate(content)
    with pytest.raises(UserError, match=r"training\.repeat and .* not the same in no-text and no-audio; give --set"):
        run.ablate(often, where, seeds=1)
    run.ablate(often, where, seeds=1, only=("no-unitse",))


def test_sweep(recipe, where):
    run.run_sweep(recipe, where, experts=[2, 4], top_k=[1, 4], equal="total", seeds=1)
    with (where.out / "sweep-total.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["experts"], row["top_k"]) for row in rows] == [("2", "1"), ("4", "1"), ("4", "4")]
    assert float(rows[0]["sentiment.mae"]) > 0
    content = json.loads((where.out / "sweep-total.json").read_text())
    assert list(content["rows"]) == ["total-n2-k1", "total-n4-k1", "total-n4-k4"]
    assert b"shared experts N" in (where.out / "sweep-total.svg").read_bytes()


def test_bad_options(recipe, where):
    with pytest.raises(UserError, match="no such row; there are single, hard"):
        run.compare([recipe], where, seeds=1, only=("hrad",))
    begun = recipe.model_copy(update={"name": "begun", "start_from": "shipped"})
    for recipes in ([begun, recipe], [recipe, begun]):
        with pytest.raises(UserError, match="begun: start_from: the rows of an experiment begin with new weights"):
            run.compare(recipes, where, seeds=1)
    with pytest.raises(UserError, match="two rows bear one name"):
        run.compare([recipe, recipe.model_copy(update={"name": "hard"})], where, seeds=1)
