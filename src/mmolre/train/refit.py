"""Learning valid, too, once all is decided: a recipe's run again, on train and valid together; ours.

What valid is for, the epoch and how predictions are read, an earlier run of the same recipe has decided without it. So
nothing is left to choose, and more utterances are learned from; test alone can say what came of it.
"""

from pathlib import Path
from typing import NamedTuple

from mmolre.bundle import load_bundle
from mmolre.errors import UserError
from mmolre.train.checkpoint import CHECKPOINT_FILE, read_state
from mmolre.train.recipe import RECIPE_FILE, Recipe, holds
from mmolre.train.validation import Validation


class EarlierRun(NamedTuple):
    """What a finished run decided on valid.

    Attributes:
        epochs: after how many its model was kept.
        validation: how its predictions are read, without a score.
    """

    epochs: int
    validation: Validation


def earlier_run(recipe: Recipe) -> EarlierRun | None:
    """What the run that ``recipe.refit`` names decided; None where it names none.

    Raises:
        UserError: no finished run there, or one of another recipe or seed.
    """
    if recipe.refit is None:
        return None
    run = Path(recipe.refit)
    if not (run / RECIPE_FILE).is_file():
        raise UserError(f"refit: no run at {run}; train the recipe without refit first")
    if not holds(run / RECIPE_FILE, recipe.model_copy(update={"refit": None})):
        raise UserError(f"refit: {run} holds a run of another recipe or seed; train this one without refit first")
    state = read_state(run / CHECKPOINT_FILE)
    if state is None or not state["finished"]:
        raise UserError(f"refit: the run in {run} has not finished, or its {CHECKPOINT_FILE} cannot be read")
    bundle = load_bundle(run)
    return EarlierRun(
        state["best_epoch"], Validation({}, bundle.decision, None, bundle.about["sentiment_error_quantiles"])
    )
