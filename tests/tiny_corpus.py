"""A tiny corpus on disk: words from the tiny encoder's vocabulary, sine waves for voices."""

import csv
import math
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmolre import EMOTIONS
from mmolre.train.recipe import Recipe

GOOD = ("i love this movie", "so very good", "love the movie and love this", "it was good, very good")
BAD = ("i hate this movie", "not good, so bad", "bad bad movie", "the movie was very bad and i hate a lot")
MISSING = "train-7"
"""The id of the row whose sound file is not there."""


def write_wave(path: Path, hertz: float, seconds: float = 0.3, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = [int(12_000 * math.sin(2 * math.pi * hertz * i / rate)) for i in range(int(seconds * rate))]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return path


def write_corpus(folder: Path) -> Path:
    """20 train, 8 valid and 8 test rows: in turn text and audio, text, audio; every fourth without emotion labels."""
    rows = []
    for split, count in (("train", 20), ("valid", 8), ("test", 8)):
        for i in range(count):
            good = i // 3 % 2 == 0
            row: dict[str, Any] = {"id": f"{split}-{i}", "split": split, "sentiment": 1.5 if good else -2}
            if i % 3 != 2:
                row["text"] = (GOOD if good else BAD)[i % 4]
            if i % 3 != 1:
                row["audio"] = f"waves/{split}-{i}.wav"
                write_wave(folder / row["audio"], 220 if good else 880, 0.2 + 0.02 * i)
            if i % 4 != 3:
                row |= {name: int(good == (e % 2 == 0)) for e, name in enumerate(EMOTIONS)}
            rows.append(row)
    rows[7] |= {"audio": "waves/gone.wav"}
    assert rows[7]["id"] == MISSING
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "split", "text", "audio", "sentiment", *EMOTIONS])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A manifest of these rows, all with the columns of the first."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_videos(folder: Path, video_of: Callable[[str, int], str]) -> tuple[Path, list[dict[str, Any]]]:
    """The corpus with a ``video_id`` for each row, of its split and its number there; the manifest and its rows."""
    manifest = write_corpus(folder)
    with manifest.open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        split, number = row["id"].split("-")
        row["video_id"] = video_of(split, int(number))
    return write_rows(manifest, rows), rows


def corpus_recipe(encoders: dict[str, Path], **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "encoders": {
                "text": {"source": str(encoders["text"]), "max_tokens": 8},
                "audio": {"source": str(encoders["audio"]), "layers": [0, -1], "stride": 2},
            },
            "model": {"width": 16, "shared_ranks": [2, 3], "specific_rank": 2, "top_k": 1, "attention_width": 8},
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "ema": 0.5} | training,
        }
    )
