"""Ready-made features as a modality: arrays that a manifest points to, in the place of an encoder's output."""

from pathlib import Path
from typing import Any

import numpy as np

from mmolre.data.cache import Features
from mmolre.data.feature_file import FeatureFile
from mmolre.errors import UserError
from mmolre.schema import Utterance

SOURCE = "features"
"""What stands as ``source`` in a ready-made modality's spec."""


class ReadyMade:
    """One name of a manifest's features, read as (T, 1, width) float32. Stands where an encoder may stand.

    Args:
        name: of the features in the manifest; also the modality's name in the model.
        stride: mean over so many time steps (of what is finite in them); the last window over what is there.
        width: of one vector; known once trained.

    Attributes:
        width: 0 until the first file is opened, if not given.
    """

    n_layers = 1
    fingerprint = "ready-made"
    """Nothing is computed here, so nothing can be checked but the width."""

    def __init__(self, name: str, stride: int = 1, width: int = 0) -> None:
        self.modality, self.stride, self.width = name, stride, width
        self.source = SOURCE
        self._files: dict[Path, FeatureFile] = {}

    @property
    def spec(self) -> dict[str, Any]:
        """What builds it again; JSON-able."""
        return {"modality": self.modality, "source": SOURCE, "stride": self.stride, "width": self.width}

    def read(self, utterance: Utterance) -> Features | None:
        """The utterance's features; ``None`` where it has none, or none with a finite value.

        Raises:
            UserError: the file is missing or damaged, or its width is not that of the others.
        """
        path = utterance.features.get(self.modality)
        if path is None:
            return None
        file = self._files.get(path) or self._open(path)
        values = file.get(utterance.id)
        if values is None or not np.isfinite(values).any():
            return None
        return Features(_windowed_mean(values, self.stride)[:, None, :], truncated=False)

    def _open(self, path: Path) -> FeatureFile:
        file = self._files[path] = FeatureFile(path)
        self.width = self.width or file.width
        if file.width != self.width:
            raise UserError(
                f"{path}: features {self.modality!r} are {file.width} wide here and {self.width} elsewhere: "
                "features of different sources are different features; give them different names"
            )
        return file


def _windowed_mean(values: np.ndarray, stride: int) -> np.ndarray:
    """(T, d) -> (ceil(T / stride), d); a window's value is NaN only where it has no finite one."""
    if stride == 1:
        return values
    padding = -len(values) % stride
    padded = np.pad(values, ((0, padding), (0, 0)), constant_values=np.nan)
    windows = padded.reshape(-1, stride, values.shape[1])
    finite = np.isfinite(windows)
    count = finite.sum(axis=1)
    total = np.where(finite, windows, 0.0).sum(axis=1)
    return np.where(count > 0, total / count.clip(1), np.nan).astype(np.float32)
