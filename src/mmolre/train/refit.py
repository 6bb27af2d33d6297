"""Learning valid, too, once all is decided: a recipe's run again, on train and valid together; ours.

What valid is for, the epoch and how predictions are read, an earlier run of the same recipe has decided without it. So
nothing is left to choose, and more utterances are learned from; test alone can say what came of it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmolre.bundle import MODEL_FOLDER, read_pipeline
from mmolre.errors import UserError
from mmolre.evaluate.decision import Decision
from mmolre.files import write_text
from mmolre.train.checkpoint import CHECKPOINT_FILE, read_state
from mmolre.train.recipe import RECIPE_FILE, Recipe, read_recipe
from mmolre.train.validation import Validation

DECIDED_FILE = "refit.json"


class EarlierRun(NamedTuple):
    """What a finished run decided on valid.

    Attributes:
        epochs: after how many its model was kept.
        validation: how its predictions are read, without a score.
        data: the digest of its train and valid rows (:func:`mmolre.train.loop.data_digest`).
    """

    epochs: int
    validation: Validation
    data: str


def earlier_run(recipe: Recipe, out: Path) -> EarlierRun | None:
    """What the run that ``recipe.refit`` names decided; None where it names none.

    A refit that was begun in ``out`` has it from there (:func:`keep`): the earlier run may be gone.

    Raises:
        UserError: no finished run there, or one of another recipe or seed.
    """
    if recipe.refit is None:
        return None
    if (out / CHECKPOINT_FILE).exists() and (out / DECIDED_FILE).exists():
        return _kept(out / DECIDED_FILE)
    run = Path(recipe.refit)
    if not (run / RECIPE_FILE).is_file():
        raise UserError(f"refit: no run at {run}; train the recipe without refit first")
    theirs = read_recipe(run)
    if theirs.refit:
        raise UserError(f"refit: {run} is a refit itself; name the run that chose, {theirs.refit}")
    if differing := sorted(_differing(theirs.model_dump(), recipe.model_dump() | {"refit": None})):
        raise UserError(f"refit: {run} is of another recipe: other values of {', '.join(differing)}")
    state = read_state(run / CHECKPOINT_FILE)
    if state is None or not state["finished"]:
        raise UserError(f"refit: the run in {run} has not finished, or its {CHECKPOINT_FILE} cannot be read")
    decision, about, _ = read_pipeline(run / MODEL_FOLDER)
    errors = about.get("sentiment_error_quantiles", {})
    return EarlierRun(state["best_epoch"], Validation({}, decision, None, errors), state["data"])


def keep(earlier: EarlierRun, out: Path) -> None:
    """Write what :func:`earlier_run` will find in ``out`` when the refit goes on."""
    _, decision, _, errors = earlier.validation
    content = {"epochs": earlier.epochs, "data": earlier.data, "decision": decision.to_json(), "errors": errors}
    write_text(out / DECIDED_FILE, json.dumps(content, indent=2) + "\n")


def _kept(path: Path) -> EarlierRun:
    try:
        content = json.loads(path.read_bytes())
        validation = Validation({}, Decision.from_json(content["decision"]), None, content["errors"])
        return EarlierRun(int(content["epochs"]), validation, content["data"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__} {error}): give another --out") from None


def _differing(a: Mapping[str, Any], b: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """The dotted keys that differ."""
    for key in {*a, *b}:
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            yield from _differing(x, y, f"{where}{key}.")
        elif x != y:
            yield f"{where}{key}"
