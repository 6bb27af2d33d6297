import pytest
import torch
from torch import nn

from mmolre.data.dataset import Rows
from mmolre.experiments import cost
from mmolre.experiments.cost import TIME_STEPS, Measured, flops, measure
from mmolre.experiments.variants import comparison
from mmolre.model.config import ModelConfig
from mmolre.model.mmolre import MMoLRE
from mmolre.train.recipe import ObjectiveRecipe, Recipe
from mmolre.train.run import make_model, make_sources
from tiny_corpus import corpus_recipe
from tiny_encoders import write_text_like
from tiny_runs import tiny_config, tiny_recipe


def test_flops_of_the_middle_by_hand():
    """Per utterance and block: the two products of each expert (a multiply-add is two)."""
    width, rank = 8, 5
    hard = {"shared_ranks": (rank,), "specific_rank": 0, "routing": "uniform", "top_k": 1}
    counted = [flops(MMoLRE(tiny_config(("text",), blocks=blocks, **hard))) for blocks in (1, 3)]
    expert = 2 * TIME_STEPS * (3 * width * rank + rank * width)
    bias = 2 * width  # the gates' product with the experts' biases, once per utterance
    assert counted[1] - counted[0] == 2 * (expert + bias)


def test_a_row_of_two_models_is_their_sum(monkeypatch):
    monkeypatch.setattr(cost, "BATCH", 2)
    one, other = Measured(tiny_config(tasks=("sentiment",))), Measured(tiny_config(tasks=("emotion",)))
    costs = measure({"both": [one, other], "one": [one], "other": [other]}, repeats=1)
    for field in ("parameters", "middle", "flops"):
        assert getattr(costs["both"], field) == getattr(costs["one"], field) + getattr(costs["other"], field)
    assert costs["one"].parameters == sum(p.numel() for p in MMoLRE(one.config).parameters())
    assert all(c.step_ms > 0 for c in costs.values())


def test_attention_counts():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = tiny_config(("text",))
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, features, masks):
            x = features["text"].flatten(2)
            return nn.functional.scaled_dot_product_attention(x * self.scale, x, x)

    width = tiny_config(("text",)).modalities["text"].width * tiny_config(("text",)).modalities["text"].layers
    assert flops(Attending()) == 2 * 2 * TIME_STEPS * TIME_STEPS * width  # type: ignore[arg-type]


def test_what_is_frozen_is_no_parameter_that_learns(monkeypatch):
    monkeypatch.setattr(cost, "BATCH", 2)
    made = MMoLRE(tiny_config(("text",)))
    whole = sum(p.numel() for p in made.parameters())
    made.inputs.requires_grad_(False)
    frozen = sum(p.numel() for p in made.inputs.parameters())
    monkeypatch.setattr(cost, "MMoLRE", lambda _: made)
    assert measure({"": [Measured(made.config)]}, repeats=1)[""].parameters == whole - frozen < whole


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
def test_every_baseline_can_be_measured(monkeypatch, surgery):
    monkeypatch.setattr(cost, "BATCH", 2)
    objective = ObjectiveRecipe.model_validate({"surgery": surgery})
    shapes = {"text": {"width": 6}, "audio": {"width": 5, "layers": 2}}
    rows = {
        row.name: [
            Measured(ModelConfig.model_validate({"modalities": shapes, **recipe.model.model_dump()}), objective)
            for recipe in row.parts.values()
        ]
        for row in comparison(tiny_recipe())
    }
    costs = measure(rows, repeats=1)
    assert costs["ple"].flops > costs["mmoe"].flops > costs["hard"].flops


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
@pytest.mark.parametrize(
    "text",
    [
        {"adapt": "lora"},
        {"adapt": "lora", "upper": 1},
        {"adapt": "full"},
        {"adapt": "full", "upper": 1},
        {"adapt": "full", "surrounding_tokens": 8},
        {"adapt": "lora", "upper": 1, "surrounding_tokens": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_encoders_that_adapt_can_be_measured(monkeypatch, tiny_encoders, tmp_path, kind, text, surgery):
    monkeypatch.setattr(cost, "BATCH", 2)
    content = corpus_recipe(tiny_encoders).model_dump()
    source = tiny_encoders["text"]
    if kind == "mpnet":
        source = write_text_like(tmp_path / "mpnet", source, "mpnet", layers=2)
    content["encoders"] = {"text": {"source": str(source), **text}}
    recipe = Recipe.model_validate(content)
    model = make_model(recipe, make_sources(recipe), Rows([], []))
    objective = ObjectiveRecipe.model_validate({"surgery": surgery})
    costs = measure({"one": [Measured(model.config, objective)]}, repeats=1)["one"]
    assert costs.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert costs.step_ms > 0


def test_a_step_with_r_drop_is_two_passes(monkeypatch):
    monkeypatch.setattr(cost, "BATCH", 2)
    passes = []
    forward = MMoLRE.forward
    monkeypatch.setattr(MMoLRE, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    counted = []
    for r_drop in (0.0, 1.0):
        passes.clear()
        measure({"": [Measured(tiny_config(("text",)), ObjectiveRecipe(r_drop=r_drop))]}, repeats=1)
        counted.append(len(passes))
    assert counted[1] - counted[0] == 2  # one more in each of two steps
