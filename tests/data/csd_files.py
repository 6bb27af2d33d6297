"""Synthetic computational sequences, as the CMU Multimodal SDK writes them."""

import json
from pathlib import Path

import numpy as np


def write_csd(path: Path, root: str, videos: dict, dimensions: list[str] | None = None, **options) -> Path:
    """``videos``: key -> (intervals (n, 2), features: (n, d) numbers or n words)."""
    h5py = __import__("pytest").importorskip("h5py")
    with h5py.File(path, "w") as file:
        group = file.create_group(root)
        for key, (intervals, features) in videos.items():
            video = group.create_group(f"data/{key}")
            array = np.array(features)
            if array.dtype.kind == "U":
                array = np.array([word.encode() for word in features]).reshape(-1, 1)
            video.create_dataset("features", data=array, **options)
            video.create_dataset("intervals", data=np.array(intervals, dtype=np.float64).reshape(-1, 2))
        metadata = group.create_group("metadata")
        metadata["root name"] = [root.encode()]
        if dimensions is not None:
            metadata["dimension names"] = [json.dumps(dimensions).encode()]
    return path
