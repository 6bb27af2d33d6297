import json

import numpy as np
import pytest
import torch

from mmolre import MMoLRE, UserError
from mmolre.bundle import SHIPPED, load_bundle
from mmolre.data.batching import collate
from mmolre.data.dataset import Rows
from mmolre.encoders.weights import DEFAULTS, SOURCES, find
from mmolre.evaluate.decision import Decision
from mmolre.model.config import ModelConfig
from mmolre.schema import Utterance
from mmolre.train.named import find_recipe
from mmolre.train.recipe import Recipe, load_recipe
from mmolre.train.run import make_model, make_sources
from mmolre.train.start import take_weights
from tiny_corpus import corpus_recipe
from tiny_runs import MIXED, tiny_arrays, tiny_config, tiny_model


def other(config: ModelConfig, **changes) -> MMoLRE:
    torch.manual_seed(1)
    return MMoLRE(ModelConfig.model_validate(config.model_dump() | changes))


@pytest.fixture
def source(tmp_path) -> MMoLRE:
    torch.manual_seed(0)
    model = MMoLRE(tiny_config())
    model.save_pretrained(tmp_path / "model")
    return model


def test_all_that_is_common_is_taken(source, tmp_path):
    model = other(source.config)
    take_weights(model, str(tmp_path / "model"))
    expected = source.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_run_s_folder_is_its_best_model(source, tmp_path):
    (tmp_path / "model" / "pipeline.json").touch()  # as a run has it
    model = other(source.config)
    take_weights(model, str(tmp_path))
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_what_only_one_has_stays(source, tmp_path):
    first = next(iter(source.config.modalities))
    model = other(source.config, modalities={first: source.config.modalities[first].model_dump()}, tasks=["sentiment"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_weights(model, str(tmp_path / "model"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict().get(name, before[name])), name


def test_a_modality_may_begin_anew(source, tmp_path):
    model = other(source.config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    taken = source.state_dict()
    take_weights(model, str(tmp_path / "model"), ("audio",))
    fresh = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, taken[name])}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in fresh)
    assert {name.split(".")[0] for name in fresh} == {"inputs", "unitse", "unimodal_heads"}
    assert all("audio" in name.split(".") for name in fresh)
    with pytest.raises(UserError, match="of another shape"):
        take_weights(other(source.config, specific_rank=7), str(tmp_path / "model"), ("audio",))


def outputs(model: MMoLRE) -> dict[str, torch.Tensor]:
    batch = collate([Utterance("")] * 6, tiny_arrays(6, sets=MIXED))
    with torch.no_grad():
        return model.eval()(batch.features, batch.masks).tasks


@pytest.mark.parametrize("tasks", [["emotion"], ["sentiment"], ["emotion", "sentiment"]])
@pytest.mark.parametrize("routing", ["utterance", "uniform"])
@pytest.mark.parametrize("fusion", ["task", "shared"])
def test_each_task_goes_on_with_its_own(tmp_path, tasks, routing, fusion):
    source = tiny_model(routing=routing, fusion=fusion)
    source.save_pretrained(tmp_path / "model")
    model = other(source.config, tasks=tasks)
    take_weights(model, str(tmp_path / "model"))
    expected = outputs(source)
    assert outputs(model).keys() == set(tasks)
    for task, said in outputs(model).items():
        assert torch.equal(said, expected[task]), task


def test_a_task_that_was_not_there_begins_anew(tmp_path):
    tiny_model(tasks=["emotion"]).save_pretrained(tmp_path / "model")
    model = other(tiny_config())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_weights(model, str(tmp_path / "model"))
    source = MMoLRE.from_pretrained(tmp_path / "model")
    assert torch.equal(model.placeholders["text"][0], before["placeholders.text"][0])
    assert torch.equal(model.placeholders["text"][1], source.placeholders["text"][0])
    for part in ("unitse.text.blocks.1.routers.{}.project.weight", "fusion.{}.attention.query.weight"):
        if part.format(0) in before:
            assert torch.equal(model.state_dict()[part.format(0)], before[part.format(0)])
            assert torch.equal(model.state_dict()[part.format(1)], source.state_dict()[part.format(0)])
    whole = MMoLRE(tiny_config())  # and back
    model.save_pretrained(tmp_path / "both")
    take_weights(whole, str(tmp_path / "both"))
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in whole.state_dict().items())


