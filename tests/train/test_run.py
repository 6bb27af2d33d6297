import csv
import json

import pytest
import torch

from mmolre import UserError
from mmolre.bundle import load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import Rows
from mmolre.evaluate.run import evaluate
from mmolre.train.loop import InterruptedRunError
from mmolre.train.run import Callbacks, make_model, make_sources, train
from tiny_corpus import MISSING, corpus_recipe


def test_exactly_these_files(tiny_run):
    found = {str(p.relative_to(tiny_run.folder)) for p in tiny_run.folder.rglob("*") if p.is_file()}
    assert found == {
        "failed-rows.jsonl",
        "last.safetensors",
        "log.jsonl",
        "metrics-valid.json",
        "model/config.json",
        "model/model.safetensors",
        "model/pipeline.json",
        "recipe.json",
        "versions.json",
    }


def test_what_stands_in_them(tiny_run, tiny_encoders):
    def read(name):
        return json.loads((tiny_run.folder / name).read_text())

    assert read("recipe.json") == corpus_recipe(tiny_encoders).model_dump(mode="json")
    assert read("versions.json")["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert read("metrics-valid.json")["modalities"] == {"audio": 2, "text": 3, "text+audio": 3}
    about = read("model/pipeline.json")["about"]
    assert (about["train_utterances"], about["train_with_sentiment"], about["train_with_emotions"]) == (19, 19, 15)
    assert about["train_sentiment_median"] == 1.5
    assert (about["recipe"], about["seed"]) == ("tiny", 0)
    (failed,) = map(json.loads, (tiny_run.folder / "failed-rows.jsonl").read_text().splitlines())
    assert failed["id"] == MISSING
    assert failed["row"] == "manifest.csv:9"
    assert failed["reason"].endswith("gone.wav: No such file or directory")
    assert [row.id for row in tiny_run.failed] == [MISSING]


def test_evaluating_valid_repeats_the_validation(tiny_run, tiny_corpus):
    kept = json.loads((tiny_run.folder / "metrics-valid.json").read_text())
    found = evaluate(load_bundle(tiny_run.folder), [tiny_corpus], "valid")
    assert found.failed == []
    assert found.metrics.keys() == kept.keys()
    assert found.metrics["sentiment"] == pytest.approx(kept["sentiment"], abs=1e-5)
    assert found.metrics["trivial"]["sentiment"]["train_median"] == kept["trivial"]["sentiment"]["train_median"]
    assert found.metrics["emotion"]["ap_mean"] == pytest.approx(kept["emotion"]["ap_mean"], abs=1e-5)
    assert found.metrics["modalities"] == kept["modalities"]


def test_evaluating_from_one_modality(tiny_run, tiny_corpus):
    bundle = load_bundle(tiny_run.folder)
    assert evaluate(bundle, [tiny_corpus], "test").metrics["modalities"] == {"audio": 2, "text": 3, "text+audio": 3}
    assert evaluate(bundle, [tiny_corpus], "test", modalities=("audio",)).metrics["modalities"] == {"audio": 5}
    with pytest.raises(UserError, match="the model does not read 'video'; it reads text, audio"):
        evaluate(bundle, [tiny_corpus], "test", modalities=("video",))


def test_evaluating_counts_rows_that_fail(tiny_run, tiny_corpus):
    found = evaluate(load_bundle(tiny_run.folder), [tiny_corpus], "train")
    assert [row.id for row in found.failed] == [MISSING]
    assert found.metrics["n"] == 19


def test_nothing_to_evaluate(tiny_run, tmp_path):
    bundle = load_bundle(tiny_run.folder)
    path = tmp_path / "m.csv"
    path.write_text("id,split,text,sentiment,audio\na,train,good,1,\nb,test,good,,\n")
    with pytest.raises(UserError, match="split test: no row with text or audio in it that is labelled for sentiment"):
        evaluate(bundle, [path], "test")
    path.write_text("id,split,audio,sentiment\na,test,gone.wav,1\n")
    with pytest.raises(UserError, match=r"none of the 1 rows could be read; the first: .*gone.wav"):
        evaluate(bundle, [path], "test")


# ---- a folder is one run's ----


@pytest.fixture
def cache(tiny_run) -> FeatureCache:
    """Everything is encoded in it already."""
    return FeatureCache(tiny_run.folder.parent / "features")


def test_stopped_and_resumed_with_encoders_and_all(tiny_run, tiny_encoders, tiny_corpus, cache, tmp_path):
    answers = iter([False, True])
    with pytest.raises(InterruptedRunError):
        train(
            corpus_recipe(tiny_encoders),
            [tiny_corpus],
            tmp_path,
            cache=cache,
            callbacks=Callbacks(should_stop=lambda: next(answers)),
        )
    assert not (tmp_path / "model").exists()
    train(corpus_recipe(tiny_encoders), [tiny_corpus], tmp_path, cache=cache)
    for name in ("model.safetensors", "config.json", "pipeline.json"):
        assert (tmp_path / "model" / name).read_bytes() == (tiny_run.folder / "model" / name).read_bytes(), name
    assert (tmp_path / "metrics-valid.json").read_bytes() == (tiny_run.folder / "metrics-valid.json").read_bytes()


def test_nothing_is_encoded_twice(tiny_encoders, tiny_corpus, cache, tmp_path, monkeypatch):
    from mmolre.encoders.audio import AudioEncoder
    from mmolre.encoders.text import TextEncoder

    for encoder in (TextEncoder, AudioEncoder):
        monkeypatch.setattr(encoder, "encode", lambda *_: pytest.fail("encoded"))
    train(corpus_recipe(tiny_encoders, epochs=1), [tiny_corpus], tmp_path, cache=cache)


def test_another_recipe_in_the_folder_of_a_run_is_refused(tiny_run, tiny_encoders, tiny_corpus, cache):
    before = {p: p.read_bytes() for p in tiny_run.folder.rglob("*") if p.is_file()}
    for other in (
        corpus_recipe(tiny_encoders, epochs=3),
        corpus_recipe(tiny_encoders).model_copy(update={"seed": 1}),
    ):
        with pytest.raises(UserError, match="holds a run of another recipe or seed; give another --out"):
            train(other, [tiny_corpus], tiny_run.folder, cache=cache)
    assert train(corpus_recipe(tiny_encoders), [tiny_corpus], tiny_run.folder, cache=cache).state["finished"]
    assert {p: p.read_bytes() for p in tiny_run.folder.rglob("*") if p.is_file()} == before


def test_a_recipe_that_failed_at_once_can_be_mended(tiny_encoders, tiny_corpus, cache, tmp_path):
    wrong = corpus_recipe(tiny_encoders, epochs=1, primary=("emotion.wa_mean",))
    wrong = wrong.model_copy(update={"model": wrong.model.model_copy(update={"tasks": ("sentiment",)})})
    with pytest.raises(UserError, match="the model has no task emotion"):
        train(wrong, [tiny_corpus], tmp_path, cache=cache)
    train(corpus_recipe(tiny_encoders, epochs=1), [tiny_corpus], tmp_path, cache=cache)
    assert json.loads((tmp_path / "recipe.json").read_text())["training"]["primary"] == ["sentiment.mae"]


def test_no_row_of_a_split_or_a_task(tiny_encoders, cache, tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("id,split,text,sentiment\na,train,i love this movie,1\nb,test,so very good,1\n")
    with pytest.raises(UserError, match="no usable row of split 'valid' with a label of sentiment or emotion"):
        train(corpus_recipe(tiny_encoders), [path], tmp_path / "run", cache=cache)
    emotion = corpus_recipe(tiny_encoders)
    emotion = emotion.model_copy(update={"model": emotion.model.model_copy(update={"tasks": ("emotion",)})})
    with pytest.raises(UserError, match="no usable row of split 'train' with a label of emotion"):
        train(emotion, [path], tmp_path / "other", cache=cache)


def test_out_that_is_a_file(tiny_encoders, tiny_corpus, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        train(corpus_recipe(tiny_encoders), [tiny_corpus], tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_the_seed_draws_the_first_weights(tiny_encoders):
    recipe = corpus_recipe(tiny_encoders)
    encoders = make_sources(recipe)
    no_rows = Rows([], [])
    first, again = (make_model(recipe, encoders, no_rows).state_dict() for _ in range(2))
    other = make_model(recipe.model_copy(update={"seed": 1}), encoders, no_rows).state_dict()
    assert all(torch.equal(x, again[name]) for name, x in first.items())
    assert any(not torch.equal(x, other[name]) for name, x in first.items())
    shapes = {m: (c.width, c.layers) for m, c in make_model(recipe, encoders, no_rows).config.modalities.items()}
    assert shapes == {"text": (16, 1), "audio": (16, 2)}


def test_where_no_row_can_be_used_the_reason_is_told(tiny_encoders, cache, tmp_path):
    rows = "".join(f"{split},gone-{split}.wav,{split},1\n" for split in ("train", "valid"))
    (tmp_path / "m.csv").write_text("id,audio,split,sentiment\n" + rows)
    with pytest.raises(
        UserError, match=r"no usable row of split 'train' .*; 2 could not be used, the first, train: .*gone"
    ):
        train(corpus_recipe(tiny_encoders, epochs=1), [tmp_path / "m.csv"], tmp_path / "run", cache=cache)


def test_where_a_split_is_missing_nothing_is_begun(tiny_encoders, cache, tmp_path):
    (tmp_path / "m.csv").write_text("id,audio,split,sentiment\na,gone.wav,train,1\n")
    with pytest.raises(UserError, match=r"no usable row of split .valid. .* needs train and valid rows$"):
        train(corpus_recipe(tiny_encoders, epochs=1), [tmp_path / "m.csv"], tmp_path / "run", cache=cache)
    assert not (tmp_path / "run").exists()


def test_a_run_whose_checkpoint_was_removed_is_no_other_s(tiny_encoders, tiny_corpus, cache, tmp_path):
    recipe = corpus_recipe(tiny_encoders, epochs=1)
    train(recipe, [tiny_corpus], tmp_path, cache=cache)
    weights = (tmp_path / "model/model.safetensors").read_bytes()
    (tmp_path / "last.safetensors").unlink()
    with pytest.raises(UserError, match="holds a run of another recipe or seed"):
        train(recipe.model_copy(update={"seed": 1}), [tiny_corpus], tmp_path, cache=cache)
    assert (tmp_path / "model/model.safetensors").read_bytes() == weights
    with pytest.warns(UserWarning, match=r"no last\.safetensors to go on from: it is trained anew"):
        train(recipe, [tiny_corpus], tmp_path, cache=cache)
    assert (tmp_path / "model/model.safetensors").read_bytes() == weights


def valid_of_one_label(corpus, folder):
    with corpus.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for row in lines:
        row["audio"] = ""
        row["sentiment"] = "1" if row["split"] == "valid" else row["sentiment"]
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in lines if row["text"]), encoding="utf-8")
    return path


def test_a_metric_that_valid_leaves_undefined_chooses_nothing(tiny_encoders, tiny_corpus, cache, tmp_path):
    manifest = valid_of_one_label(tiny_corpus, tmp_path)
    with pytest.raises(UserError, match=r"sentiment\.corr: undefined on valid.*'training\.primary=\[sentiment\.mae\]'"):
        train(corpus_recipe(tiny_encoders, primary=("sentiment.corr",)), [manifest], tmp_path / "a", cache=cache)
    both = corpus_recipe(tiny_encoders, primary=("sentiment.corr", "sentiment.mae"))
    with pytest.warns(UserWarning, match=r"sentiment\.corr: undefined .* by the rest of training\.primary") as told:
        state = train(both, [manifest], tmp_path / "b", cache=cache).state
    assert len([w for w in told if "undefined" in str(w.message)]) == 1
    alone = train(corpus_recipe(tiny_encoders), [manifest], tmp_path / "c", cache=cache).state
    assert state["best_epoch"] == alone["best_epoch"]
    assert state["best_score"] == alone["best_score"]
