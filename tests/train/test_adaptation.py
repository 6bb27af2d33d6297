import json

import numpy as np
import pytest
import torch

from mmolre import MMoLRE, UserError
from mmolre.bundle import load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import Rows
from mmolre.encoders.audio import AudioEncoder
from mmolre.evaluate.run import evaluate
from mmolre.model.config import ModelConfig
from mmolre.predictor import Predictor
from mmolre.train.adaptation import parameter_groups
from mmolre.train.loop import InterruptedRunError, Trainer
from mmolre.train.recipe import Recipe, parse_recipe
from mmolre.train.run import Callbacks, make_model, make_sources, train
from tiny_corpus import corpus_recipe
from tiny_runs import tiny_config, tiny_model, tiny_recipe, tiny_rows

WAYS = {
    "full": {"text": {"adapt": "full", "layers": [-1, 0]}, "audio": {"adapt": "full", "upper": 1, "standardize": True}},
    "lora": {"text": {"adapt": "lora", "upper": 1}, "audio": {"adapt": "lora", "lora": {"rank": 2}, "layers": [-1]}},
}


def adapting(encoders, way: str, **training) -> Recipe:
    content = corpus_recipe(encoders, encoder_learning_rate=1e-3, layer_decay=0.9, **training).model_dump()
    for modality, options in WAYS[way].items():
        kept = {key: content["encoders"][modality][key] for key in ("source", "layers", "stride", "max_tokens")}
        content["encoders"][modality] = kept | options
    return Recipe.model_validate(content)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module", params=WAYS)
def run(request, tmp_path_factory, tiny_encoders, tiny_corpus, cache):
    """A finished run of each way, with its recipe."""
    recipe = adapting(tiny_encoders, request.param)
    return recipe, train(recipe, [tiny_corpus], tmp_path_factory.mktemp("run") / "run", cache=cache)


def test_the_encoders_learned(run, tiny_encoders):
    recipe, result = run
    bundle = load_bundle(result.folder, fold=False)
    start = make_model(recipe.model_copy(update={"encoders": {
        m: part.model_copy(update={"standardize": False}) for m, part in recipe.encoders.items()
    }}), make_sources(recipe), Rows([], []))  # fmt: skip
    for modality in ("text", "audio"):
        ours, theirs = bundle.model.uppers[modality], dict(start.uppers[modality].named_parameters())
        ours.ensure_base()
        moved = {n: (p - theirs[n]).abs().max().item() > 2e-4 for n, p in ours.named_parameters()}
        assert any(moved.values())
        assert not any(moved[n] for n, p in ours.named_parameters() if not p.requires_grad)


def test_what_is_saved(run):
    from safetensors import safe_open

    recipe, result = run
    for path in (result.folder / "last.safetensors", result.folder / "model" / "model.safetensors"):
        with safe_open(path, framework="pt") as file:
            of_encoders = {n: file.get_tensor(n) for n in file.keys() if "uppers." in n}  # noqa: SIM118
        assert of_encoders
        if path.parent.name == "model":
            assert {t.dtype for t in of_encoders.values()} == {torch.float16}
        if recipe.encoders["text"].adapt == "lora":
            assert all("lora_" in name or name.startswith("optimizer.") for name in of_encoders)


def test_a_model_does_not_say_where_encoders_lay(run):
    recipe, result = run
    content = (result.folder / "model" / "config.json").read_text(encoding="utf-8")
    for part in recipe.encoders.values():
        assert part.source not in content


def test_stopped_and_resumed(run, tiny_corpus, cache, tmp_path):
    recipe, result = run
    answers = iter([False, True])
    stop = Callbacks(should_stop=lambda: next(answers))
    with pytest.raises(InterruptedRunError):
        train(recipe, [tiny_corpus], tmp_path, cache=cache, callbacks=stop)
    train(recipe, [tiny_corpus], tmp_path, cache=cache)
    for name in ("model/model.safetensors", "model/pipeline.json", "metrics-valid.json"):
        assert (tmp_path / name).read_bytes() == (result.folder / name).read_bytes(), name


def test_evaluating_valid_repeats_the_validation(run, tiny_corpus):
    _, result = run
    kept = json.loads((result.folder / "metrics-valid.json").read_text())
    found = evaluate(load_bundle(result.folder), [tiny_corpus], "valid")
    assert found.metrics["sentiment"]["mae"] == pytest.approx(kept["sentiment"]["mae"], abs=5e-3)  # float16 weights