def test_ple_s_tasks_change_places(tmp_path):
    source = tiny_model(trunk="ple")
    source.save_pretrained(tmp_path / "model")
    model = other(source.config, tasks=["emotion", "sentiment"])
    take_weights(model, str(tmp_path / "model"))
    for task, said in outputs(model).items():
        assert torch.allclose(said, outputs(source)[task], atol=1e-6), task


def test_one_fusion_for_all_is_none_of_those_for_each(tmp_path):
    source = tiny_model()
    source.save_pretrained(tmp_path / "model")
    model = other(source.config, fusion="shared")
    before = {name: tensor.clone() for name, tensor in model.fusion.state_dict().items()}
    take_weights(model, str(tmp_path / "model"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.fusion.state_dict().items())


def test_another_shape_is_refused(source, tmp_path):
    model = other(source.config, specific_rank=source.config.specific_rank + 1)
    with pytest.raises(UserError, match="of another shape than this recipe's model: unitse"):
        take_weights(model, str(tmp_path / "model"))


def test_nothing_there(source, tmp_path):
    with pytest.raises(UserError, match=r"start_from: .*none is to be trained first, .*: no model at"):
        take_weights(source, str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no model"):
        take_weights(source, str(tmp_path / "empty"))


def adapting(encoders, **text) -> Recipe:
    content = corpus_recipe(encoders).model_dump()
    content["encoders"] = {"text": {"source": content["encoders"]["text"]["source"], "layers": [-1]} | text}
    return Recipe.model_validate(content)


def made(recipe: Recipe) -> MMoLRE:
    return make_model(recipe, make_sources(recipe), Rows([], []))


def test_an_encoder_adapts_to_what_was_learned_while_it_was_frozen(tiny_encoders, tmp_path):
    frozen = made(adapting(tiny_encoders))
    frozen.save_pretrained(tmp_path / "frozen")
    recipe = adapting(tiny_encoders, adapt="full", upper=1).model_copy(update={"seed": 1})
    fresh, started = made(recipe), made(recipe.model_copy(update={"start_from": str(tmp_path / "frozen")}))
    for name, tensor in started.state_dict().items():
        expected = fresh.state_dict()[name] if name.startswith("uppers.") else frozen.state_dict()[name]
        assert torch.equal(tensor, expected), name


def test_an_encoder_goes_on_where_it_was(tiny_encoders, tmp_path):
    recipe = adapting(tiny_encoders, adapt="full", upper=1)
    source = made(recipe)
    with torch.no_grad():
        for parameter in source.uppers["text"].parameters():
            parameter.copy_(parameter.half().float() + 0.5)  # saved in half precision
    source.save_pretrained(tmp_path / "tuned")
    started = made(recipe.model_copy(update={"start_from": str(tmp_path / "tuned")}))
    for name, parameter in started.uppers["text"].named_parameters():
        assert torch.allclose(parameter, source.uppers["text"].get_parameter(name), atol=1e-3), name


def test_the_encoder_may_have_lain_elsewhere(tiny_encoders, tmp_path):
    recipe = adapting(tiny_encoders, adapt="full", upper=1)
    made(recipe).save_pretrained(tmp_path / "tuned")
    config = tmp_path / "tuned" / "config.json"  # as models of an earlier version say it
    content = json.loads(config.read_text(encoding="utf-8"))
    content["modalities"]["text"]["adapted"]["config"] |= {"_name_or_path": "/elsewhere", "transformers_version": "0"}
    config.write_text(json.dumps(content), encoding="utf-8")
    made(recipe.model_copy(update={"start_from": str(tmp_path / "tuned")}))


def test_other_layers_of_the_encoder_are_refused(tiny_encoders, tmp_path):
    made(adapting(tiny_encoders, adapt="full", upper=1)).save_pretrained(tmp_path / "upper1")
    recipe = adapting(tiny_encoders, adapt="full", upper=2).model_copy(update={"start_from": str(tmp_path / "upper1")})
    with pytest.raises(UserError, match="other layers of the text encoder learn"):
        made(recipe)


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ({"adapt": "full"}, {"adapt": "lora"}),
        ({"adapt": "lora"}, {"adapt": "full"}),
        ({"adapt": "full"}, {"adapt": "full", "embeddings": False}),
        ({"adapt": "lora", "lora": {"alpha": 4}}, {"adapt": "lora", "lora": {"alpha": 16}}),
    ],
)
def test_what_would_not_be_saved_is_not_taken(tiny_encoders, tmp_path, there, here):
    """Weights that do not learn come from the encoder again when the model is loaded."""
    made(adapting(tiny_encoders, **there)).save_pretrained(tmp_path / "there")
    recipe = adapting(tiny_encoders, **here).model_copy(update={"start_from": str(tmp_path / "there")})
    with pytest.raises(UserError, match="or by other adapters"):
        made(recipe)
    made(recipe.model_copy(update={"start_fresh": ("text",)}))


