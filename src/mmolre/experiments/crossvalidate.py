"""Cross-validation: every utterance is read by a model that has heard neither it nor its speaker or its recording.

For corpora without splits of their own or too small for a test that says much, as the field does for RAVDESS and
IEMOCAP. What is said so is also what a recipe can learn from, as ``teachers``: a teacher that has learned an utterance
itself knows its label's noise by heart.
"""

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from mmolre.bundle import MODEL_FOLDER, load_bundle
from mmolre.data.manifest import read_manifests
from mmolre.errors import UserError
from mmolre.evaluate.report import ON_ITS_OWN, PRIMARY, best_trivial, direction
from mmolre.evaluate.run import Evaluation, evaluate_on
from mmolre.experiments.runs import Where, claim, claimed, is_usable, modalities_of
from mmolre.experiments.table import over_seeds, versions_of, write_json
from mmolre.files import write_text
from mmolre.schema import EMOTIONS, SENTIMENT_RANGE, Utterance
from mmolre.train.recipe import Recipe
from mmolre.train.run import train_on, write_failed
from mmolre.train.teachers import check_teachers

By = Literal["recording", "speaker", "utterance"]
"""What of a manifest stays together: in one fold."""

PREDICTIONS_FILE = "predictions.jsonl"
RESULT_FILE = "crossvalidate.json"
FOLDS_FILE = "folds.json"
FAILED_HELD_OUT_FILE = "failed-rows-held-out.jsonl"
VALID_SHARE = 0.1
DEAL_SEED = 0
"""The folds are the same for every recipe and seed, so that these can be compared utterance by utterance."""

FOLD = "{fold}"
"""In the name of a teacher: the number of the fold. A teacher that knows what a fold holds out would give it away."""

SHOWN = (
    *("sentiment.mae", "sentiment.corr", "sentiment.acc2_non0", "sentiment.acc7"),
    *("emotion.wa_mean", "emotion.macro_f1", "emotion.jaccard", "emotion.auc_mean", "emotion.top_accuracy"),
)


class Fold(NamedTuple):
    """One deal: the utterances to train on and to choose by (splits train and valid), and those held out."""

    learned: list[Utterance]
    held_out: list[Utterance]


Group = tuple[str, bool]
"""The name of a group; and whether it is the id of one utterance that is of none."""


class CrossValidated(NamedTuple):
    """What came out: the content of ``crossvalidate.json``, and how many rows could not be used."""

    content: dict[str, Any]
    failed: int