def test_predictions_are_the_same_alone_and_together(run):
    from mmolre.schema import Utterance

    _, result = run
    predictor = Predictor(load_bundle(result.folder))
    texts = ["i love this movie", "so bad", "it was not very good and i hate it a lot"]
    together = list(predictor.predict_many([Utterance(str(i), text) for i, text in enumerate(texts)]))
    for text, among in zip(texts, together, strict=True):
        alone = predictor.predict(text=text)
        assert alone.sentiment == pytest.approx(among.sentiment, abs=2e-4)
        assert alone.emotions == pytest.approx(among.emotions, abs=2e-4)


def test_what_is_not_read_need_not_be_installed(run, tiny_corpus, monkeypatch):
    recipe, result = run
    if recipe.encoders["text"].adapt != "lora":
        pytest.skip("all that the layers are is in the model's own file")
    bundle = load_bundle(result.folder)
    found = evaluate(bundle, [tiny_corpus], "valid").sentiment

    def missing(_):
        raise UserError("weights are not installed")

    monkeypatch.setattr(AudioEncoder, "whole", missing)
    again = load_bundle(result.folder)
    texts = evaluate(again, [tiny_corpus], "valid", modalities=["text"])
    assert len(texts.sentiment) > 2
    with pytest.raises(UserError, match="not installed"):
        evaluate(again, [tiny_corpus], "valid", modalities=["audio"])
    monkeypatch.undo()
    np.testing.assert_allclose(evaluate(load_bundle(result.folder), [tiny_corpus], "valid").sentiment, found, atol=1e-6)


def test_folded_it_predicts_the_same(run, tiny_corpus):
    _, result = run
    first, second = (evaluate(load_bundle(result.folder, fold=fold), [tiny_corpus], "valid") for fold in (True, False))
    np.testing.assert_allclose(first.sentiment, second.sentiment, atol=1e-5)
    np.testing.assert_allclose(first.emotions, second.emotions, atol=1e-5)


def test_saved_again_it_is_the_same(run, tmp_path):
    from mmolre.bundle import save_bundle

    _, result = run
    bundle = load_bundle(result.folder, fold=False)
    save_bundle(tmp_path / "again", bundle.model, bundle.encoders, bundle.decision, bundle.about)
    again = load_bundle(tmp_path / "again", fold=False)
    first, second = (Predictor(b).predict(text="i love this movie") for b in (bundle, again))
    assert first == second


@pytest.mark.parametrize("parts", [2, 3])
def test_the_parts_of_a_step_add_up(tmp_path, parts):
    """In a model without dropout, on utterances that all have both labels and both modalities."""
    found = []
    for accumulate in (1, parts):
        out = tmp_path / str(accumulate)
        out.mkdir()
        # Without the balance term, which is no mean over utterances; and a clip that never cuts.
        more = {"objective": {"router_balance": 0.0}}
        recipe = tiny_recipe(accumulate=accumulate, batch_size=12, modality_dropout=0.0, epochs=1, clip=1e9, more=more)
        torch.manual_seed(0)
        model = MMoLRE(tiny_config(dropout=0.0, width=16))
        trainer = Trainer(recipe, model, tiny_rows(12), tiny_rows(8, 1), out, save_best=lambda *_: None)
        trainer.run()
        log = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
        found.append(([p.grad for p in model.parameters()], log["train"]["loss"]))
    (whole, loss), (summed, loss_of_parts) = found
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, summed, strict=True) if a is not None)


def test_learning_rates(tiny_encoders):
    recipe = adapting(tiny_encoders, "full")
    encoder = recipe.encoders["text"].model_copy(update={"standardize": False})
    recipe = recipe.model_copy(update={"encoders": {"text": encoder}})
    model = make_model(recipe, make_sources(recipe), Rows([], []))
    groups = parameter_groups([model], recipe.training, {"text": 1e-3})
    peak = {id(p): group["peak"] for group in groups for p in group["params"]}
    of = {name: peak[id(p)] for name, p in model.named_parameters()}
    assert {v for n, v in of.items() if not n.startswith("uppers.")} == {recipe.training.learning_rate}
    assert {v for n, v in of.items() if n.startswith("uppers.text.layers.1.")} == {1e-3}
    assert {v for n, v in of.items() if n.startswith("uppers.text.layers.0.")} == {1e-3 * 0.9}
    assert {v for n, v in of.items() if n.startswith("uppers.text.embeddings.")} == {1e-3 * 0.9**2}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_parts_learn_at_their_own_rates():
    model = tiny_model()
    rates = {"unitse": 0.5, "specific": 0.1, "routers": 2.0, "unimodal_heads": 3.0}
    training = tiny_recipe(learning_rate=1e-2, rates=rates).training
    peak = {id(p): group["peak"] for group in parameter_groups([model], training, {}) for p in group["params"]}
    for name, parameter in model.named_parameters():
        inner = [part for part in ("specific", "routers", "unitse", "unimodal_heads") if part in name.split(".")]
        assert peak[id(parameter)] == pytest.approx(1e-2 * (rates[inner[0]] if inner else 1)), name
    assert len({group["peak"] for group in parameter_groups([model], training, {})}) == 5
    with pytest.raises(UserError, match=r"training\.rates\.experts"):
        parse_recipe({"name": "a", "encoders": {"text": {"source": "m"}}, "training": {"rates": {"experts": 1}}}, "r")


