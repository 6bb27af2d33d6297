"""Learning valid, too, as an earlier run decided."""

import csv
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmolre.bundle import load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.errors import UserError
from mmolre.train.checkpoint import CHECKPOINT_FILE, read_state
from mmolre.train.loop import InterruptedRunError
from mmolre.train.recipe import Recipe
from mmolre.train.run import Callbacks, train
from outside import load_file as load_file_as_module
from tiny_corpus import corpus_recipe, write_rows, write_videos

EPOCHS = 3


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, list]:
    return {name: x.tolist() for name, x in load_file(run / "model" / "model.safetensors").items()}


def with_valid_moved(manifest: Path) -> Path:
    """The manifest with its valid rows as training rows, last of them; valid is what test was."""
    with manifest.open(newline="") as source:
        rows = list(csv.DictReader(source))
    as_split = {"train": "train", "valid": "train", "test": "valid"}
    return write_rows(manifest.with_name("moved.csv"), [row | {"split": as_split[row["split"]]} for row in rows])


@pytest.fixture(scope="module")
def recipe(tiny_encoders) -> Recipe:
    return corpus_recipe(tiny_encoders, epochs=EPOCHS, keep="last")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def chosen(tmp_path_factory, recipe, tiny_corpus, cache) -> Path:
    run = tmp_path_factory.mktemp("refit") / "chosen"
    train(recipe, [tiny_corpus], run, cache=cache)
    return run


def refitting(recipe: Recipe, run: Path) -> Recipe:
    return recipe.model_copy(update={"refit": str(run)})


def test_it_is_the_model_of_train_and_valid_together_read_as_before(chosen, recipe, tiny_corpus, cache, tmp_path):
    train(refitting(recipe, chosen), [tiny_corpus], tmp_path / "refit", cache=cache)
    together = with_valid_moved(tiny_corpus)
    try:
        train(recipe, [together], tmp_path / "together", cache=cache)
    finally:
        together.unlink()
    assert weights(tmp_path / "refit") == weights(tmp_path / "together")
    assert weights(tmp_path / "refit") != weights(chosen)
    refit, before, other = (load_bundle(run) for run in (tmp_path / "refit", chosen, tmp_path / "together"))
    assert refit.decision == before.decision
    assert refit.decision != other.decision
    assert refit.about["sentiment_error_quantiles"] == before.about["sentiment_error_quantiles"]
    assert refit.about["train_utterances"] == other.about["train_utterances"] > before.about["train_utterances"]
    assert [b.about["valid_learned"] for b in (refit, before)] == [True, False]
    assert not (tmp_path / "refit" / "metrics-valid.json").exists()


def test_as_many_epochs_as_were_kept_by_the_same_schedule(tiny_encoders, tiny_corpus, cache, tmp_path):
    best = corpus_recipe(tiny_encoders, epochs=EPOCHS, patience=1)
    train(best, [tiny_corpus], tmp_path / "chosen", cache=cache)
    change_best_epoch(tmp_path / "chosen" / CHECKPOINT_FILE, 2)
    steps = []
    result = train(
        refitting(best, tmp_path / "chosen"),
        [tiny_corpus],
        tmp_path / "refit",
        cache=cache,
        callbacks=Callbacks(step=lambda p: steps.append((p.step, p.steps))),
    )
    per_epoch = len(steps) // 2
    assert steps == [(i + 1, EPOCHS * per_epoch) for i in range(2 * per_epoch)]
    assert (result.state["epoch"], result.state["best_epoch"], result.state["best_score"]) == (2, 2, None)
    epochs = [line for line in log(tmp_path / "refit") if line["event"] == "epoch"]
    assert [line["best"] for line in epochs] == [False, True]
    assert all(line["valid"] == {} and line["score"] is None for line in epochs)


def change_best_epoch(checkpoint: Path, epoch: int) -> None:
    with safe_open(checkpoint, framework="pt") as file:
        state = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    save_file(tensors, checkpoint, metadata={"state": json.dumps(state | {"best_epoch": epoch})})


def test_it_goes_on_exactly(chosen, recipe, tiny_corpus, cache, tmp_path):
    again = refitting(recipe, chosen)
    train(again, [tiny_corpus], tmp_path / "whole", cache=cache)
    answers = iter([False, True])
    stopped = Callbacks(should_stop=lambda: next(answers))
    with pytest.raises(InterruptedRunError):
        train(again, [tiny_corpus], tmp_path / "parts", cache=cache, callbacks=stopped)
    train(again, [tiny_corpus], tmp_path / "parts", cache=cache)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_what_cannot_be_refitted(chosen, recipe, tiny_corpus, cache, tmp_path):
    def refused(run: Path, reason: str, of: Recipe = recipe) -> None:
        with pytest.raises(UserError, match=reason):
            train(refitting(of, run), [tiny_corpus], tmp_path / "refit", cache=cache)
        assert not (tmp_path / "refit").exists()

    refused(tmp_path / "none", "refit: no run at .*none; train the recipe without refit first")
    longer = recipe.training.model_copy(update={"epochs": 5})
    other = recipe.model_copy(update={"seed": 1, "training": longer})
    refused(chosen, r"is of another recipe: other values of seed, training\.epochs", other)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "recipe.json").write_text(refitting(recipe, chosen).model_dump_json())
    refused(tmp_path / "again", f"again is a refit itself; name the run that chose, {chosen}")
    with pytest.raises(InterruptedRunError):
        train(recipe, [tiny_corpus], tmp_path / "cut", cache=cache, callbacks=Callbacks(should_stop=lambda: True))
    refused(tmp_path / "cut", "has not finished")
    (tmp_path / "cut" / CHECKPOINT_FILE).write_bytes(b"damaged")
    assert read_state(tmp_path / "cut" / CHECKPOINT_FILE) is None
    refused(tmp_path / "cut", "has not finished, or its last.safetensors cannot be read")


