"""Scoring a trained model on one split of a manifest."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmolre.bundle import Bundle
from mmolre.data.batching import targets
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import FailedRow, build_dataset
from mmolre.data.manifest import read_manifests
from mmolre.encoders.extract import Progress
from mmolre.errors import UserError
from mmolre.evaluate.report import ON_ITS_OWN, evaluate_predictions
from mmolre.inference import infer
from mmolre.schema import TASKS, Utterance


class Evaluation(NamedTuple):
    """A scored split.

    Attributes:
        metrics: nested, of :func:`mmolre.evaluate.report.evaluate_predictions`; of a model that reads utterances in
            the light of others also ``on_its_own``: {task: metrics of each utterance read on its own}.
        failed: rows that could not be used.
        utterances: n, those scored; ``modalities``: which were read of each.
        sentiment: (n,), NaN without that task; ``emotions``: (n, 6) calibrated probabilities, likewise.
    """

    metrics: dict[str, Any]
    failed: list[FailedRow]
    utterances: list[Utterance]
    modalities: list[tuple[str, ...]]
    sentiment: NDArray[np.float64]
    emotions: NDArray[np.float64]


def evaluate(
    bundle: Bundle,
    data: Sequence[Path],
    split: str,
    *,
    modalities: Sequence[str] | None = None,
    audio_root: Path | None = None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Predict the labelled rows of ``split`` and score them: :func:`evaluate_on`.

    Raises:
        UserError: as there, and for a bad manifest or no labelled row in the split.
    """
    everything = read_manifests(list(data), audio_root=audio_root)
    rows = [u for u in everything if u.split == split]
    named = f"{', '.join(map(str, data))}, split {split}"
    if not rows:
        found = Counter(u.split for u in everything)
        there = ", ".join(f"{n} of {name}" for name, n in found.items() if name) or "none of a split"
        blank = f", {found[None]} of no split (fill in the column 'split')" if found[None] else ""
        raise UserError(f"{named}: no row; there are {there}{blank}")
    return evaluate_on(bundle, rows, named=named, modalities=modalities, cache=cache, progress=progress)


def evaluate_on(
    bundle: Bundle,
    utterances: Sequence[Utterance],
    *,
    named: str,
    modalities: Sequence[str] | None = None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Predict those that are labelled and score them. Thresholds are those fitted on valid, kept in the bundle.

    A model that reads utterances in the light of others is given those without labels, too.

    Args:
        named: where they come from, for messages.
        modalities: predict from these alone; an utterance without any of them is left out.

    Raises:
        UserError: no utterance with such a modality that is labelled for one of the model's tasks, none that can be
            read, a modality that the model does not read.
    """
    encoders = bundle.encoders
    if modalities is not None:
        if unknown := set(modalities) - set(encoders):
            named = ", ".join(map(repr, sorted(unknown)))
            raise UserError(f"the model does not read {named}; it reads {', '.join(encoders)}")
        encoders = {m: encoder for m, encoder in encoders.items() if m in modalities}
    rows = [only(u, tuple(encoders)) for u in utterances]
    tasks = bundle.model.config.tasks
    # What is read in the light of others is read with all of them, as in use, be they labelled or not.
    together = bundle.decision.context is not None
    # What a row does not claim to have is no failure.
    rows = [u for u in rows if u.modalities and (u.labelled_for or together)]
    # Those labelled for another task are predicted, too: models of one task each are compared on the same rows.

    def to_score(found: Sequence[Utterance]) -> list[str]:
        return [u.id for u in found if not set(tasks).isdisjoint(u.labelled_for)]

    if not (wanted := to_score(rows)):
        raise UserError(f"{named}: no row with {' or '.join(encoders)} in it that is labelled for {' or '.join(tasks)}")
    dataset = build_dataset(rows, encoders, cache, progress=progress)
    if not to_score(dataset.utterances):
        first = next(row for row in dataset.failed + dataset.empty if row.id in wanted)
        raise UserError(
            f"{named}: labelled for {' or '.join(tasks)}, none of the {len(wanted)} rows could be read; the first: "
            f"{first.reason}"
        )
    raw = infer(bundle.model, dataset.arrays, each_alone=bundle.decision.needs_each_alone)
    labelled = [i for i, u in enumerate(dataset.utterances) if u.labelled_for]
    utterances, read = [dataset.utterances[i] for i in labelled], [raw.modalities[i] for i in labelled]
    sentiment, emotions = (t.numpy().astype(np.float64) for t in targets(utterances))

    def scored(predicted: NDArray[np.float64], probabilities: NDArray[np.float64], *, together: bool) -> dict[str, Any]:
        return evaluate_predictions(
            sentiment_pred=predicted,
            sentiment_truth=sentiment if "sentiment" in tasks else np.full_like(sentiment, np.nan),
            emotion_prob=probabilities,
            emotion_truth=emotions if "emotion" in tasks else np.full_like(emotions, np.nan),
            modalities=read,
            thresholds=bundle.decision.limits(together=together),
            train_sentiment_median=bundle.about.get("train_sentiment_median"),
        )

    recordings, speakers = ([getattr(u, key) for u in dataset.utterances] for key in ("recording", "speaker"))
    predicted, probabilities = (x[labelled] for x in bundle.decision.read(raw, recordings, speakers))
    metrics = scored(predicted, probabilities, together=True)
    if together:
        own = scored(*(x[labelled] for x in bundle.decision.read(raw)), together=False)
        metrics[ON_ITS_OWN] = {task: own[task] for task in TASKS if task in own}
    return Evaluation(metrics, dataset.failed, utterances, read, predicted, probabilities)


def only(utterance: Utterance, modalities: Sequence[str]) -> Utterance:
    """The utterance without the modalities that are not named."""
    return replace(
        utterance,
        text=utterance.text if "text" in modalities else None,
        audio=utterance.audio if "audio" in modalities else None,
        features={name: path for name, path in utterance.features.items() if name in modalities},
    )
