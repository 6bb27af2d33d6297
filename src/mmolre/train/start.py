"""The first weights of a run from a model that was trained before, on other data or with its encoders frozen."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmolre.bundle import model_folder
from mmolre.errors import UserError
from mmolre.model.config import ModalityConfig, ModelConfig
from mmolre.model.mmolre import MMoLRE, is_part_of
from mmolre.model.upper import saved_state

_OF_A_TASK = re.compile(r"(fusion|unitse\.[^.]+\.blocks\.\d+\.(?:routers|specific|own|gates))\.(\d+)(\..+)")


def earlier_model(key: str, name: str) -> Path:
    """The model's folder that a recipe's ``key`` names: a run that came before this one, a model's folder or a hub id.

    Raises:
        UserError: no model there; says whose key it is and what to do.
    """
    try:
        return model_folder(name)
    except UserError as error:
        raise UserError(
            f"{key}: {name} is to be trained first, or another model named by --set {key}=…: {error}"
        ) from None


@torch.no_grad()
def take_weights(model: MMoLRE, name: str, fresh: Sequence[str] = (), only: Sequence[str] = ()) -> None:
    """Give ``model`` the weights that it has in common with the model ``name``, by their names.

    What only one of the two has (a task, a modality, layers of an encoder that learn in one of them alone) stays as it
    is. What is a task's own goes to that task, whatever the order of the tasks. The standardisation of a modality's
    features is taken too.

    Args:
        name: a run's folder, a model's folder, or a hub id.
        fresh: modalities whose own parts stay as they are, too.
        only: modalities whose own parts alone will learn, where not all will.

    Raises:
        UserError: no model there; a part that both have is of another shape or of other layers of an encoder; by
            ``only``, a part that the other model lacks would stay as it was drawn.

    Warns:
        UserWarning: an encoder that had learned there is frozen here, and begins as it was pretrained.
    """
    source = MMoLRE.from_pretrained(earlier_model("start_from", name))
    for modality in sorted(set(source.uppers) & set(model.config.modalities) - set(fresh)):
        if modality not in model.uppers:
            warnings.warn(
                f"start_from: in {name} layers of the {modality} encoder had learned; here it is frozen, and as it was "
                "pretrained",
                stacklevel=2,
            )
        elif _what_learns(source.config.modalities[modality]) != _what_learns(model.config.modalities[modality]):
            raise UserError(
                f"start_from: in {name} other layers of the {modality} encoder learn than in this recipe, or by other "
                "adapters: give the encoder the same upper, adapt, embeddings and lora, or name it in start_fresh"
            )
    here = model.state_dict()
    theirs = _by_task(saved_state(source), source.config, model.config, here)
    common = {key: tensor for key, tensor in theirs.items() if key in here and not is_part_of(key, fresh)}
    for key, tensor in common.items():
        if tensor.shape != here[key].shape:
            shapes = f"{tuple(tensor.shape)} there, {tuple(here[key].shape)} here"
            raise UserError(f"start_from: {name} is of another shape than this recipe's model: {key} is {shapes}")
    if not common:
        raise UserError(f"start_from: {name} has nothing in common with this recipe's model")
    drawn = [key for key in saved_state(model) if key not in common and not is_part_of(key, only)] if only else []
    if drawn:
        raise UserError(
            f"start_from: {name} lacks {drawn[0]} and {len(drawn) - 1} more that, by training.only, would never learn: "
            "start from a model of the same modalities and tasks"
        )
    model.load_state_dict(common, strict=False)


def _what_learns(modality: ModalityConfig) -> str:
    """What of an encoder learns, and how. As JSON: in a config that was read from a file, keys that were numbers are
    texts."""
    assert modality.adapted is not None
    # The layers' names count from the first that learns; what does not learn is not saved, so it is never taken either.
    kept = {"config": True, "first": True, "tokens": True, "embeddings": True, "lora": {"rank", "alpha", "targets"}}
    return modality.adapted.model_dump_json(include=kept)  # type: ignore[arg-type]


def _by_task(
    state: Mapping[str, Tensor], theirs: ModelConfig, ours: ModelConfig, here: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``state`` with what is each task's own where ``ours`` has that task; of a task it lacks, what is ``here``."""
    place = {theirs.tasks.index(task): k for k, task in enumerate(ours.tasks) if task in theirs.tasks}
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        part = key.partition(".")[0]
        if part == "fusion" and theirs.fusion != ours.fusion:
            continue  # one for all tasks is none of those for each
        one_for_all = part == "fusion" and ours.fusion == "shared"
        of_a_task = None if one_for_all else _OF_A_TASK.fullmatch(key)
        if of_a_task:
            if (k := place.get(int(of_a_task[2]))) is not None:
                found[f"{of_a_task[1]}.{k}{of_a_task[3]}"] = tensor
        elif key in here and (part == "placeholders" or ".shared_gate." in key):
            # A row for each task; of a PLE gate after those of the shared experts.
            shared = 0 if part == "placeholders" else len(ours.shared_ranks)
            found[key] = _rows_by_task(tensor, here[key], shared, place)
        else:
            found[key] = tensor
    return found


def _rows_by_task(theirs: Tensor, here: Tensor, shared: int, place: Mapping[int, int]) -> Tensor:
    """(shared + tasks, …): ``here`` with the shared rows and those of common tasks of ``theirs``."""
    if theirs.shape[1:] != here.shape[1:] or len(theirs) - shared <= max(place, default=-1):
        return theirs  # of another shape, which is told
    rows = here.clone()
    rows[:shared] = theirs[:shared]
    for there, k in place.items():
        rows[shared + k] = theirs[shared + there]
    return rows