def deal(utterances: Sequence[Utterance], by: By, folds: int) -> list[Fold]:
    """Deal the labelled utterances out to folds of about equal size; ours.

    Those of the split test are left alone, so that what is chosen here has not seen them. Where there are labelled
    ones of the split valid, they are that in every fold, but those of a group that is held out there; else a tenth of
    all, taken from the following folds.

    Args:
        by: what must not be torn apart. An utterance of no group is one by itself.
        folds: how many, at least 2.

    Raises:
        UserError: too few groups, or no utterance that is of one.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: at least two are needed")
    labelled = [u for u in utterances if u.labelled_for and u.split != "test"]
    dealt = [u for u in labelled if u.split != "valid"]
    if not dealt:
        raise UserError("no labelled utterance to deal out: those of the splits valid and test are not")
    if by != "utterance" and not any(getattr(u, by) for u in dealt):
        others = " or ".join(f"--by {other}" for other in get_args(By) if other != by)
        column = "video_id" if by == "recording" else by
        raise UserError(f"--by {by}: no utterance names its {by} (column {column}); give {others}")
    sizes = Counter(_group(u, by) for u in dealt)
    fold_of = _spread(sizes, folds)
    found = []
    for fold in range(folds):
        held = {group for group in sizes if fold_of[group] == fold}
        valid = [u for u in labelled if u.split == "valid" and _group(u, by) not in held]
        following = sorted(set(sizes) - held, key=lambda group: ((fold_of[group] - fold) % folds, group))
        chosen = set() if valid else _first(following[:-1], sizes, VALID_SHARE * sizes.total())
        if not held or not following or not (valid or chosen):
            what = "utterances" if by == "utterance" else f"{by}s"
            raise UserError(f"--folds {folds}: {len(sizes)} {what} are too few; give fewer folds, or more data")
        learned = [
            replace(u, split="valid" if _group(u, by) in chosen else "train")
            for u in dealt
            if _group(u, by) not in held
        ]
        found.append(Fold(learned + valid, [u for u in dealt if _group(u, by) in held]))
    return found


def crossvalidate(
    recipe: Recipe,
    where: Where,
    *,
    by: By,
    folds: int,
    further: Sequence[Path] = (),
    modalities: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> CrossValidated:
    """Train the recipe once for each fold, and score it on what the fold holds out.

    A model that reads utterances in the light of others is given the unlabelled ones of the groups held out, too.

    Writes into ``where.out``: ``fold-1/`` …, the runs; ``crossvalidate.json``; and ``predictions.jsonl``, what was said
    of each utterance by the model that had not learned from its group, in the form of ``mmolre predict``.

    Args:
        recipe: ``{fold}`` in the names of its teachers and of ``start_from`` stands for the number of the fold, from 1.
            What is named without it must not have learned from these utterances; the table says that it is there.
        further: manifests that are trained on in every fold, by their own splits, and held out in none; but those of
            their utterances that are of a group that is held out are left out there.
        modalities: predict from these alone, as in :func:`mmolre.evaluate.run.evaluate_on`.
        tell: a line before each fold.

    Raises:
        UserError: bad data, too few groups, a fold without labels of the recipe's tasks to learn from or to score on, a
            modality that the recipe does not read; ``out`` holds other folds, or folds of other data.
        InterruptedRunError: the callbacks asked to stop; the same call goes on later.
    """
    reads = modalities_of(recipe)
    if unknown := set(modalities or ()) - set(reads):  # not after an hour of training
        raise UserError(f"{recipe.name} does not read {sorted(unknown)[0]!r}; it reads {', '.join(reads)}")
    held_in_none = {u.id for u in read_manifests(further, audio_root=where.audio_root)}
    everything = [*where.data, *further]
    utterances = read_manifests(everything, audio_root=where.audio_root)
    beside = [u for u in utterances if u.id in held_in_none]
    own = [u for u in utterances if u.id not in held_in_none]
    plan = deal(own, by, folds)
    recipes = [_taught_in(number, recipe) for number in range(1, folds + 1)]
    for one in recipes:
        check_teachers(one.teachers)
    named = ", ".join(map(str, everything))
    besides = [_of_others(beside, fold, by) for fold in plan]
    for number, (fold, more) in enumerate(zip(plan, besides, strict=True), 1):
        _check(recipe, [*fold.learned, *more], fold.held_out, modalities or reads, f"{named}, fold {number}")
    claim(where._replace(data=everything), recipes)
    _claim_folds(where.out, {"by": by, "folds": folds})
    if left := sum(u.split == "test" for u in own):
        tell(f"{left:,} utterances of the split test are left alone")
    scored: list[Evaluation] = []
    failed = 0
    for number, (fold, more, own_recipe) in enumerate(zip(plan, besides, recipes, strict=True), 1):
        groups = {_group(u, by) for u in fold.held_out}
        of = "" if by == "utterance" else f" of {len(groups)} {by}{'s' if len(groups) != 1 else ''}"
        left_out = f", and {len(beside) - len(more)} further ones of the same" if len(more) < len(beside) else ""
        tell(f"fold {number} of {folds}: {len(fold.held_out)} utterances{of} held out{left_out}")
        run = where.out / f"fold-{number}"
        trained = train_on(
            own_recipe,
            [*fold.learned, *more],
            run,
            named=f"{named}, fold {number}",
            cache=where.cache,
            device=where.device,
            callbacks=where.callbacks,
        )
        bundle = load_bundle(run / MODEL_FOLDER, device=where.device)
        unlabelled = [u for u in own if not u.labelled_for and u.split != "test" and _group(u, by) in groups]
        scored.append(
            evaluate_on(
                bundle,
                [*fold.held_out, *unlabelled],
                named=f"{named}, held out in fold {number}",
                modalities=modalities,
                cache=where.cache,
                progress=where.callbacks.encoding,
            )
        )
        write_failed(run / FAILED_HELD_OUT_FILE, scored[-1].failed)
        failed = max(failed, len(trained.failed) + len(scored[-1].failed))
    write_text(where.out / PREDICTIONS_FILE, "".join(line for of in scored for line in _lines(of)))
    content = {
        "recipe": recipe.title,
        "seed": recipe.seed,
        "by": by,
        "folds": folds,
        "utterances": [len(of.utterances) for of in scored],
        "known_before": [name for _, name in recipe.begins_with if FOLD not in name],
        "metrics": _over_folds([of.metrics for of in scored]),
        "versions": versions_of([where.out / f"fold-{n}" for n in range(1, folds + 1)]),
    }
    if all(ON_ITS_OWN in of.metrics for of in scored):
        alone = [{"trivial": of.metrics["trivial"]} | of.metrics[ON_ITS_OWN] for of in scored]
        content[ON_ITS_OWN] = _over_folds(alone)
    write_json(where.out / RESULT_FILE, content)
    return CrossValidated(content, failed)


def result_table(content: Mapping[str, Any]) -> str:
    """The content of ``crossvalidate.json`` as plain text, at most 80 columns."""
    counts = content["utterances"]
    lines = [
        f"{sum(counts)} utterances, each read by a model that learned without its {content['by']}:",
        f"{content['folds']} folds of {min(counts)} to {max(counts)}; mean and standard deviation over folds",
        "",
        f"{'':<22}{'':<2}{'mean':>10}{'sd':>10}{'worst':>10}{'best':>10}{'trivial':>10}",
    ]
    if known := content.get("known_before"):
        told = f"true only if they have not learned these utterances: {', '.join(known)}"
        lines[1:1] = textwrap.wrap(told, 80)
    lines += _rows(content["metrics"])
    if ON_ITS_OWN in content:
        lines += ["", "each utterance on its own:", *_rows(content[ON_ITS_OWN])]
    return "\n".join(lines)


def _rows(metrics: Mapping[str, Any]) -> list[str]:
    lines = []
    for key in (key for key in SHOWN if key in metrics):
        of, lower = metrics[key], direction(key) == "min"
        low, high = min(of["values"]), max(of["values"])
        ends = (high, low) if lower else (low, high)
        columns = (of["mean"], of["sd"], *ends, of["trivial"])
        shown = "".join(f"{'–' if x is None or np.isnan(x) else f'{x:.4f}':>10}" for x in columns)
        lines.append(f"{key:<22}{'↓' if lower else '↑':<2}{shown}")
    return lines


def _claim_folds(out: Path, dealt: Mapping[str, Any]) -> None:
    path = out / FOLDS_FILE
    if (there := claimed(path)) is None:
        write_text(path, json.dumps(dealt) + "\n")
    elif there != dealt:
        raise UserError(f"{out} holds {there['folds']} folds by {there['by']}; give another --out, or delete it")


def _check(
    recipe: Recipe, learned: Sequence[Utterance], held_out: Sequence[Utterance], scored_by: Sequence[str], named: str
) -> None:
    """See before anything is trained that a fold's model can be trained and scored."""
    reads = modalities_of(recipe)
    for what, rows, read in (
        ("to train on", [u for u in learned if u.split == "train"], reads),
        ("of split valid", [u for u in learned if u.split == "valid"], reads),
        ("held out", held_out, scored_by),
    ):
        if not any(is_usable(u, read, recipe.model.tasks) for u in rows):
            raise UserError(
                f"{named}: no utterance {what} with {' or '.join(read)} in it is labelled for "
                f"{' or '.join(recipe.model.tasks)}; give fewer folds, or more labels"
            )