def test_what_an_encoder_had_learned_is_lost_where_it_is_frozen(tiny_encoders, tmp_path):
    made(adapting(tiny_encoders, adapt="full", upper=1)).save_pretrained(tmp_path / "tuned")
    with pytest.warns(UserWarning, match="layers of the text encoder had learned; here it is frozen"):
        made(adapting(tiny_encoders).model_copy(update={"start_from": str(tmp_path / "tuned")}))


def test_another_encoder_of_the_same_width_is_told_of(tiny_encoders, tmp_path):
    """The weights fit, and say nothing: only the names of the encoders do."""
    recipe = adapting(tiny_encoders)
    here = make_sources(recipe)["text"]
    model = made(recipe)
    model.save_pretrained(tmp_path / "model")
    begun = recipe.model_copy(update={"start_from": str(tmp_path / "model")})

    def trained_with(source: str) -> None:
        decision = Decision(late=False, calibration={}, thresholds={}).to_json()
        about = {
            "encoders": {"text": {"source": source}},
            "decision": decision,
            "about": {},
        }
        (tmp_path / "model" / "pipeline.json").write_text(json.dumps(about))

    trained_with(here.source)
    made(begun)
    trained_with("another")
    with pytest.warns(UserWarning, match=f"learned to read text as another gives it, here {here.source} does"):
        made(begun)
    made(begun.model_copy(update={"start_fresh": ("text",)}))


@pytest.mark.encoders
def test_everyday_goes_on_from_the_shipped_model():
    """All that the shipped model has learned, with the figures that voices were standardised by."""
    recipe = load_recipe(find_recipe("everyday"), {"start_from": SHIPPED.name})
    if missing := [role for role in DEFAULTS.values() if find(SOURCES[role]) is None]:
        pytest.skip(f"not fetched: {', '.join(missing)}")
    sources = make_sources(recipe)
    layers = sources["audio"].n_layers
    voices = Rows([], [{"audio": np.ones((4, layers, sources["audio"].width), np.float16)}])
    started, shipped = make_model(recipe, sources, voices), load_bundle(fold=False).model
    learned, theirs = ({n: p for n, p in m.named_parameters() if p.requires_grad} for m in (started, shipped))
    assert learned.keys() == theirs.keys()
    for name, parameter in learned.items():
        assert torch.equal(parameter, theirs[name]), name
    for name in ("mean", "deviation"):
        own, other = (getattr(m.inputs["audio"].norm, name) for m in (started, shipped))
        assert torch.equal(own, other)