def test_a_modality_named_like_a_part_is_none():
    width = {"width": 3, "layers": 1}
    model = MMoLRE(
        ModelConfig.model_validate(tiny_config().model_dump() | {"modalities": {"specific": width, "b": width}})
    )
    training = tiny_recipe(learning_rate=1e-2, rates={"specific": 0.1}).training
    peak = {id(p): group["peak"] for group in parameter_groups([model], training, {}) for p in group["params"]}
    for name, parameter in model.named_parameters():
        own = ".blocks." in name and name.split(".")[4] == "specific"
        assert peak[id(parameter)] == pytest.approx(1e-3 if own else 1e-2), name


def test_the_parts_of_ple_learn_at_the_rates_of_what_they_are():
    model = tiny_model(trunk="ple")
    rates = {"shared": 0.5, "specific": 0.1, "routers": 2.0}
    training = tiny_recipe(learning_rate=1e-2, rates=rates).training
    peak = {id(p): group["peak"] for group in parameter_groups([model], training, {}) for p in group["params"]}
    of = {"shared": 0.5, "own": 0.1, "gates": 2.0, "shared_gate": 2.0}
    seen = set()
    for name, parameter in model.named_parameters():
        inner = name.split(".")[4] if ".blocks." in name else ""
        assert peak[id(parameter)] == pytest.approx(1e-2 * of.get(inner, 1)), name
        seen.add(inner)
    assert set(of) < seen


def test_placeholders_do_not_decay_whatever_the_modality_is_called():
    width = {"width": 3, "layers": 1}
    shape = tiny_config().model_dump() | {"modalities": {"weights": width, "b": width}}
    model = MMoLRE(ModelConfig.model_validate(shape))
    decay = {
        id(p): group["weight_decay"]
        for group in parameter_groups([model], tiny_recipe().training, {})
        for p in group["params"]
    }
    assert {decay[id(p)] for p in model.placeholders.parameters()} == {0.0}
    assert {decay[id(p)] for p in decay_of_products(model)} == {tiny_recipe().training.weight_decay}


def decay_of_products(model: MMoLRE) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if name.endswith("weight_in")]


def test_the_average_holds_frozen_weights_once(tiny_encoders):
    from mmolre.train.loop import _copy_of

    recipe = adapting(tiny_encoders, "lora")
    model = make_model(recipe, make_sources(recipe), Rows([], []))
    copied = dict(_copy_of(model).named_parameters())
    for name, parameter in model.named_parameters():
        assert (copied[name] is parameter) == (not parameter.requires_grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upper": 2}, "need adapt"),
        ({"adapt": "lora", "embeddings": True}, "embeddings learn only"),
        ({"adapt": "full", "upper": 2, "embeddings": True}, "embeddings learn only"),
        ({"adapt": "half"}, "adapt"),
    ],
)
def test_recipes_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate({"name": "x", "encoders": {"text": {"source": "minilm", **options}}})


def test_standardisation_is_of_what_leaves_the_layers(tiny_encoders):
    recipe = adapting(tiny_encoders, "full")
    recipe = recipe.model_copy(update={"encoders": {"audio": recipe.encoders["audio"]}})
    sources = make_sources(recipe)
    waves = [np.random.default_rng(i).normal(size=3000).astype(np.float32) for i in range(6)]
    arrays = [{"audio": sources["audio"].encode([wave])[0].values} for wave in waves]  # type: ignore[union-attr]
    model = make_model(recipe, sources, Rows([], arrays)).eval()
    states = []
    for present in arrays:
        x = torch.from_numpy(present["audio"].astype(np.float32))[None]
        states.append(model.uppers["audio"](x, torch.ones(x.shape[:2], dtype=torch.bool))[0][0])
    norm = model.inputs["audio"].norm
    assert torch.allclose(norm.mean, torch.cat(states).mean(0), atol=1e-4)


def test_refused(tiny_encoders, tiny_corpus, tmp_path):
    recipe = adapting(tiny_encoders, "full")
    text = recipe.encoders["text"].model_copy(update={"upper": 7})
    with pytest.raises(UserError, match="its upper 7 cannot adapt"):
        train(recipe.model_copy(update={"encoders": {"text": text}}), [tiny_corpus], tmp_path)