def _group(utterance: Utterance, by: By) -> Group:
    name = None if by == "utterance" else getattr(utterance, by)
    return (utterance.id, True) if name is None else (name, False)


def _of_others(utterances: Sequence[Utterance], fold: Fold, by: By) -> list[Utterance]:
    """Those that are of no group that the fold holds out."""
    groups = {_group(u, by) for u in fold.held_out}
    return [u for u in utterances if _group(u, by) not in groups]


def _taught_in(number: int, recipe: Recipe) -> Recipe:
    teachers = tuple(name.replace(FOLD, str(number)) for name in recipe.teachers)
    first = recipe.start_from and recipe.start_from.replace(FOLD, str(number))
    return recipe.model_copy(update={"teachers": teachers, "start_from": first})


def _spread(sizes: Mapping[Group, int], folds: int) -> dict[Group, int]:
    """A fold for each group: shuffled, the largest first, each to the fold that has least."""
    names = sorted(sizes)
    order = [names[i] for i in np.random.default_rng(DEAL_SEED).permutation(len(names))]
    totals = [0] * folds
    fold_of: dict[Group, int] = {}
    for name in sorted(order, key=lambda name: -sizes[name]):
        fold_of[name] = totals.index(min(totals))
        totals[fold_of[name]] += sizes[name]
    return fold_of


def _first(groups: Sequence[Group], sizes: Mapping[Group, int], wanted: float) -> set[Group]:
    """So many of the first groups that they have together as many utterances as are wanted."""
    chosen: set[Group] = set()
    for group in groups:
        if sum(sizes[one] for one in chosen) >= wanted:
            break
        chosen.add(group)
    return chosen


def _over_folds(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each metric that all folds have: :func:`over_seeds`' dict, beside it the mean of the best trivial ones."""
    metrics = {}
    for key in (key for key in PRIMARY if key.count(".") == 1):
        task, name = key.split(".")
        values = [of[task][name] for of in found if task in of and of[task][name] is not None]
        if len(values) < len(found):
            continue
        trivial = [best_trivial(of, task, name) for of in found]
        known = [x for x in trivial if x is not None]
        mean = float(np.mean(known)) if len(known) == len(found) else None
        metrics[key] = over_seeds(values) | {"trivial": mean}
    return metrics


def _lines(scored: Evaluation) -> list[str]:
    low, high = SENTIMENT_RANGE
    lines = []
    for utterance, sentiment, emotions in zip(scored.utterances, scored.sentiment, scored.emotions, strict=True):
        content: dict[str, Any] = {"id": utterance.id}
        if not np.isnan(sentiment):
            content["sentiment"] = float(np.clip(sentiment, low, high))
        if not np.isnan(emotions).any():
            content["emotions"] = dict(zip(EMOTIONS, emotions.tolist(), strict=True))
        lines.append(json.dumps(content, ensure_ascii=False) + "\n")
    return lines
