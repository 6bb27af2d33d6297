"""Metrics, thresholds, calibration, significance and their report. Imports numpy alone; scikit-learn only when used."""

from mmolre.evaluate.calibration import Calibration, combine, expected_calibration_error, fit_calibration
from mmolre.evaluate.emotion import emotion_metrics
from mmolre.evaluate.report import direction, evaluate_predictions, lookup, metrics_table, write_metrics
from mmolre.evaluate.sentiment import sentiment3_metrics, sentiment_metrics
from mmolre.evaluate.significance import BootstrapResult, paired_bootstrap
from mmolre.evaluate.thresholds import (
    EmotionThresholds,
    fit_thresholds,
    modality_key,
    present,
    thresholds_for,
    top,
)

__all__ = [
    "BootstrapResult",
    "Calibration",
    "EmotionThresholds",
    "combine",
    "direction",
    "emotion_metrics",
    "evaluate_predictions",
    "expected_calibration_error",
    "fit_calibration",
    "fit_thresholds",
    "lookup",
    "metrics_table",
    "modality_key",
    "paired_bootstrap",
    "present",
    "sentiment3_metrics",
    "sentiment_metrics",
    "thresholds_for",
    "top",
    "write_metrics",
]
