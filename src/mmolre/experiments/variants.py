"""The rows of each experiment, as changes of one recipe: encoders, fusion, heads, data, optimiser and budget stay.

Baselines are hard parameter sharing (Caruana, 1997), MMoE (Ma et al., KDD 2018), PLE (Tang et al., RecSys 2020) and
PCGrad (Yu et al., NeurIPS 2020). All experts of all rows are the paper's: kernel 3, then kernel 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mmolre.errors import UserError
from mmolre.train.recipe import Recipe, parse_recipe

MMOLRE = "mmolre"
"""The row of the recipe itself, so that experiments below one folder share its runs."""

DEFAULT_PRIMARY = {"sentiment": "sentiment.mae", "emotion": "emotion.macro_f1"}
"""Chooses the epoch of a single-task model where none of the recipe's ``primary`` is of its task."""


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        name: of its folder.
        title: for people.
        parts: task -> recipe of the model that predicts it; ``{"": recipe}`` where one predicts all.
    """

    name: str
    title: str
    parts: dict[str, Recipe]


def comparison(recipe: Recipe) -> list[Row]:
    """The baselines and MMoLRE.

    Hard sharing and the single-task models have one full-rank expert per block (two plain convolutions); MMoE and PLE
    have as many shared experts as the recipe, at full rank r = d; PLE has one own expert per task. The balance term is
    MMoLRE's alone: dense gates go without.

    Raises:
        UserError: the recipe has no shared or no own experts: it is no MMoLRE to compare; or it starts from a model.
    """
    must_be_new(recipe)
    model = recipe.model
    if not model.shared_ranks or not model.specific_rank or not model.blocks or model.trunk != "unitse":
        raise UserError(f"{recipe.name}: a comparison starts from a recipe with blocks, shared_ranks and specific_rank")
    width, experts = model.width, len(model.shared_ranks)
    dense = {"routing": "utterance", "renormalize": False, "top_k": experts}
    full = (width,) * experts
    unbalanced = {"router_balance": 0.0, "surgery": "none"}
    hard = {"shared_ranks": (width,), "specific_rank": 0, "routing": "uniform", "renormalize": False, "top_k": 1}
    mmoe = dense | {"shared_ranks": full, "specific_rank": 0}
    ple = dense | {"trunk": "ple", "shared_ranks": full, "specific_rank": width}
    low_rank_ple = dense | {"trunk": "ple"}
    single = _changed(recipe, "single", model=hard, objective=unbalanced)
    rows = [
        Row("single", "Single-task models", {task: only_task(single, task) for task in model.tasks}),
        _row(recipe, "hard", "Hard sharing", model=hard, objective=unbalanced),
        # Surgery takes a batch in one piece; the step is the same.
        _row(
            recipe,
            "pcgrad",
            "Hard sharing + PCGrad",
            model=hard,
            objective=unbalanced | {"surgery": "pcgrad"},
            training={"accumulate": 1},
        ),
        _row(recipe, "mmoe", "MMoE", model=mmoe, objective=unbalanced),
        _row(recipe, "ple", "PLE, full rank", model=ple, objective=unbalanced),
        _row(recipe, "ple-low-rank", "PLE, low rank", model=low_rank_ple, objective=unbalanced),
        Row(MMOLRE, "MMoLRE", {"": recipe}),
    ]
    # With one task, nothing is shared and there is nothing to operate on.
    return rows if len(model.tasks) > 1 else [row for row in rows if row.name not in ("single", "pcgrad")]


def ablation(recipe: Recipe) -> list[Row]:
    """The recipe, and each of its parts removed alone (design of the paper's figure 3; the list is ours).

    Raises:
        UserError: the recipe starts from a model.
    """
    must_be_new(recipe)
    model = recipe.model
    modalities = [*recipe.encoders, *recipe.features]
    rows = [Row(MMOLRE, "MMoLRE, whole", {"": recipe})]
    if model.shared_ranks and model.specific_rank:
        rows += [
            _row(recipe, "no-shared", "without shared experts", model={"shared_ranks": ()}),
            _row(recipe, "no-own", "without task-specific experts", model={"specific_rank": 0}),
        ]
    if model.shared_ranks:
        rows.append(_row(recipe, "no-routers", "without routers (uniform gates)", model={"routing": "uniform"}))
    full = {"shared_ranks": (model.width,) * len(model.shared_ranks)}
    full |= {"specific_rank": model.width if model.specific_rank else 0}
    rows += [
        _row(recipe, "full-rank", "without low rank (full-rank experts)", model=full),
        _row(recipe, "no-unitse", "without UniTSE", model={"blocks": 0}),
    ]
    if len(model.tasks) > 1:
        rows.append(_row(recipe, "shared-fusion", "one fusion for both tasks", model={"fusion": "shared"}))
    if len(modalities) > 1:
        rows += [Row(f"no-{m}", f"without {m}", {"": without_modality(recipe, m)}) for m in modalities]
    if len(model.tasks) > 1:
        one = {task: only_task(_changed(recipe, "one-task"), task) for task in model.tasks}
        rows.append(Row("one-task", "without the other task", one))
    return rows


def sweep(
    recipe: Recipe, experts: Sequence[int], top_k: Sequence[int], equal: Literal["total", "each"] = "total"
) -> dict[tuple[int, int], Row]:
    """(N, k) -> row, for k <= N: N shared experts of one rank, routers that keep k.

    Args:
        equal: ``total``: the recipe's total rank, split among the N, so that all cells cost the same and only the grain
            differs; ``each``: experts of the recipe's mean rank, so that capacity grows with N.

    Raises:
        UserError: more experts than there are ranks to share out, or nothing to run; the recipe has no shared experts,
            or starts from a model.
    """
    must_be_new(recipe)
    if recipe.model.trunk != "unitse" or recipe.model.routing == "uniform":
        raise UserError(f"{recipe.name}: a sweep needs routers that keep k: trunk unitse, and routing not uniform")
    total = sum(recipe.model.shared_ranks)
    if not total:
        raise UserError(f"{recipe.name}: a sweep starts from a recipe with shared_ranks")
    rows: dict[tuple[int, int], Row] = {}
    for n in experts:
        if n < 1 or (equal == "total" and n > total):
            raise UserError(f"--experts {n}: the recipe's total rank is {total}; give 1 to {total}, or --equal each")
        ranks = (round(total / len(recipe.model.shared_ranks)),) * n
        if equal == "total":
            ranks = tuple(total // n + (i < total % n) for i in range(n))
        for k in (k for k in top_k if 1 <= k <= n):
            name = f"{equal}-n{n}-k{k}"
            rows[n, k] = _row(recipe, name, f"N = {n}, k = {k}", model={"shared_ranks": ranks, "top_k": k})
    if not rows:
        raise UserError("--experts and --top-k leave nothing to run: k must be from 1 to N")
    return rows


def only_task(recipe: Recipe, task: str) -> Recipe:
    """The recipe of a model that predicts one task; the epoch is chosen by the ``primary`` metrics of it."""
    primary = tuple(key for key in recipe.training.primary if key.startswith(f"{task}."))
    return _changed(recipe, task, model={"tasks": (task,)}, training={"primary": primary or (DEFAULT_PRIMARY[task],)})


def without_modality(recipe: Recipe, modality: str) -> Recipe:
    """The recipe without one of its modalities."""
    content = recipe.model_dump()
    for group in ("encoders", "features"):
        content[group].pop(modality, None)
    repeat = {key: n for key, n in recipe.training.repeat.items() if modality not in key.split("+")}
    content["training"]["repeat"] = repeat
    exclusive = tuple(key for key in recipe.objective.exclusive if modality not in key.split("+"))
    content["objective"]["exclusive"] = exclusive
    return parse_recipe(content | {"name": f"{recipe.name}-no-{modality}"}, recipe.name)


def fewer_modalities(rows: Sequence[Row], recipe: Recipe) -> None:
    """See before hours of training that rows without a modality learn from what the whole learns from, as often.

    Raises:
        UserError: ``repeat`` or ``exclusive`` go by the modalities that an utterance has, and these rows have fewer.
    """
    names = [row.name for row in rows if row.name in {f"no-{m}" for m in (*recipe.encoders, *recipe.features)}]
    if names and (recipe.training.repeat or recipe.objective.exclusive):
        raise UserError(
            f"{recipe.name}: training.repeat and objective.exclusive go by the modalities that an utterance has, which "
            f"is not the same in {' and '.join(names)}; give --set training.repeat={{}} --set objective.exclusive=[], "
            "or other rows with --only"
        )


def must_be_new(recipe: Recipe) -> None:
    """No start from a model: rows of other shapes could not have it, and one that has is not compared by its shape."""
    if recipe.start_from is not None:
        raise UserError(
            f"{recipe.name}: start_from: the rows of an experiment begin with new weights, since what a model of one "
            "shape has learned fits no other; give --set start_from=null"
        )


def _row(recipe: Recipe, name: str, title: str, **changes: Mapping[str, Any]) -> Row:
    return Row(name, title, {"": _changed(recipe, name, **changes)})


def _changed(recipe: Recipe, suffix: str, **changes: Mapping[str, Any]) -> Recipe:
    content = recipe.model_dump()
    for group, values in changes.items():
        content[group] |= values
    return parse_recipe(content | {"name": f"{recipe.name}-{suffix}"}, recipe.name)
