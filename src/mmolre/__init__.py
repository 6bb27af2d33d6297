"""Sentiment and six emotions from words and voice: Multimodal Mixture of Low-Rank Experts.

>>> import mmolre
>>> mmolre.load().predict(text="What a wonderful evening!").sentiment  # doctest: +SKIP

Names are imported when they are first used, so ``import mmolre`` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmolre.errors import UserError
    from mmolre.model.config import ModalityConfig, ModelConfig
    from mmolre.model.mmolre import MMoLRE, Output
    from mmolre.predictor import Prediction, Predictor, load
    from mmolre.recordings.analysis import analyze
    from mmolre.recordings.timeline import Moment, Timeline
    from mmolre.schema import EMOTIONS, Utterance

__version__ = "0.1.0"

_HOME = {
    "EMOTIONS": "mmolre.schema",
    "MMoLRE": "mmolre.model.mmolre",
    "ModalityConfig": "mmolre.model.config",
    "ModelConfig": "mmolre.model.config",
    "Moment": "mmolre.recordings.timeline",
    "Output": "mmolre.model.mmolre",
    "Prediction": "mmolre.predictor",
    "Predictor": "mmolre.predictor",
    "Timeline": "mmolre.recordings.timeline",
    "UserError": "mmolre.errors",
    "Utterance": "mmolre.schema",
    "analyze": "mmolre.recordings.analysis",
    "load": "mmolre.predictor",
}

__all__ = [
    "EMOTIONS",
    "MMoLRE",
    "ModalityConfig",
    "ModelConfig",
    "Moment",
    "Output",
    "Prediction",
    "Predictor",
    "Timeline",
    "UserError",
    "Utterance",
    "analyze",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
