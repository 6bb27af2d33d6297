"""Training and scoring the models of an experiment, one after another; what is finished is never done again."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmolre.bundle import MODEL_FOLDER, load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.manifest import read_manifests
from mmolre.data.manifest_sidecar import read_sidecar
from mmolre.encoders.weights import sha256
from mmolre.errors import UserError
from mmolre.evaluate.report import write_metrics
from mmolre.evaluate.run import evaluate
from mmolre.experiments.scored import PREDICTIONS_FILE, write_predictions
from mmolre.experiments.variants import Row
from mmolre.files import read_json_lines, write_text
from mmolre.model.mmolre import WEIGHTS_FILE
from mmolre.schema import SPLITS, Utterance
from mmolre.train.checkpoint import CHECKPOINT_FILE
from mmolre.train.loop import LOG_FILE
from mmolre.train.recipe import RECIPE_FILE, Recipe, holds
from mmolre.train.run import FAILED_FILE, Callbacks, train, write_failed
from mmolre.train.start import earlier_model
from mmolre.train.teachers import is_file_of_predictions

DATA_FILE = "data.json"
MODELS_FILE = "models.json"
"""Name -> digest of what the runs begin with; where they begin with anything."""
FAILED_TEST_FILE = "failed-rows-test.jsonl"
DIGEST_AT_ONCE = 2**20


class Job(NamedTuple):
    """One model to train: its row, the task it is for (``""``: all), its seed, its recipe and its folder."""

    row: Row
    task: str
    seed: int
    recipe: Recipe
    folder: Path


class Where(NamedTuple):
    """What every run of an experiment is given."""

    data: Sequence[Path]
    out: Path
    audio_root: Path | None = None
    cache: FeatureCache | None = None
    device: str = "cpu"
    callbacks: Callbacks = Callbacks()


class RunFacts(NamedTuple):
    """What a finished run's log says: training minutes, epochs done, the epoch kept."""

    minutes: float
    epochs: int
    best_epoch: int


def jobs(rows: Sequence[Row], seeds: int, out: Path) -> Iterator[Job]:
    """Every model, all rows of the first seed before those of the next, so that a table can be made early."""
    for seed in range(seeds):
        for row in rows:
            for task, recipe in row.parts.items():
                folder = out / "runs" / row.name / (f"{task}-seed{seed}" if task else f"seed{seed}")
                yield Job(row, task, seed, recipe.model_copy(update={"seed": seed}), folder)


def is_finished(job: Job) -> bool:
    """Whether the run is trained and scored.

    Raises:
        UserError: it is, but by another recipe.
    """
    if not (job.folder / PREDICTIONS_FILE).exists():
        return False
    if not holds(job.folder / RECIPE_FILE, job.recipe):
        raise UserError(f"{job.folder} holds a run of another recipe; give another --out, or delete it")
    return True


def run_all(
    rows: Sequence[Row],
    seeds: int,
    where: Where,
    *,
    tell: Callable[[str], None] = lambda _: None,
    after_seed: Callable[[int], None] = lambda _: None,
) -> int:
    """Train and score what is not yet, test once per run.

    Args:
        tell: a line before each run.
        after_seed: called with the number of seeds of which all rows are there, at the end and after each seed before
            that; but not until something was trained, so that a call that is stopped leaves what was known.

    Returns:
        how many rows of the data could not be used (the largest of any run).

    Raises:
        UserError: bad data, such by which a model cannot be trained or scored, or not all be compared; ``out`` holds
            an experiment on other data, or a run of another recipe.
        InterruptedRunError: the callbacks asked to stop; the same call goes on later.
    """
    planned = list(jobs(rows, seeds, where.out))
    _check_data(planned, where)
    claim(where, [recipe for row in rows for recipe in row.parts.values()])
    failed, trained = 0, False
    for number, job in enumerate(planned, 1):
        if not is_finished(job):
            of = f" ({job.task})" if job.task else ""
            tell(f"{number} of {len(planned)}: {job.row.title}{of}, seed {job.seed}")
            _run(job, where)
            trained = True
        failed = max(failed, _failed_rows(job.folder))
        if number == len(planned) or (trained and planned[number].seed != job.seed):
            after_seed(job.seed + 1)
    return failed


def modalities_of(recipe: Recipe) -> tuple[str, ...]:
    """What a recipe's models read."""
    return (*recipe.encoders, *recipe.features)


def is_usable(utterance: Utterance, modalities: Sequence[str], tasks: Sequence[str]) -> bool:
    """Whether it claims to have one of the modalities, and is labelled for one of the tasks."""
    has, labelled = set(utterance.modalities), set(utterance.labelled_for)
    return not has.isdisjoint(modalities) and not labelled.isdisjoint(tasks)


