"""A whole training run: manifests and a recipe in, a run's folder out."""

import json
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mmolre.bundle import MODEL_FOLDER, PIPELINE_FILE, read_pipeline, save_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import FailedRow, Rows, Source, StoredFeatures, build_dataset
from mmolre.data.manifest import read_manifests
from mmolre.data.readymade import ReadyMade
from mmolre.encoders.base import Encoder
from mmolre.encoders.extract import Progress as EncodingProgress
from mmolre.encoders.extract import extract
from mmolre.errors import UserError
from mmolre.evaluate.report import write_metrics
from mmolre.files import write_text
from mmolre.model.config import ModalityConfig, ModelConfig
from mmolre.model.mmolre import MMoLRE
from mmolre.model.upper import Upper
from mmolre.schema import Utterance
from mmolre.train.adaptation import adapted, make_encoder, states_of
from mmolre.train.checkpoint import CHECKPOINT_FILE
from mmolre.train.loop import Progress, Trainer, data_digest
from mmolre.train.recipe import RECIPE_FILE, EncoderRecipe, Recipe, holds
from mmolre.train.refit import earlier_run, keep
from mmolre.train.start import earlier_model, take_weights
from mmolre.train.teachers import TAUGHT_FILE, ask_teachers, check_teachers, is_file_of_predictions
from mmolre.train.validation import Validation

VERSIONS_FILE = "versions.json"
FAILED_FILE = "failed-rows.jsonl"


