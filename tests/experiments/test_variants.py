import pytest

from mmolre import UserError
from mmolre.experiments.variants import ablation, comparison, only_task, sweep
from mmolre.model.config import ModelConfig
from mmolre.model.mmolre import MMoLRE
from mmolre.train.recipe import Recipe
from tiny_runs import tiny_recipe

RECIPE = tiny_recipe(primary=("sentiment.corr", "emotion.wa_mean"), repeat={"audio": 2, "text+audio": 3})


def built(recipe: Recipe) -> MMoLRE:
    shapes = {"text": {"width": 6}, "audio": {"width": 5, "layers": 2}}
    chosen = {m: shapes[m] for m in recipe.encoders}
    return MMoLRE(ModelConfig.model_validate({"modalities": chosen, **recipe.model.model_dump()}))


def outside(recipe: Recipe, task: str = "") -> dict:
    """Shapes of everything but the middle."""
    model = built(recipe)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if not n.startswith(("unitse.", "placeholders."))}
    return {n: s for n, s in shapes.items() if not task or task in n or n.startswith("inputs.")}


def test_only_the_middle_differs():
    rows = {row.name: row for row in comparison(RECIPE)}
    assert list(rows) == ["single", "hard", "pcgrad", "mmoe", "ple", "ple-low-rank", "mmolre"]
    assert rows["mmolre"].parts == {"": RECIPE}
    for name in ("hard", "pcgrad", "mmoe", "ple", "ple-low-rank"):
        (recipe,) = rows[name].parts.values()
        assert outside(recipe) == outside(RECIPE)
        assert (recipe.training, recipe.encoders, recipe.seed) == (RECIPE.training, RECIPE.encoders, RECIPE.seed)
    assert list(rows["single"].parts) == ["sentiment", "emotion"]
    for task, recipe in rows["single"].parts.items():
        assert recipe.model.tasks == (task,)
        assert recipe.training.primary == tuple(k for k in RECIPE.training.primary if k.startswith(task))
        assert outside(recipe, task).items() <= outside(RECIPE).items()


def test_the_middles():
    width, block = 16, (3 * 16 + 1) * 16 + (16 + 1) * 16  # one full-rank expert
    middles = {
        row.name: sum(p.numel() for p in built(row.parts[""]).unitse["text"].parameters())
        for row in comparison(RECIPE)
        if "" in row.parts
    }
    norms, experts = 3 * 2 * width, 2
    assert middles["hard"] == middles["pcgrad"] == norms + 2 * block
    assert middles["mmoe"] == norms + 2 * (experts * block + 2 * (width + 1) * experts)
    gates = 2 * 2 * (width + 1) * (experts + 1) + (width + 1) * (experts + 2)
    assert middles["ple"] == norms + 2 * (experts + 2) * block + gates
    low = sum((3 * width + 1) * r + (r + 1) * width for r in (2, 3, 2, 2))
    assert middles["ple-low-rank"] == norms + 2 * low + gates
    assert middles["mmolre"] == norms + 2 * (low + 2 * (width + 1) * experts)


def test_what_each_baseline_is():
    of = {row.name: row.parts[""] for row in comparison(RECIPE) if "" in row.parts}
    assert (of["hard"].objective.surgery, of["pcgrad"].objective.surgery) == ("none", "pcgrad")
    assert of["mmoe"].model.top_k == len(of["mmoe"].model.shared_ranks) == 2
    assert of["mmoe"].model.specific_rank == 0
    assert all(recipe.objective.router_balance == 0 for name, recipe in of.items() if name != "mmolre")


def test_a_comparison_of_one_task_and_of_no_mmolre():
    assert [row.name for row in comparison(tiny_recipe(model={"tasks": ["emotion"]}))] == [
        *("hard", "mmoe", "ple", "ple-low-rank", "mmolre")
    ]
    with pytest.raises(UserError, match="starts from a recipe with blocks"):
        comparison(tiny_recipe(model={"specific_rank": 0}))