def facts(folder: Path) -> RunFacts:
    """Read a finished run's log.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        epochs = [line for line in read_json_lines(folder / LOG_FILE) if line["event"] == "epoch"]
        best = max(line["epoch"] for line in epochs if line["best"])
        return RunFacts(round(epochs[-1]["seconds"] / 60, 2), len(epochs), best)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / LOG_FILE} cannot be read ({error}): delete {folder} and run the same again"
        ) from None


def claim(where: Where, recipes: Sequence[Recipe] = ()) -> None:
    """One folder, one data: manifests are known by their content, and that of the feature files they name.

    So are the teachers that the recipes name, and the models that they start from. Until a run is begun there, the
    folder can be claimed anew.

    Raises:
        UserError: a manifest cannot be read, or no model is there; ``out`` holds an experiment on other data, or with
            other models of these names, or does not say on which.
    """
    models = {name: _file_digest(file) for recipe in recipes for name, file in _begun_with(recipe)}
    try:
        digests = [_digest(path) for path in where.data]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    path = where.out / DATA_FILE
    if (kept := claimed(path)) is None:
        write_text(path, json.dumps(digests) + "\n")
    elif kept != digests:
        raise UserError(f"{where.out} holds an experiment on other data; give another --out, or delete it")
    _claim_models(where.out / MODELS_FILE, models)


def claimed(path: Path) -> Any:
    """What a file of an experiment's folder says that its runs are of; ``None`` where there is no file, or no run yet.

    Raises:
        UserError: it cannot be read.
    """
    begun = (CHECKPOINT_FILE, PREDICTIONS_FILE)
    if not path.exists() or not any(next(path.parent.rglob(name), None) for name in begun):
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): delete it if its runs are of the same data; else give another --out"
        ) from None


def _claim_models(path: Path, models: dict[str, str]) -> None:
    kept = claimed(path) or {}
    if changed := [name for name, digest in models.items() if kept.get(name, digest) != digest]:
        raise UserError(f"{path.parent} holds runs with another {changed[0]}; give another --out, or delete it")
    if models.keys() - kept.keys():
        write_text(path, json.dumps(kept | models, indent=1) + "\n")
    elif not kept:
        path.unlink(missing_ok=True)


def _begun_with(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """Name and file of each model and of all predictions that its runs begin with."""
    for key, name in recipe.begins_with:
        yield name, Path(name) if is_file_of_predictions(name) else earlier_model(key, name) / WEIGHTS_FILE


def _file_digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _digest(manifest: Path) -> str:
    """Of a manifest, its sidecar and its feature files; not of sound, which may be hours."""
    sidecar = read_sidecar(manifest)
    more = [sidecar.path, *sidecar.features.values()] if sidecar.path.is_file() else []
    digest = hashlib.sha256()
    for path in [manifest, *more]:
        with path.open("rb") as file:
            while part := file.read(DIGEST_AT_ONCE):
                digest.update(part)
    return digest.hexdigest()


def _check_data(planned: Sequence[Job], where: Where) -> None:
    """See before anything is trained that each model can be trained and scored, and all be compared."""
    left = [job for job in planned if not is_finished(job)]
    if not left:
        return
    utterances = read_manifests(where.data, audio_root=where.audio_root)
    named = ", ".join(map(str, where.data))
    splits = {split: [u for u in utterances if u.split == split] for split in SPLITS}
    for job in left:
        reads, tasks = modalities_of(job.recipe), job.recipe.model.tasks
        for split, rows in splits.items():
            if not any(is_usable(u, reads, tasks) for u in rows):
                raise UserError(
                    f"{named}: no row of split {split!r} with {' or '.join(reads)} in it is labelled for "
                    f"{' or '.join(tasks)}, as {job.row.title!r} needs: label some, or compare without it"
                )
    sets = {modalities_of(job.recipe) for job in planned}
    learned = tuple(dict.fromkeys(task for job in planned for task in job.recipe.model.tasks))
    if not any(all(is_usable(u, reads, learned) for reads in sets) for u in splits["test"]):
        titles = ", ".join(dict.fromkeys(repr(job.row.title) for job in planned))
        raise UserError(
            f"{named}: no row of split 'test' that is labelled for {' or '.join(learned)} can be read by all of "
            f"{titles}: there is nothing to compare them on; name fewer of them with --only"
        )


def _failed_rows(run: Path) -> int:
    """How many rows a finished run could not use, a line each; none where no file tells of any."""
    files = (run / name for name in (FAILED_FILE, FAILED_TEST_FILE))
    return sum(len(read_json_lines(file)) for file in files if file.exists())


def _run(job: Job, where: Where) -> None:
    shared = {"audio_root": where.audio_root, "cache": where.cache}
    train(job.recipe, where.data, job.folder, device=where.device, callbacks=where.callbacks, **shared)
    bundle = load_bundle(job.folder / MODEL_FOLDER, device=where.device)
    scored = evaluate(bundle, where.data, "test", progress=where.callbacks.encoding, **shared)
    write_metrics(job.folder / "metrics-test.json", scored.metrics)
    write_failed(job.folder / FAILED_TEST_FILE, scored.failed)
    predicted = scored.utterances, scored.modalities, scored.sentiment, scored.emotions
    write_predictions(job.folder / PREDICTIONS_FILE, *predicted)
