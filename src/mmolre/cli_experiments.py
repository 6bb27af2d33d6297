"""The experiments' commands: only signatures and help, as in :mod:`mmolre.cli`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from mmolre.errors import UserError

if TYPE_CHECKING:  # these import torch, and --help needs it not
    from mmolre.experiments.run import Tell
    from mmolre.experiments.runs import Where
    from mmolre.train.recipe import Recipe

T = TypeVar("T")
Optional = Annotated[T | None, arg(help_behavior_hint="")]
Manifests = Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="MANIFEST", help_behavior_hint="")]
Settings = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE", help_behavior_hint="")]
Names = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="ROW", help_behavior_hint="")]


def compare(
    recipes: Annotated[Positional[tuple[str, ...]], arg(metavar="RECIPE [RECIPE ...]", help_behavior_hint="")],
    /,
    data: Manifests,
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/compare"),
    seeds: int = 5,
    only: Names = (),
    set: Settings = (),  # noqa: A002
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    cache: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    device: Annotated[str, arg(metavar="NAME")] = "cpu",
) -> int:
    """Compare MMoLRE with baselines that differ in its middle alone. Run it again to go on where it was stopped.

    Args:
        recipes: YAML files or the package's recipes; the first is MMoLRE, further ones are further rows.
        data: a manifest with train, valid and test rows; may be given several times.
        out: gets compare.md, .json, .png, .svg, and every run below runs/.
        seeds: how many; 0, 1, …
        only: one row alone, e.g. hard; may be given several times.
        set: overrides one value of every recipe, e.g. training.epochs=3; may be given several times.
        audio_root: where the manifest's audio lies, if not beside it.
        cache: where features are kept.
        device: cpu or cuda.
    """
    parsed = _recipes(recipes, set)
    from mmolre.experiments import run

    return _experiment(
        lambda where, tell: run.compare(parsed, where, seeds=seeds, only=only, tell=tell),
        (data, out, audio_root, cache, device),
        seeds,
    )


def ablate(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help_behavior_hint="")],
    /,
    data: Manifests,
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/ablate"),
    seeds: int = 1,
    only: Names = (),
    set: Settings = (),  # noqa: A002
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    cache: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    device: Annotated[str, arg(metavar="NAME")] = "cpu",
) -> int:
    """Remove each part of the model alone. Run it again to go on where it was stopped.

    Args:
        recipe: a YAML file or one of the package's recipes.
        data: a manifest with train, valid and test rows; may be given several times.
        out: gets ablate.md, .json, .png, .svg, and every run below runs/.
        seeds: how many; 0, 1, …
        only: one row alone, e.g. no-shared; may be given several times. The whole model is the row mmolre.
        set: overrides one value of the recipe; may be given several times.
        audio_root: where the manifest's audio lies, if not beside it.
        cache: where features are kept.
        device: cpu or cuda.
    """
    (parsed,) = _recipes((recipe,), set)
    from mmolre.experiments import run

    return _experiment(
        lambda where, tell: run.ablate(parsed, where, seeds=seeds, only=only, tell=tell),
        (data, out, audio_root, cache, device),
        seeds,
    )


def sweep(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help_behavior_hint="")],
    /,
    data: Manifests,
    experts: Annotated[str, arg(metavar="N,N,...")] = "2,4,8,16",
    top_k: Annotated[str, arg(metavar="K,K,...")] = "1,2,4,8",
    equal: Literal["total", "each"] = "total",
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/sweep"),
    seeds: int = 1,
    set: Settings = (),  # noqa: A002
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    cache: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    device: Annotated[str, arg(metavar="NAME")] = "cpu",
) -> int:
    """Heat maps over the number of shared experts N and the k that routers keep (k <= N).

    Args:
        recipe: a YAML file or one of the package's recipes.
        data: a manifest with train, valid and test rows; may be given several times.
        experts: the values of N.
        top_k: the values of k.
        equal: the recipe's total rank whatever N is (total), or the recipe's mean rank for each expert (each).
        out: gets sweep-EQUAL.png, .svg, .json, .csv, and every run below runs/.
        seeds: how many; 0, 1, …
        set: overrides one value of the recipe; may be given several times.
        audio_root: where the manifest's audio lies, if not beside it.
        cache: where features are kept.
        device: cpu or cuda.
    """
    numbers = _numbers("--experts", experts), _numbers("--top-k", top_k)
    (parsed,) = _recipes((recipe,), set)
    from mmolre.experiments import run

    return _experiment(
        lambda where, tell: run.run_sweep(
            parsed, where, experts=numbers[0], top_k=numbers[1], equal=equal, seeds=seeds, tell=tell
        ),
        (data, out, audio_root, cache, device),
        seeds,
    )


def crossvalidate(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help_behavior_hint="")],
    /,
    data: Manifests,
    by: Literal["recording", "speaker", "utterance"] = "recording",
    folds: int = 5,
    modalities: Annotated[str, arg(metavar="A+B")] = "all",
    further: Manifests = (),
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/crossvalidate"),
    set: Settings = (),  # noqa: A002
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    cache: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    device: Annotated[str, arg(metavar="NAME")] = "cpu",
) -> int:
    """Train once for each fold of a corpus, and score each on what it has not learned from.

    For a corpus without splits, or too small for a test that says much. Rows of the split test are left alone. Run it
    again to go on where it was stopped. A recipe can learn from what was said, by --set
    "teachers=[DIR/predictions.jsonl]". A recipe that has teachers needs one for each fold, since none may know what
    its fold holds out: in --set 'teachers=["said-{fold}.jsonl"]' {fold} is the fold's number.

    Args:
        recipe: a YAML file or one of the package's recipes.
        data: a manifest with labels; may be given several times.
        by: what stays together in one fold: all of a recording (video_id), or all that a speaker says.
        folds: how many.
        modalities: predict from these of the model's alone, e.g. text, or text+covarep.
        further: a manifest that every fold trains on, and none is scored on; may be given several times.
        out: gets crossvalidate.json, predictions.jsonl, and the runs, fold-1/ and on.
        set: overrides one value of the recipe; may be given several times.
        audio_root: where the manifest's audio lies, if not beside it.
        cache: where features are kept.
        device: cpu or cuda.
    """
    (parsed,) = _recipes((recipe,), set)
    from mmolre import terminal
    from mmolre.cli import _modalities
    from mmolre.experiments import crossvalidate as folded

    chosen = _modalities(modalities)
    found: list[folded.CrossValidated] = []

    def do(where: "Where", tell: "Tell") -> int:
        found.append(
            folded.crossvalidate(parsed, where, by=by, folds=folds, further=further, modalities=chosen, tell=tell)
        )
        return found[0].failed

    code = _experiment(do, (data, out, audio_root, cache, device), seeds=1)
    if found:
        terminal.plain(folded.result_table(found[0].content))
        terminal.note(f"written: {out / folded.RESULT_FILE}, {out / folded.PREDICTIONS_FILE}")
    return code


def explain(
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN [RUN ...]", help_behavior_hint="")],
    /,
    data: Manifests = (),
    split: Literal["train", "valid", "test"] = "valid",
    id: Annotated[Optional[str], arg(metavar="ID")] = None,  # noqa: A002
    text: Optional[str] = None,
    audio: Annotated[Optional[Path], arg(metavar="FILE")] = None,
    out: Annotated[Path, arg(metavar="DIR")] = Path("explained"),
    audio_root: Annotated[Optional[Path], arg(metavar="DIR")] = None,
    cache: Annotated[Optional[Path], arg(metavar="DIR")] = None,
) -> int:
    """Show what a trained model does: routing, task conflict, what drove one utterance's scores.

    With --data and no --id: which shared experts each task and each emotion uses (routing.png, .svg, .json). With
    --text, --audio or --id: which words and seconds drove each score, and what each modality added (utterance.*). Of
    runs trained with --set training.conflict_every=10: how far the two tasks' gradients conflict, layer by layer
    (conflict.*).

    Args:
        runs: folders of runs; the first is explained, all are compared in their task conflict. "shipped" is the model
            that comes with the package.
        data: a manifest; may be given several times.
        split: whose routing.
        id: of an utterance in the data.
        text: the words of an utterance.
        audio: its sound.
        out: gets the figures and numbers.
        audio_root: where the manifest's audio lies, if not beside it.
        cache: where features are kept.
    """
    from mmolre.cli import ROWS_FAILED, _cache

    if not runs:
        raise UserError("no run: name the folder of at least one")
    from mmolre import terminal
    from mmolre.explain import run

    more = {"data": data, "split": split, "wanted": id, "text": text, "audio": audio, "audio_root": audio_root}
    with terminal.quiet_warnings(), terminal.encoding_progress() as progress:
        failed = run.explain(runs, out, cache=_cache(cache), progress=progress, tell=terminal.note, **more)
    if failed:
        terminal.note(f"{failed} row{'s' if failed != 1 else ''} could not be used")
    return ROWS_FAILED if failed else 0


def register(app: tyro.extras.SubcommandApp) -> None:
    """Add the commands to ``mmolre``."""
    for command in (compare, ablate, sweep, crossvalidate, explain):
        app.command(command)


def _experiment(
    do: "Callable[[Where, Tell], int]",
    given: tuple[tuple[Path, ...], Path, Path | None, Path | None, str],
    seeds: int,
) -> int:
    from mmolre.cli import ROWS_FAILED, _cache, _needs_data

    data, out, audio_root, cache, device = given
    _needs_data(data)
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least one is needed")
    from mmolre import terminal
    from mmolre.bundle import check_device
    from mmolre.experiments.runs import Where
    from mmolre.train.loop import InterruptedRunError

    check_device(device)
    try:
        with terminal.quiet_warnings(), terminal.training_display() as callbacks:
            failed = do(Where(data, out, audio_root, _cache(cache), device, callbacks), terminal.note)
    except (InterruptedRunError, KeyboardInterrupt):
        terminal.note(f"stopped; run the same command again to go on ({out})")
        return 130
    if failed:
        terminal.note(f"{failed} row{'s' if failed != 1 else ''} could not be used: see failed-rows*.jsonl below {out}")
        return ROWS_FAILED
    return 0


def _recipes(names: tuple[str, ...], settings: tuple[str, ...]) -> "list[Recipe]":
    from mmolre.cli import _pair
    from mmolre.train.named import find_recipe
    from mmolre.train.recipe import load_recipe

    if not names:
        raise UserError("no recipe: name at least one, e.g. mosei-frozen")
    found = [load_recipe(find_recipe(name), dict(_pair(item) for item in settings)) for name in names]
    for recipe in found:
        if recipe.refit:
            raise UserError(f"{recipe.name}: refit is of one run; an experiment's rows and seeds are chosen on valid")
    return found


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text}: expected whole numbers between commas, e.g. 2,4,8") from None