def test_the_ablation_removes_one_part_each():
    rows = {row.name: row.parts for row in ablation(RECIPE)}
    changed = {
        name: {k: v for k, v in parts[""].model.model_dump().items() if v != RECIPE.model.model_dump()[k]}
        for name, parts in rows.items()
        if "" in parts
    }
    assert changed == {
        "mmolre": {},
        "no-shared": {"shared_ranks": ()},
        "no-own": {"specific_rank": 0},
        "no-routers": {"routing": "uniform"},
        "full-rank": {"shared_ranks": (16, 16), "specific_rank": 16},
        "no-unitse": {"blocks": 0},
        "shared-fusion": {"fusion": "shared"},
        "no-text": {},
        "no-audio": {},
    }
    assert set(rows["no-text"][""].encoders) == {"audio"}
    assert rows["no-text"][""].training.repeat == {"audio": 2}
    assert rows["no-audio"][""].training.repeat == {}
    assert {task: part.model.tasks for task, part in rows["one-task"].items()} == {
        "sentiment": ("sentiment",),
        "emotion": ("emotion",),
    }
    assert rows["one-task"]["emotion"].model.shared_ranks == RECIPE.model.shared_ranks


def test_the_ablation_of_less():
    recipe = tiny_recipe(
        model={"tasks": ["emotion"], "specific_rank": 0}, more={"encoders": {"text": {"source": "none"}}}
    )
    assert [row.name for row in ablation(recipe)] == ["mmolre", "no-routers", "full-rank", "no-unitse"]


def test_a_single_tasks_epoch_is_chosen_by_its_own_metric():
    recipe = tiny_recipe(primary=("sentiment.corr",))
    assert only_task(recipe, "emotion").training.primary == ("emotion.macro_f1",)
    assert only_task(recipe, "sentiment").training.primary == ("sentiment.corr",)


def test_sweep():
    rows = sweep(RECIPE, [2, 4], [1, 2, 4])
    assert list(rows) == [(2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]
    assert rows[2, 1].parts[""].model.shared_ranks == (3, 2)
    assert rows[4, 2].parts[""].model.shared_ranks == (2, 1, 1, 1)
    assert rows[4, 2].parts[""].model.top_k == 2
    assert sweep(RECIPE, [4], [1], "each")[4, 1].parts[""].model.shared_ranks == (2, 2, 2, 2)
    with pytest.raises(UserError, match="total rank is 5"):
        sweep(RECIPE, [8], [1])
    with pytest.raises(UserError, match="nothing to run"):
        sweep(RECIPE, [2], [4])
    for change in ({"routing": "uniform"}, {"trunk": "ple"}):
        with pytest.raises(UserError, match="needs routers that keep k"):
            sweep(tiny_recipe(model=change), [2], [1])


def test_what_names_a_modality_goes_with_it():
    recipe = tiny_recipe(more={"objective": {"exclusive": ["audio", "text+audio"]}})
    rows = {row.name: row.parts for row in ablation(recipe)}
    assert rows["no-text"][""].objective.exclusive == ("audio",)
    assert rows["no-audio"][""].objective.exclusive == ()


def test_baselines_are_without_surgery_and_surgery_takes_a_batch_in_one_piece():
    of = {row.name: row.parts for row in comparison(tiny_recipe(more={"objective": {"surgery": "pcgrad"}}))}
    found = {name: {part.objective.surgery for part in parts.values()} for name, parts in of.items()}
    assert {name for name, surgery in found.items() if surgery == {"pcgrad"}} == {"pcgrad", "mmolre"}
    of = {row.name: row.parts for row in comparison(tiny_recipe(accumulate=2))}
    assert of["pcgrad"][""].training.accumulate == 1
    assert of["hard"][""].training.accumulate == 2


@pytest.mark.parametrize("make", [comparison, ablation, lambda recipe: sweep(recipe, [2], [1])])
def test_no_start_from_a_model(make):
    with pytest.raises(UserError, match=r"start_from: the rows .* give --set start_from=null"):
        make(tiny_recipe(more={"start_from": "shipped"}))


def test_no_sweep_without_shared_experts():
    with pytest.raises(UserError, match="starts from a recipe with shared_ranks"):
        sweep(tiny_recipe(model={"shared_ranks": ()}), [2], [1], "each")
