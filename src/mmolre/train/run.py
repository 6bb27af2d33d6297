"""A whole training run: manifests and a recipe in, a run's folder out."""

import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mmolre.bundle import MODEL_FOLDER, save_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import FailedRow, build_dataset
from mmolre.data.manifest import read_manifests
from mmolre.encoders.audio import AudioEncoder
from mmolre.encoders.base import Encoder
from mmolre.encoders.extract import Progress as EncodingProgress
from mmolre.encoders.text import TextEncoder
from mmolre.errors import UserError
from mmolre.evaluate.report import write_metrics
from mmolre.files import write_text
from mmolre.model.config import ModalityConfig, ModelConfig
from mmolre.model.mmolre import MMoLRE
from mmolre.schema import Utterance
from mmolre.train.loop import CHECKPOINT_FILE, Progress, Rows, Trainer, Validation
from mmolre.train.recipe import Recipe

RECIPE_FILE = "recipe.json"
VERSIONS_FILE = "versions.json"
FAILED_FILE = "failed-rows.jsonl"


class Callbacks(NamedTuple):
    """What a display wants to know; all optional."""

    encoding: EncodingProgress | None = None
    step: Callable[[Progress], None] = lambda _: None
    log_line: Callable[[dict[str, Any]], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False


class RunResult(NamedTuple):
    """A finished run: its folder, the loop's final state, and the rows that could not be used."""

    folder: Path
    state: dict[str, Any]
    failed: list[FailedRow]


def make_encoders(recipe: Recipe, device: str = "cpu") -> dict[str, Encoder]:
    """The recipe's encoders by modality; nothing is loaded yet."""
    made: dict[str, Encoder] = {}
    for modality, part in recipe.encoders.items():
        if modality == "text":
            made[modality] = TextEncoder(part.source, part.layers, part.max_tokens, device)
        else:
            made[modality] = AudioEncoder(part.source, part.layers, part.stride, device)
    return made


def make_model(recipe: Recipe, encoders: dict[str, Encoder]) -> MMoLRE:
    """A model of the recipe's shape with weights drawn from its seed."""
    modalities = {m: ModalityConfig(width=e.width, layers=e.n_layers) for m, e in encoders.items()}
    torch.manual_seed(recipe.seed)
    return MMoLRE(ModelConfig(modalities=modalities, **recipe.model.model_dump()))


def train(
    recipe: Recipe,
    data: Sequence[Path],
    out: Path,
    *,
    audio_root: Path | None = None,
    cache: FeatureCache | None = None,
    device: str = "cpu",
    callbacks: Callbacks | None = None,
) -> RunResult:
    """Train, or go on with a run that was stopped; a finished run is left as it is.

    Writes into ``out``: ``recipe.json``, ``versions.json``, ``log.jsonl``, ``last.safetensors`` (to go on from),
    ``model/`` (the best epoch: see :mod:`mmolre.bundle`), ``metrics-valid.json`` (of the best epoch), and
    ``failed-rows.jsonl`` if rows could not be used.

    Raises:
        UserError: bad recipe or data; ``out`` holds another run; the loss is not a number.
        InterruptedRunError: the callbacks asked to stop; the run can go on later.
    """
    callbacks = callbacks or Callbacks()
    _claim_folder(recipe, out)
    encoders = make_encoders(recipe, device)
    utterances = read_manifests(list(data), audio_root=audio_root)
    usable = [u for u in utterances if u.split in ("train", "valid") and set(u.modalities) & set(encoders)]
    dataset = build_dataset(usable, encoders, cache, progress=callbacks.encoding)
    if dataset.failed:
        lines = "".join(json.dumps(row._asdict()) + "\n" for row in dataset.failed)
        write_text(out / FAILED_FILE, lines)
    rows = {
        split: _rows(dataset.utterances, dataset.arrays, split, recipe, [str(d) for d in data])
        for split in ("train", "valid")
    }
    about = _about(recipe, rows["train"].utterances)

    def save_best(model: MMoLRE, validation: Validation) -> None:
        save_bundle(
            out / MODEL_FOLDER,
            model,
            encoders,
            validation.decision,
            about | {"train_sentiment_median": trainer.train_sentiment_median},
        )
        write_metrics(out / "metrics-valid.json", validation.metrics)

    trainer = Trainer(
        recipe,
        make_model(recipe, encoders).to(device),
        rows["train"],
        rows["valid"],
        out,
        save_best=save_best,
        report=callbacks.step,
        log_line=callbacks.log_line,
        should_stop=callbacks.should_stop,
    )
    return RunResult(out, trainer.run(), dataset.failed)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("mmolre", "torch", "transformers", "numpy", "tokenizers", "av"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"torch_threads": str(torch.get_num_threads())}


def _claim_folder(recipe: Recipe, out: Path) -> None:
    content = recipe.model_dump_json(indent=2) + "\n"
    kept = out / RECIPE_FILE
    # Until there is a checkpoint nothing can be lost: a recipe that failed before may be mended and tried again.
    if kept.exists() and (out / CHECKPOINT_FILE).exists():
        if kept.read_text(encoding="utf-8") != content:
            raise UserError(f"{out} holds a run of another recipe or seed; give another --out, or delete it")
        return
    write_text(kept, content)
    write_text(out / VERSIONS_FILE, json.dumps(versions(), indent=2) + "\n")


def _rows(utterances: Sequence[Utterance], arrays: Any, split: str, recipe: Recipe, data: list[str]) -> Rows:
    tasks = recipe.model.tasks
    chosen = [
        i
        for i, u in enumerate(utterances)
        if u.split == split
        and (("sentiment" in tasks and u.sentiment is not None) or ("emotion" in tasks and any_label(u.emotions)))
    ]
    if not chosen:
        raise UserError(
            f"{', '.join(data)}: no usable row of split {split!r} with a label of {' or '.join(tasks)}; "
            "training needs train and valid rows"
        )
    return Rows([utterances[i] for i in chosen], [arrays[i] for i in chosen])


def any_label(emotions: Sequence[float | None]) -> bool:
    """Whether any of the six emotions is labelled."""
    return any(e is not None for e in emotions)


def _about(recipe: Recipe, train_rows: Sequence[Utterance]) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "train_utterances": len(train_rows),
        "train_with_sentiment": sum(u.sentiment is not None for u in train_rows),
        "train_with_emotions": sum(any_label(u.emotions) for u in train_rows),
        "versions": versions(),
    }
