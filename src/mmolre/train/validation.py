"""One pass over valid: the score that chooses the epoch, and how predictions are to be read."""

import warnings
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmolre.data.batching import targets
from mmolre.data.dataset import Rows
from mmolre.errors import UserError
from mmolre.evaluate.decision import Decision
from mmolre.evaluate.report import direction, evaluate_predictions, lookup
from mmolre.evaluate.residuals import sentiment_error_quantiles
from mmolre.inference import infer
from mmolre.model.mmolre import MMoLRE
from mmolre.train.recipe import Recipe


class Validation(NamedTuple):
    """What valid says of a model.

    Attributes:
        metrics: of :func:`mmolre.evaluate.report.evaluate_predictions`; none where valid was learned.
        decision: the thresholds and all else that is fitted there.
        score: chooses the epoch, the higher the better; none where valid was learned.
        sentiment_errors: how far sentiment is off (:func:`mmolre.evaluate.residuals.sentiment_error_quantiles`).
    """

    metrics: dict[str, Any]
    decision: Decision
    score: float | None
    sentiment_errors: dict[str, dict[str, float]]


class Validator:
    """Validates the models of one run.

    Args:
        recipe: what to choose by, and how to decide.
        tasks: the model's; labels of others are no labels here.
        rows: of valid.
        train_sentiment_median: for the trivial predictor.
    """

    def __init__(self, recipe: Recipe, tasks: Sequence[str], rows: Rows, train_sentiment_median: float | None) -> None:
        self.recipe, self.tasks, self.rows, self.train_sentiment_median = recipe, tasks, rows, train_sentiment_median
        # Those of ``primary``; None: not known yet. Where the last epoch is kept, nothing is chosen.
        self._undefined: set[str] | None = set() if recipe.training.keep == "last" else None
        truths = zip(("sentiment", "emotion"), targets(rows.utterances), strict=True)
        self.truths = tuple(
            t.numpy().astype(np.float64) if task in tasks else np.full(t.shape, np.nan) for task, t in truths
        )

    def __call__(self, model: MMoLRE) -> Validation:
        """Predict valid; thresholds and calibration are fitted on it.

        Raises:
            UserError: valid has no label of what the recipe chooses by, or none by which that is defined.
        """
        model.eval()
        anchored = self.recipe.sentiment_fusion == "anchored"
        each_alone = anchored or "emotion" in self.tasks  # how to read each modality is fitted from it
        raw = infer(model, self.rows.arrays, each_alone=each_alone)
        sentiment, emotions = self.truths
        recordings = [u.recording for u in self.rows.utterances] if self.recipe.context == "recording" else None
        speakers = [u.speaker for u in self.rows.utterances]
        decision = Decision.fit(
            raw,
            emotions,
            self.recipe.emotion_fusion,
            sentiment=sentiment,
            anchored=anchored,
            recordings=recordings,
            speakers=speakers,
            exclusive=self.recipe.objective.exclusive,
        )
        predicted, probabilities = decision.read(raw, recordings, speakers)
        metrics = evaluate_predictions(
            sentiment_pred=predicted,
            sentiment_truth=sentiment,
            emotion_prob=probabilities,
            emotion_truth=emotions,
            modalities=raw.modalities,
            thresholds=decision.limits(together=recordings is not None),
            train_sentiment_median=self.train_sentiment_median,
        )
        errors = sentiment_error_quantiles(predicted, sentiment, raw.modalities)
        if self._undefined is None:
            perfect = evaluate_predictions(
                sentiment_pred=np.nan_to_num(sentiment),
                sentiment_truth=sentiment,
                emotion_prob=(np.nan_to_num(emotions) > 0).astype(np.float64),
                emotion_truth=emotions,
                modalities=raw.modalities,
                thresholds=decision.limits(together=recordings is not None),
            )
            self._undefined = self._undefined_in(perfect)
        return Validation(metrics, decision, self._score(metrics, self._undefined), errors)

    def _undefined_in(self, perfect: dict[str, Any]) -> set[str]:
        """Those of ``primary`` that valid's labels leave undefined whatever is predicted, told once."""
        primary = self.recipe.training.primary
        found = {key for key in primary if key.split(".")[0] in perfect and np.isnan(lookup(perfect, key))}
        if not found:
            return found
        told = f"{' and '.join(sorted(found))}: undefined on valid, whose labels are too few or all alike"
        if found == set(primary):
            other = "sentiment.mae" if "sentiment" in perfect else "emotion.micro_f1"
            raise UserError(
                f"training.primary is {', '.join(primary)}; {told}: give valid other utterances, or choose another "
                f"metric, e.g. --set 'training.primary=[{other}]'"
            )
        warnings.warn(f"{told}: the epoch is chosen by the rest of training.primary", stacklevel=2)
        return found

    def _score(self, metrics: dict[str, Any], undefined: Collection[str]) -> float:
        primary = self.recipe.training.primary
        for task in {key.split(".")[0] for key in primary} - set(metrics):
            known = task in self.recipe.model.tasks
            reason = f"no valid utterance has a label of {task}" if known else f"the model has no task {task}"
            other = "sentiment.corr" if "sentiment" in metrics else "emotion.macro_f1"
            raise UserError(
                f"training.primary is {', '.join(primary)}, but {reason}: "
                f"choose a metric of what is labelled, e.g. --set 'training.primary=[{other}]'"
            )
        defined = [key for key in primary if key not in undefined]
        values = [lookup(metrics, key) * (1 if direction(key) == "max" else -1) for key in defined]
        return float(np.mean(np.nan_to_num(values, nan=-10.0)))
