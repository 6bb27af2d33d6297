"""Tiny models, features and recipes, in memory."""

from typing import Any

import numpy as np
import torch

from mmolre import MMoLRE, ModelConfig, Utterance
from mmolre.data.dataset import Rows
from mmolre.train.recipe import Recipe

SHAPES = {"text": (1, 6), "audio": (2, 5), "video": (1, 3)}
"""Modality -> layers, width of its features."""

Sets = tuple[tuple[str, ...], ...]
BOTH: Sets = (("text", "audio"),)
MIXED: Sets = (("text", "audio"), ("text",), ("audio",))


def tiny_config(modalities: tuple[str, ...] = ("text", "audio"), **changes: Any) -> ModelConfig:
    shapes = {m: {"width": SHAPES[m][1], "layers": SHAPES[m][0]} for m in modalities}
    small = {"width": 8, "shared_ranks": (2, 1, 3), "specific_rank": 2, "top_k": 2, "attention_width": 4}
    small |= {"attention_heads": 2, "dropout": 0.0}
    return ModelConfig.model_validate({"modalities": shapes, **small, **changes})


def tiny_model(modalities: tuple[str, ...] = ("text", "audio"), *, seed: int = 0, **changes: Any) -> MMoLRE:
    """In evaluation mode; weights from the seed, biases too, so that nothing is hidden by a zero."""
    torch.manual_seed(seed)
    model = MMoLRE(tiny_config(modalities, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def tiny_arrays(n: int, seed: int = 0, sets: Sets = BOTH) -> list[dict[str, np.ndarray]]:
    """Features of n utterances, in turn with each of the sets of modalities; lengths 1 to 7 and unequal."""
    draw = np.random.default_rng(seed)
    return [
        {m: draw.normal(size=(int(draw.integers(1, 8)), *SHAPES[m])).astype(np.float16) for m in sets[i % len(sets)]}
        for i in range(n)
    ]


def tiny_rows(n: int, seed: int = 0, sets: Sets = BOTH, *, no_sentiment: int = 0, no_emotions: int = 0) -> Rows:
    """Utterances whose labels can be learned; ``no_sentiment``, ``no_emotions``: without that label every k-th."""
    arrays = tiny_arrays(n, seed, sets)
    utterances = []
    for i, present in enumerate(arrays):
        means = np.mean([x.astype(np.float64).mean(axis=(0, 1))[:3] for x in present.values()], axis=0)
        sentiment = float(3 * np.tanh(means[0]))
        emotions: tuple[float | None, ...] = tuple(float(x > 0) for x in (*means, *-means))
        utterances.append(
            Utterance(
                f"u{seed}-{i}",
                sentiment=None if no_sentiment and i % no_sentiment == 0 else sentiment,
                emotions=(None,) * 6 if no_emotions and i % no_emotions == 0 else emotions,
            )
        )
    return Rows(utterances, arrays)


def tiny_recipe(*, seed: int = 0, model: dict | None = None, more: dict | None = None, **training: Any) -> Recipe:
    """16 wide; 2 epochs in batches of 8."""
    small = {"width": 16, "shared_ranks": (2, 3), "specific_rank": 2, "top_k": 1, "attention_width": 8}
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "primary": ("sentiment.mae",)}
    content = {
        "name": "tiny",
        "encoders": {"text": {"source": "none"}, "audio": {"source": "none", "layers": (0, 1)}},
        "model": small | (model or {}),
        "training": settings | training,
        "seed": seed,
    }
    return Recipe.model_validate(content | (more or {}))
