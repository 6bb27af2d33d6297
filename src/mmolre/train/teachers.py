"""Distillation: what models that were trained before say of the training utterances, as targets beside the labels."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from mmolre.bundle import load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import build_dataset
from mmolre.encoders.extract import Progress
from mmolre.errors import UserError
from mmolre.files import replacing
from mmolre.inference import infer
from mmolre.schema import EMOTIONS, SENTIMENT_RANGE, Utterance
from mmolre.train.precision import Precision, precision_on, products
from mmolre.train.start import earlier_model

TAUGHT_FILE = "taught.safetensors"
PREDICTIONS_SUFFIX = ".jsonl"
AT_A_TIME = 1024
"""Utterances: many enough for batches of like lengths, few enough to see that it goes on, and to stop it."""


class Taught(NamedTuple):
    """What teachers say of n utterances, the mean of those that say something.

    Attributes:
        sentiment: (n,) float32; NaN where none does.
        emotions: (n, 6) calibrated probabilities, float32; NaN likewise.
    """

    sentiment: Tensor
    emotions: Tensor

    def of(self, rows: Sequence[int] | Tensor, device: torch.device | None = None) -> Self:
        """The same of some of the utterances, by their indices."""
        return type(self)(*(x[rows].to(device or x.device) for x in self))


def ask_teachers(
    names: Sequence[str],
    utterances: Sequence[Utterance],
    tasks: Sequence[str],
    out: Path,
    *,
    cache: FeatureCache | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
    encoding: Progress | None = None,
    asking: Progress | None = None,
) -> Taught:
    """Predict the utterances with each teacher, from all that it reads of them; ours.

    The answer is kept in ``out``, so that a run that goes on does not ask again.

    Args:
        names: runs' folders, models' folders or hub ids; or files of predictions, ``….jsonl``, as ``mmolre predict``
            writes them: of each utterance an ``id``, ``sentiment`` in [-3, 3] and the ``emotions``' probabilities by
            name, each of the two left out or null where nothing is said of it.
        utterances: those that are trained on. A teacher must not have been trained on those that are tested.
        tasks: of the model that is taught.
        precision: of the teachers' products, that of the model that is taught: ``bf16`` where the machine can
            (:mod:`mmolre.train.precision`).
        encoding, asking: called with what is encoded, or who is asked, the utterances done, and all.

    Raises:
        UserError: no model there; a file of something else; a teacher that says nothing of these tasks, or of none of
            the utterances.
    """
    from safetensors.torch import load, save

    kept = out / TAUGHT_FILE
    if kept.exists():
        found = Taught(**load(kept.read_bytes()))
        if len(found.sentiment) == len(utterances):
            return found
    answers = [
        _read(Path(name), utterances, tasks)
        if is_file_of_predictions(name)
        else _ask(name, utterances, tasks, cache, device, precision, encoding, asking)
        for name in names
    ]
    sentiment, emotions = (_mean([a[i] for a in answers]) for i in range(2))
    taught = Taught(torch.from_numpy(sentiment).float(), torch.from_numpy(emotions).float())
    with replacing(kept) as beside:
        beside.write_bytes(save(taught._asdict()))
    return taught


def is_file_of_predictions(name: str) -> bool:
    """Whether this teacher has said already all that it will say."""
    return name.lower().endswith(PREDICTIONS_SUFFIX)


def check_teachers(names: Sequence[str]) -> None:
    """See that all are there, before anything takes long.

    Raises:
        UserError: no model there, or no file.
    """
    for name in names:
        if not is_file_of_predictions(name):
            earlier_model("teachers", name)
        elif not Path(name).is_file():
            raise UserError(f"teachers: {name} cannot be read: there is no such file")


def _read(path: Path, utterances: Sequence[Utterance], tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What a file of predictions says of the utterances; of those that it does not have, NaN."""
    index = {utterance.id: i for i, utterance in enumerate(utterances)}
    sentiment = np.full(len(utterances), np.nan)
    emotions = np.full((len(utterances), len(EMOTIONS)), np.nan)
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    i = index.get(row["id"])
                    said, felt = _number(row.get("sentiment"), *SENTIMENT_RANGE), row.get("emotions") or {}
                    values = [_number(felt.get(name), 0, 1) for name in EMOTIONS]
                    if not felt.keys() <= set(EMOTIONS):  # misspelt ones would teach nothing
                        raise ValueError(felt)
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise UserError(
                        f"teachers: {path}, line {number} is no prediction: a line is to be "
                        '{"id": …, "sentiment": -3 to 3 or null, "emotions": {"happy": 0 to 1, …}}'
                    ) from None
                if i is not None:
                    sentiment[i], emotions[i] = said, values
    except UnicodeDecodeError as error:
        raise UserError(f"teachers: {path} cannot be read: {error}") from None
    except OSError as error:
        raise UserError(f"teachers: {path} cannot be read: {error.strerror or error}") from None
    found = {"sentiment": sentiment, "emotion": emotions}
    if all(np.isnan(found[task]).all() for task in tasks):
        raise UserError(f"teachers: {path} says nothing of {' or '.join(tasks)} for any training utterance")
    return sentiment, emotions


def _number(value: Any, low: float, high: float) -> float:
    """A number within the limits; NaN for None."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(value)
    return float(value)


def _ask(
    name: str,
    utterances: Sequence[Utterance],
    tasks: Sequence[str],
    cache: FeatureCache | None,
    device: str,
    precision: Precision,
    encoding: Progress | None,
    asking: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    bundle = load_bundle(earlier_model("teachers", name), device=device)
    known = bundle.model.config.tasks
    if not set(tasks) & set(known):
        raise UserError(f"teachers: {name} predicts {' and '.join(known)}, of which the recipe has nothing")
    index = {utterance.id: i for i, utterance in enumerate(utterances)}
    dataset = build_dataset(utterances, bundle.encoders, cache, progress=encoding)
    if not dataset.utterances:
        reads = " or ".join(bundle.encoders)
        raise UserError(f"teachers: {name} reads {reads}, which no training utterance has")
    rows = [index[utterance.id] for utterance in dataset.utterances]
    sentiment = np.full(len(utterances), np.nan)
    emotions = np.full((len(utterances), len(EMOTIONS)), np.nan)
    model = bundle.model
    precision = precision_on(device, precision)
    for start in range(0, len(rows), AT_A_TIME):
        if asking:
            asking(name, start, len(rows))
        part = rows[start : start + AT_A_TIME]
        arrays = dataset.arrays[start : start + AT_A_TIME]
        # Not around the encoders: what they give is kept for others, in full precision.
        with products(device, precision):
            raw = infer(model, arrays, each_alone=bundle.decision.needs_each_alone)
        sentiment[part], emotions[part] = bundle.decision.sentiment(raw), bundle.decision.probabilities(raw)
    if asking:
        asking(name, len(rows), len(rows))
    return sentiment, emotions


def _mean(answers: Sequence[np.ndarray]) -> np.ndarray:
    """Over those that are not NaN; NaN where all are."""
    stacked = np.stack(answers)
    counts = (~np.isnan(stacked)).sum(axis=0)
    return np.where(counts > 0, np.nansum(stacked, axis=0) / np.maximum(counts, 1), np.nan)
