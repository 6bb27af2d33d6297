"""A model over many utterances: batches of similar length in, arrays in the input's order out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mmolre.data.batching import collate, likeness, sorted_buckets
from mmolre.model.mmolre import MMoLRE, Output
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
        alone_sentiment: modality -> (n,) sentiment, likewise.
    """

    modalities: list[tuple[str, ...]]
    sentiment: NDArray[np.float64]
    logits: NDArray[np.float64]
    alone: dict[str, NDArray[np.float64]]
    alone_sentiment: dict[str, NDArray[np.float64]]

    def only(self, modality: str, rows: Sequence[int]) -> "RawPredictions":
        """What is said from one modality alone of the utterances ``rows``, all of which have it."""
        sentiment, logits = self.alone_sentiment[modality][rows], self.alone[modality][rows]
        alone = {m: logits if m == modality else np.full_like(logits, np.nan) for m in self.alone}
        alone_sentiment = {m: sentiment if m == modality else np.full_like(sentiment, np.nan) for m in self.alone}
        return RawPredictions([(modality,)] * len(rows), sentiment, logits, alone, alone_sentiment)


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
        batch_size: utterances at a time, fewer where they are long; changes the time and the memory, not the result.
        each_alone: also predict utterances with several modalities from each of these alone.
    """
    modalities = [tuple(m for m in model.config.modalities if m in present) for present in arrays]
    fused = {"sentiment": np.full(len(arrays), np.nan), "emotion": np.full((len(arrays), len(EMOTIONS)), np.nan)}
    alone = {task: {m: np.full_like(values, np.nan) for m in model.config.modalities} for task, values in fused.items()}
    for rows in sorted_buckets([likeness(present) for present in arrays], batch_size):
        several = each_alone and any(len(arrays[i]) > 1 for i in rows)
        output = _forward(model, [arrays[i] for i in rows], each_alone=several)
        for task, values in output.tasks.items():
            fused[task][rows] = _numpy(values)
            for modality, (own, which) in output.alone[task].items():
                alone[task][modality][np.array(rows)[which.cpu().numpy()]] = _numpy(own)
            for modality, values_alone in alone[task].items():
                single = [i for i in rows if modalities[i] == (modality,)]
                values_alone[single] = fused[task][single]
    return RawPredictions(modalities, fused["sentiment"], fused["emotion"], alone["emotion"], alone["sentiment"])


@torch.inference_mode()
def _forward(model: MMoLRE, arrays: Sequence[Mapping[str, np.ndarray]], *, each_alone: bool) -> Output:
    device = next(model.parameters()).device
    batch = collate([Utterance(id="")] * len(arrays), arrays).to(device)
    return model(batch.features, batch.masks, each_alone=each_alone)


def _numpy(x: torch.Tensor) -> NDArray[np.float64]:
    return x.cpu().double().numpy()  # in this order: MPS has no doubles
