"""The first weights of a run from a model that was trained before, on other data or with its encoders frozen."""

from collections.abc import Sequence
from pathlib import Path

import torch

from mmolre.bundle import model_folder
from mmolre.errors import UserError
from mmolre.model.mmolre import MMoLRE, is_part_of
from mmolre.model.upper import saved_state


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
def take_weights(model: MMoLRE, name: str, fresh: Sequence[str] = ()) -> None:
    """Give ``model`` the weights that it has in common with the model ``name``, by their names.

    What only one of the two has (a task, a modality, layers of an encoder that learn in one of them alone) stays as it
    is. The standardisation of a modality's features is taken too.

    Args:
        name: a run's folder, a model's folder, or a hub id.
        fresh: modalities whose own parts stay as they are, too.

    Raises:
        UserError: no model there; a part that both have is of another shape or of other layers of an encoder.
    """
    source = MMoLRE.from_pretrained(earlier_model("start_from", name))
    # The layers' names count from the first that learns.
    for modality in (set(source.uppers) & set(model.uppers)) - set(fresh):
        # As JSON: in one that was read from a file, keys that were numbers are texts.
        theirs, ours = (
            m.config.modalities[modality].adapted.model_dump_json(include={"config", "first"})  # type: ignore[union-attr]
            for m in (source, model)
        )
        if theirs != ours:
            raise UserError(f"start_from: in {name} other layers of the {modality} encoder learn than in this recipe")
    here = model.state_dict()
    common = {key: tensor for key, tensor in saved_state(source).items() if key in here and not is_part_of(key, fresh)}
    for key, tensor in common.items():
        if tensor.shape != here[key].shape:
            shapes = f"{tuple(tensor.shape)} there, {tuple(here[key].shape)} here"
            raise UserError(f"start_from: {name} is of another shape than this recipe's model: {key} is {shapes}")
    if not common:
        raise UserError(f"start_from: {name} has nothing in common with this recipe's model")
    model.load_state_dict(common, strict=False)
