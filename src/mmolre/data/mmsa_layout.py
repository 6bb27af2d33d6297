"""The pickled layout of MMSA and MMSA-FET (https://github.com/thuiar/MMSA): what importer and exporter agree on.

``{"train" | "valid" | "test": {"id": [n], "raw_text": [n], "regression_labels": [n], "annotations": [n],
"text" | "audio" | "vision": (n, T, d), "audio_lengths" | "vision_lengths": [n], ...}}``. What a manifest says beyond
that is kept under names of ours, which MMSA does not look at.
"""

import re

SPLIT_KEYS = ("train", "valid", "dev", "val", "test")
UNSPLIT = "unsplit"
"""Rows without a split; ours."""

OURS = "mmolre"
"""In the whole: ``audio_root``, ``padding`` (end or front), ``features`` (key -> name). In each split: a list per
column of :data:`COLUMNS`."""

COLUMNS = ("order", "id", "text", "audio", "start", "end", "cut", "speaker", "video_id", "sentiment")
"""As of an utterance, and its place among all; the six emotions besides, by their names."""

NAMES = {"text": "words", "audio": "acoustic", "vision": "visual"}
"""MMSA's names of features and ours: text and audio are modalities of their own here."""

ID_MARK = "$_$"
"""Between video and clip."""

NO_FEATURES = ("id", "raw_text", "text_bert", "annotations", "labels", OURS)
"""Members of a split that are no features; nor are those that end in _lengths, _labels, _labels_T and so on."""

_LABELS = re.compile(r".*(_lengths|_labels(_[A-Z])?)")


def is_no_features(key: str) -> bool:
    """Whether a member of a split is something else than features by its name."""
    return key in NO_FEATURES or _LABELS.fullmatch(key) is not None