class Callbacks(NamedTuple):
    """What a display wants to know; all optional."""

    encoding: EncodingProgress | None = None
    step: Callable[[Progress], None] = lambda _: None
    log_line: Callable[[dict[str, Any]], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    asking: EncodingProgress | None = None


def write_failed(path: Path, failed: Sequence[FailedRow]) -> None:
    """A row that could not be used a line; no file where there are none."""
    path.unlink(missing_ok=True)
    if failed:
        write_text(path, "".join(json.dumps(row._asdict()) + "\n" for row in failed))


class RunResult(NamedTuple):
    """A finished run: its folder, the loop's final state, and the rows that could not be used."""

    folder: Path
    state: dict[str, Any]
    failed: list[FailedRow]


def make_sources(recipe: Recipe, device: str = "cpu") -> dict[str, Source]:
    """The recipe's modalities: encoders, of which nothing is loaded yet, and ready-made features.

    Their order is not that of the recipe's keys: the first weights are drawn in it.
    """
    made: dict[str, Source] = {}
    for modality, part in sorted(recipe.encoders.items(), reverse=True):
        made[modality] = make_encoder(modality, part, device)
    return made | {name: ReadyMade(name, part.stride) for name, part in sorted(recipe.features.items())}


def make_model(recipe: Recipe, sources: Mapping[str, Source], train_rows: Rows) -> MMoLRE:
    """A model of the recipe's shape with weights drawn from its seed; standardisation is fitted on ``train_rows``.

    Where the recipe starts from another model, what they have in common is that model's.

    Raises:
        UserError: no training utterance has features that the recipe names; nothing to start from.
    """
    modalities = {}
    for name, source in sources.items():
        if not source.width:
            raise UserError(f"no utterance has the features {name!r} of the recipe: see the manifest's .json file")
        if isinstance(source, ReadyMade) and train_rows.arrays and not any(name in x for x in train_rows.arrays):
            raise UserError(
                f"no training utterance has the features {name!r} of the recipe: are the ids in the feature file those "
                "of the manifest? (mmolre inspect counts them)"
            )
        part = {**recipe.encoders, **recipe.features}[name]
        shape = {"width": source.width, "layers": source.n_layers, "standardize": part.standardize}
        if isinstance(part, EncoderRecipe) and isinstance(source, Encoder):
            shape |= {"mix": part.mix, "dropout": part.dropout}
            if upper := adapted(part, source):
                shape |= {"layers": len(upper.states), "adapted": upper}
        modalities[name] = ModalityConfig.model_validate(shape)
    torch.manual_seed(recipe.seed)
    model = MMoLRE(ModelConfig(modalities=modalities, **recipe.model.model_dump()))
    uppers: dict[str, Upper] = dict(model.uppers.items())  # type: ignore[arg-type]
    for name, upper in uppers.items():
        upper.load_base(sources[name].whole())  # type: ignore[union-attr]
    for name in (name for name, modality in modalities.items() if modality.standardize):
        values = [x[name] for x in train_rows.arrays if name in x]
        if name in uppers:
            values = list(states_of(uppers[name], values))
        bad, total = sum(int((~np.isfinite(x)).sum()) for x in values), sum(x.size for x in values)
        if bad:
            warnings.warn(
                f"features {name}: {bad:,} of {total:,} training values are NaN or infinite; the mean stands for them",
                stacklevel=2,
            )
        model.inputs[name].norm.fit(values)  # type: ignore[union-attr, operator]
    if recipe.start_from:
        _warn_of_other_encoders(recipe.start_from, sources, recipe.start_fresh)
        take_weights(model, recipe.start_from, recipe.start_fresh, recipe.training.only)
    return model


def _warn_of_other_encoders(name: str, sources: Mapping[str, Source], fresh: Sequence[str]) -> None:
    """Of the same width, another encoder fits the weights; what they have learned to read, it does not say."""
    folder = earlier_model("start_from", name)
    before = read_pipeline(folder)[2] if (folder / PIPELINE_FILE).exists() else {}
    for modality in sorted((set(before) & set(sources)) - set(fresh)):
        there, here = before[modality].get("source"), sources[modality].source
        if there != here:
            warnings.warn(
                f"start_from: {name} has learned to read {modality} as {there} gives it, here {here} does: if that is "
                f"another encoder, name {modality} in start_fresh",
                stacklevel=3,
            )


def _check_finite(recipe: Recipe, rows: Rows) -> None:
    """Where features are not standardised nothing stands for a NaN, and all that is computed of it would be one."""
    for name in (name for name, part in recipe.features.items() if not part.standardize):
        for utterance, arrays in zip(rows.utterances, rows.arrays, strict=True):
            if name in arrays and not np.isfinite(arrays[name]).all():
                raise UserError(
                    f"features {name}: NaN or infinite in utterance {utterance.id}; mend the file, or let the mean "
                    f"stand for it by --set features.{name}.standardize=true"
                )


def _warn_of_learned_valid(recipe: Recipe) -> None:
    for key, name in recipe.begins_with:
        folder = None if is_file_of_predictions(name) else earlier_model(key, name)
        if folder and (folder / PIPELINE_FILE).exists() and read_pipeline(folder)[1].get("valid_learned"):
            warnings.warn(
                f"{key}: {name} has learned the valid rows of its data, too; where yours are among them, what is "
                "chosen by valid here is too sure of itself",
                stacklevel=3,
            )


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
    """Train on the manifests' rows: :func:`train_on`.

    Raises:
        UserError: as there, and for a bad manifest.
    """
    utterances = read_manifests(list(data), audio_root=audio_root)
    named = ", ".join(map(str, data))
    return train_on(recipe, utterances, out, named=named, cache=cache, device=device, callbacks=callbacks)


def train_on(
    recipe: Recipe,
    utterances: Sequence[Utterance],
    out: Path,
    *,
    named: str,
    cache: FeatureCache | None = None,
    device: str = "cpu",
    callbacks: Callbacks | None = None,
) -> RunResult:
    """Train, or go on with a run that was stopped; a finished run is left as it is.

    Writes into ``out``: ``recipe.json``, ``versions.json``, ``log.jsonl``, ``last.safetensors`` (to go on from),
    ``taught.safetensors`` (what teachers said, where there are any), ``model/`` (the best epoch: see
    :mod:`mmolre.bundle`), ``metrics-valid.json`` (of the best epoch), and ``failed-rows.jsonl`` if rows could not be
    used. A refit writes no metrics, and ``refit.json``: what the earlier run decided.

    Args:
        utterances: of which those are used whose split is train or valid.
        named: where they come from, for messages.

    Raises:
        UserError: bad recipe or data; no run to refit; ``out`` holds another run; the loss is not a number.
        InterruptedRunError: the callbacks asked to stop; the run can go on later.
    """
    callbacks = callbacks or Callbacks()
    refit = earlier_run(recipe, out)
    if not (out / TAUGHT_FILE).exists():  # else they have said it all
        check_teachers(recipe.teachers)
    if not refit:
        _warn_of_learned_valid(recipe)
    sources = make_sources(recipe, device)
    usable = [u for u in utterances if u.split in ("train", "valid") and set(u.modalities) & set(sources)]
    for split in ("train", "valid"):  # what is not there need not be encoded first
        _labelled(usable, split, recipe, named)
    _claim_folder(recipe, out, device)
    if refit:
        keep(refit, out)
    dataset = build_dataset(usable, sources, cache, progress=callbacks.encoding)
    write_failed(out / FAILED_FILE, dataset.failed)
    rows = {
        split: _rows(dataset.utterances, dataset.arrays, split, recipe, named, dataset.failed)
        for split in ("train", "valid")
    }
    if refit:
        if refit.data != data_digest(rows["train"], rows["valid"]):
            raise UserError(
                f"refit: {recipe.refit} chose by other data (ids, labels or lengths differ, or rows that failed); "
                "give the same --data again"
            )
        rows = {"train": _joined(rows["train"], _seen(rows["valid"], recipe)), "valid": Rows([], [])}
    for split in rows.values():
        _check_finite(recipe, split)
    about = _about(recipe, rows["train"].utterances, device)
    taught = None
    if recipe.teachers:
        taught = ask_teachers(
            recipe.teachers,
            rows["train"].utterances,
            recipe.model.tasks,
            out,
            cache=cache,
            device=device,
            precision=recipe.training.precision,
            encoding=callbacks.encoding,
            asking=callbacks.asking,
        )

    def save_best(model: MMoLRE, validation: Validation) -> None:
        save_bundle(
            out / MODEL_FOLDER,
            model,
            sources,
            validation.decision,
            about
            | {
                "train_sentiment_median": trainer.train_sentiment_median,
                "sentiment_error_quantiles": validation.sentiment_errors,
            },
        )
        if validation.metrics:
            write_metrics(out / "metrics-valid.json", validation.metrics)

    trainer = Trainer(
        recipe,
        make_model(recipe, sources, rows["train"]).to(device),
        rows["train"],
        rows["valid"],
        out,
        taught=taught,
        refit=refit,
        warped=_warped(recipe, rows["train"].utterances, cache, device, callbacks.encoding),
        save_best=save_best,
        report=callbacks.step,
        log_line=callbacks.log_line,
        should_stop=callbacks.should_stop,
    )
    return RunResult(out, trainer.run(), dataset.failed)


def versions(device: str = "cpu") -> dict[str, str]:
    """Versions of what the numbers depend on, and what they were computed on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("mmolre", "torch", "transformers", "numpy", "tokenizers", "av"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return found | {"torch_threads": str(torch.get_num_threads()), "device": where}


def _claim_folder(recipe: Recipe, out: Path, device: str) -> None:
    kept = out / RECIPE_FILE
    # Until there is a model nothing can be lost: a recipe that failed before may be mended and tried again.
    begun, made = (out / CHECKPOINT_FILE).exists(), (out / MODEL_FOLDER / PIPELINE_FILE).exists()
    if kept.exists() and (begun or made):
        if not holds(kept, recipe):
            raise UserError(f"{out} holds a run of another recipe or seed; give another --out, or delete it")
        if begun:
            return
        warnings.warn(f"{out} has a model, but no {CHECKPOINT_FILE} to go on from: it is trained anew", stacklevel=3)
    write_text(kept, recipe.model_dump_json(indent=2) + "\n")
    write_text(out / VERSIONS_FILE, json.dumps(versions(device), indent=2) + "\n")
    (out / TAUGHT_FILE).unlink(missing_ok=True)  # of the recipe or the data that failed, perhaps


def _rows(
    utterances: Sequence[Utterance],
    arrays: Any,
    split: str,
    recipe: Recipe,
    named: str,
    failed: Sequence[FailedRow],
) -> Rows:
    chosen = _labelled(utterances, split, recipe, named, failed)
    return Rows([utterances[i] for i in chosen], [arrays[i] for i in chosen])


def _seen(rows: Rows, recipe: Recipe) -> Rows:
    """Without those that ``training.repeat`` leaves out."""
    kept = [i for i, present in enumerate(rows.arrays) if recipe.training.visits(present)]
    return Rows([rows.utterances[i] for i in kept], [rows.arrays[i] for i in kept])


def _joined(a: Rows, b: Rows) -> Rows:
    return Rows([*a.utterances, *b.utterances], [*a.arrays, *b.arrays])


def _labelled(
    utterances: Sequence[Utterance], split: str, recipe: Recipe, named: str, failed: Sequence[FailedRow] = ()
) -> list[int]:
    """Indices of a split's utterances with a label of the recipe's tasks; where there are none, says what failed."""
    tasks = recipe.model.tasks
    chosen = [i for i, u in enumerate(utterances) if u.split == split and set(u.labelled_for) & set(tasks)]
    if not chosen:
        rest = f"; {len(failed)} could not be used, the first, {failed[0].id}: {failed[0].reason}" if failed else ""
        raise UserError(
            f"{named}: no usable row of split {split!r} with a label of {' or '.join(tasks)}; "
            f"training needs train and valid rows{rest}"
        )
    return chosen


def _warped(
    recipe: Recipe,
    utterances: Sequence[Utterance],
    cache: FeatureCache | None,
    device: str,
    progress: EncodingProgress | None,
) -> list[Sequence[Mapping[str, np.ndarray]]]:
    """The sound of these utterances by each of the recipe's warps."""
    part = recipe.encoders.get("audio")
    if part is None or part.augment is None:
        return []
    found: list[Sequence[Mapping[str, np.ndarray]]] = []
    for warp in part.augment.warps:
        table = extract(utterances, {"audio": make_encoder("audio", part, device, warp)}, cache, progress=progress)
        found.append(StoredFeatures({"audio": partial(table.get, modality="audio")}, range(len(utterances))))
    return found


def _about(recipe: Recipe, train_rows: Sequence[Utterance], device: str) -> dict[str, Any]:
    return {
        "recipe": recipe.title,
        "seed": recipe.seed,
        "train_utterances": len(train_rows),
        "train_with_sentiment": sum("sentiment" in u.labelled_for for u in train_rows),
        "train_with_emotions": sum("emotion" in u.labelled_for for u in train_rows),
        "valid_learned": recipe.refit is not None,
        "versions": versions(device),
    }
