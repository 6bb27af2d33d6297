"""A model over many utterances: batches of similar length in, arrays in the input's order out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mmolre.data.batching import collate, likeness, sorted_buckets
from mmolre.model.mmolre import MMoLRE
from mmolre.schema import EMOTIONS, Utterance


@dataclass(frozen=True, slots=True)
class RawPredictions:
    """What the model says, before any calibration or threshold.

    Attributes:
        modalities: per utterance, the modalities it was predicted from.
        sentiment: (n,) float64, not clipped; NaN where the model has no such task.
        logits: (n, 6) emotion logits of the fused model; NaN likewise.
        alone: modality -> (n, 6) emotion logits from that modality alone; NaN where an utterance has it not.
            Where an utterance has only one modality, they are its ``logits``.
    """

    modalities: list[tuple[str, ...]]
    sentiment: NDArray[np.float64]
    logits: NDArray[np.float64]
    alone: dict[str, NDArray[np.float64]]


def infer(
    model: MMoLRE,
    arrays: Sequence[Mapping[str, np.ndarray]],
    *,
    batch_size: int = 64,
    each_alone: bool = True,
) -> RawPredictions:
    """Predict from stored features.

    Args:
        model: in evaluation mode.
        arrays: per utterance, modality -> (T, L, width); at least one modality each.
        batch_size: utterances at a time; changes the time and the memory, not the result.
        each_alone: also predict the emotions of utterances with several modalities from each of these alone.
    """
    modalities = [tuple(m for m in model.config.modalities if m in present) for present in arrays]
    sentiment = np.full(len(arrays), np.nan)
    logits = np.full((len(arrays), len(EMOTIONS)), np.nan)
    alone = {m: np.full_like(logits, np.nan) for m in model.config.modalities}
    for rows in sorted_buckets([likeness(present) for present in arrays], batch_size):
        outputs = _forward(model, [arrays[i] for i in rows])
        if "sentiment" in outputs:
            sentiment[rows] = outputs["sentiment"]
        if "emotion" not in outputs:
            continue
        logits[rows] = outputs["emotion"]
        for modality, of_modality in alone.items():
            single = [i for i in rows if modalities[i] == (modality,)]
            of_modality[single] = logits[single]
            several = [i for i in rows if modality in arrays[i] and len(arrays[i]) > 1]
            if several and each_alone:
                only = [{modality: arrays[i][modality]} for i in several]
                of_modality[several] = _forward(model, only)["emotion"]
    return RawPredictions(modalities, sentiment, logits, alone)


@torch.inference_mode()
def _forward(model: MMoLRE, arrays: Sequence[Mapping[str, np.ndarray]]) -> dict[str, NDArray]:
    device = next(model.parameters()).device
    batch = collate([Utterance(id="")] * len(arrays), arrays).to(device)
    return {task: x.double().cpu().numpy() for task, x in model(batch.features, batch.masks).tasks.items()}