def test_the_data_are_those_that_it_was_chosen_by(chosen, recipe, tiny_corpus, cache, tmp_path):
    less = tiny_corpus.with_name("less.csv")
    with tiny_corpus.open(newline="") as source:
        write_rows(less, list(csv.DictReader(source))[1:])
    try:
        with pytest.raises(UserError, match=r"refit: .* chose by other data .*; give the same --data again"):
            train(refitting(recipe, chosen), [less], tmp_path / "refit", cache=cache)
    finally:
        less.unlink()
    assert not (tmp_path / "refit" / "model").exists()


def test_what_was_decided_goes_with_it(chosen, recipe, tiny_corpus, cache, tmp_path):
    """The earlier run may be gone, and may have been one that did not know of errors yet."""
    moved = Path(shutil.copytree(chosen, tmp_path / "moved"))
    pipeline = moved / "model" / "pipeline.json"
    content = json.loads(pipeline.read_text())
    del content["about"]["sentiment_error_quantiles"]
    pipeline.write_text(json.dumps(content))
    again, out = refitting(recipe, moved), tmp_path / "refit"
    stopped = Callbacks(should_stop=lambda: True)
    with pytest.raises(InterruptedRunError):
        train(again, [tiny_corpus], out, cache=cache, callbacks=stopped)
    shutil.rmtree(moved)
    for _ in range(2):  # to its end, and once more
        assert train(again, [tiny_corpus], out, cache=cache).state["epoch"] == EPOCHS
    bundle = load_bundle(out)
    assert bundle.decision == load_bundle(chosen).decision
    assert (bundle.about["recipe"], bundle.about["sentiment_error_quantiles"]) == ("tiny-refit", {})
    (out / "refit.json").write_text("{}")
    with pytest.raises(UserError, match=r"refit\.json is damaged"):
        train(again, [tiny_corpus], out, cache=cache)


def test_with_teachers_one_modality_and_context(tiny_encoders, tmp_path):
    """What a recipe may have beside it, in the rows of valid, too."""
    manifest, _ = write_videos(tmp_path / "corpus", lambda split, number: f"{split}{number // 4}")
    cache = FeatureCache(tmp_path / "features")
    first = corpus_recipe(tiny_encoders, epochs=1).model_copy(update={"context": "recording"})
    train(first, [manifest], tmp_path / "first", cache=cache)
    more = {"start_from": str(tmp_path / "first"), "teachers": (str(tmp_path / "first"),)}
    only = first.training.model_copy(update={"only": ("audio",), "repeat": {"text": 0}})
    recipe = first.model_copy(update=more | {"training": only})
    train(recipe, [manifest], tmp_path / "chosen", cache=cache)
    train(refitting(recipe, tmp_path / "chosen"), [manifest], tmp_path / "refit", cache=cache)
    assert len(load_file(tmp_path / "refit" / "taught.safetensors")["sentiment"]) == 24  # without valid's 3 texts
    before, chosen, refit = (weights(tmp_path / name) for name in ("first", "chosen", "refit"))
    learned = {name for name in before if before[name] != refit[name]}
    assert learned == {name for name in before if before[name] != chosen[name]}
    assert learned
    assert all("audio" in name for name in learned)
    assert load_bundle(tmp_path / "refit").decision.context is not None
    with pytest.warns(UserWarning, match="start_from: .*refit has learned the valid rows of its data, too"):
        train(first.model_copy(update={"start_from": str(tmp_path / "refit")}), [manifest], tmp_path / "x", cache=cache)


def test_its_figures_are_of_test(chosen, recipe, tiny_corpus, cache, tmp_path):
    record, _, page = (load_script(name) for name in ("record_run", "experiment_sections", "make_results"))
    train(refitting(recipe, chosen), [tiny_corpus], tmp_path / "refit", cache=cache)
    metrics = tmp_path / "metrics.json"
    metrics.write_text("{}")
    kept = record.summary(tmp_path / "refit", {"Tiny test": metrics})
    assert (kept["recipe"], kept["best_epoch"]) == ("tiny-refit", EPOCHS)
    assert "the same seed's run without valid: epoch 3." in page.chosen([kept])
    assert "best epoch 3. Epoch chosen by sentiment.mae" in page.chosen([record.summary(chosen, {})])
    with pytest.raises(SystemExit, match="'Tiny valid' is no figure of it"):
        record.summary(tmp_path / "refit", {"Tiny valid": metrics})
    with pytest.raises(SystemExit, match="has learned valid, too"):
        load_script("record_predictions").record(tmp_path / "refit", tiny_corpus, ["test", "valid"], tmp_path)


def load_script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    if not path.is_file():
        pytest.skip("an installed package has no scripts")
    return load_file_as_module(path)
