"""``mmolre explain``: routing on a data set, task conflict over training, one utterance taken apart."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmolre.bundle import SHIPPED, Bundle, load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import build_dataset
from mmolre.data.manifest import read_manifests
from mmolre.encoders.extract import Progress
from mmolre.errors import UserError
from mmolre.explain import conflict, routing
from mmolre.files import write_text
from mmolre.schema import Utterance
from mmolre.train.recipe import Recipe, read_recipe

Tell = Callable[[str], None]


def explain_conflict(runs: Sequence[Path], out: Path, tell: Tell) -> bool:
    """``conflict.png``, ``.svg`` and ``.json`` of the runs that logged it, each once; whether there was any.

    Raises:
        UserError: some of several runs did not; seeds of one row are of other recipes.
    """
    runs = list({run.resolve(): run for run in runs}.values())
    found: dict[str, list[Any]] = {}
    first: dict[str, Path] = {}
    for name, run in zip(conflict.names_of(runs), runs, strict=True):
        if logged := conflict.recorded(run):
            found.setdefault(name, []).append(logged)
            if first.setdefault(name, run) is not run and _but_seed(run) != _but_seed(first[name]):
                raise UserError(f"{first[name]} and {run} are of two recipes, not seeds of one: explain them apart")
        elif len(runs) > 1:
            raise UserError(f"{run} logged no task conflict: train it with --set training.conflict_every=10")
    if found:
        summary = conflict.summarize(found)
        _written("conflict", conflict.figure(out / "conflict", summary), summary, out, tell)
    return bool(found)


def explain_routing(
    bundle: Bundle,
    title: str,
    data: Sequence[Path],
    split: str,
    out: Path,
    tell: Tell,
    *,
    audio_root: Path | None = None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> int:
    """``routing.png``, ``.svg`` and ``.json`` over the split's utterances; returns how many rows could not be used.

    Raises:
        UserError: no row of the split that the model can read; a model without routers.
    """
    rows = [u for u in read_manifests(list(data), audio_root=audio_root) if u.split == split]
    dataset = build_dataset(rows, bundle.encoders, cache, progress=progress)
    if not dataset.utterances:
        raise UserError(f"{', '.join(map(str, data))}: no row of split {split!r} that the model can read")
    found = routing.decisions(bundle.model, dataset.utterances, dataset.arrays)
    summary = routing.summarize(bundle.model, dataset.utterances, found)
    _written("routing", routing.figure(out / "routing", f"{title}, {split}", summary), summary, out, tell)
    return len(dataset.failed)


def explain_utterance(bundle: Bundle, utterance: Utterance, out: Path, tell: Tell) -> None:
    """``utterance.png``, ``.svg`` and ``.json``."""
    from mmolre.explain import attribution

    content = attribution.explain(bundle, utterance)
    _written("utterance", attribution.figure(out / "utterance", content), content, out, tell)


def find(data: Sequence[Path], wanted: str, audio_root: Path | None) -> Utterance:
    """The utterance of that id.

    Raises:
        UserError: there is none.
    """
    for utterance in read_manifests(list(data), audio_root=audio_root):
        if utterance.id == wanted:
            return utterance
    raise UserError(f"{', '.join(map(str, data))}: no utterance {wanted!r}")


def explain(
    runs: Sequence[str],
    out: Path,
    *,
    data: Sequence[Path] = (),
    split: str = "valid",
    wanted: str | None = None,
    text: str | None = None,
    audio: Path | None = None,
    audio_root: Path | None = None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
    tell: Tell = lambda _: None,
) -> int:
    """All that can be explained with what is given, of the first run; task conflict of all runs.

    Returns:
        how many rows of the data could not be used.

    Raises:
        UserError: nothing is given to explain, or it cannot be.
    """
    if wanted is not None and (not data or text is not None or audio is not None):
        raise UserError("an --id is looked up in --data, and needs no --text or --audio")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for what is explained")
    failed = 0
    conflicts = explain_conflict([Path(run) for run in runs if run != SHIPPED.name], out, tell)
    given = Utterance("utterance", text, audio) if text is not None or audio is not None else None
    utterance = find(data, wanted, audio_root) if wanted is not None else given
    if utterance or data:
        bundle = load_bundle(runs[0])
        if utterance:
            explain_utterance(bundle, utterance, out, tell)
        if data and wanted is None:
            (title,) = conflict.names_of([Path(runs[0])])
            more = {"audio_root": audio_root, "cache": cache, "progress": progress}
            failed = explain_routing(bundle, title, data, split, out, tell, **more)
    elif not conflicts:
        raise UserError(
            "nothing to explain: give --data for the routing, --text, --audio or --id for one utterance; "
            "runs trained with --set training.conflict_every=10 show their task conflict"
        )
    return failed


def _but_seed(run: Path) -> Recipe:
    """A run's recipe without what each seed has its own of."""
    return read_recipe(run).model_copy(update={"seed": 0, "refit": None})


def _written(name: str, files: Sequence[Path], content: Any, out: Path, tell: Tell) -> None:
    write_text(out / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    tell(f"written: {', '.join(str(file) for file in files)}, {out / f'{name}.json'}")
