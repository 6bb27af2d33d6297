"""Predictions of whole manifests, streamed to a file."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from mmolre.data.dataset import FailedRow
from mmolre.data.manifest import iter_manifest
from mmolre.errors import UserError
from mmolre.files import replacing
from mmolre.predictor import Predictor
from mmolre.schema import Utterance

KEPT_EXAMPLES = 5


class Counts(NamedTuple):
    """How a file of predictions came out: lines written, rows failed, where these are listed, and the first few."""

    written: int
    failed: int
    errors: Path
    examples: list[FailedRow]


def predict_file(
    predictor: Predictor,
    data: Sequence[Path],
    out: Path,
    *,
    audio_root: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Counts:
    """Predict every row of the manifests, in their order and in bounded memory.

    Writes ``out``, one JSON object a line (:class:`mmolre.Prediction`), and, where rows failed, ``out.errors.jsonl``
    (id, row, reason). Both appear only when all rows are done.

    Args:
        progress: called with the number of rows done.

    Raises:
        UserError: a bad manifest, or a file that cannot be written; nothing is left behind.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder: name a file to write the predictions to, such as predictions.jsonl")
    errors = out.with_name(out.stem + ".errors.jsonl")
    for path in (out, errors):
        if any(path.resolve() == manifest.resolve() for manifest in data):
            raise UserError(f"{path} is a manifest to be read, and would be overwritten: give another --out")
    written = failed = 0
    examples: list[FailedRow] = []
    with ExitStack() as stack:
        results_path = stack.enter_context(replacing(out))
        errors_path = stack.enter_context(replacing(errors))
        results = stack.enter_context(results_path.open("w", encoding="utf-8"))
        problems = stack.enter_context(errors_path.open("w", encoding="utf-8"))
        for result in predictor.predict_many(_rows(data, audio_root)):
            if isinstance(result, FailedRow):
                failed += 1
                problems.write(json.dumps(result._asdict(), ensure_ascii=False) + "\n")
                examples += [result] if len(examples) < KEPT_EXAMPLES else []
            else:
                written += 1
                results.write(json.dumps(result.to_json(), ensure_ascii=False) + "\n")
            progress(written + failed)
    if not failed:
        errors.unlink()
    return Counts(written, failed, errors, examples)


def _rows(data: Sequence[Path], audio_root: Path | None) -> Iterator[Utterance]:
    seen: set[int] = set()
    for path in data:
        for utterance in iter_manifest(path, audio_root=audio_root):
            if len(data) > 1:  # within one manifest it has been checked already
                if hash(utterance.id) in seen:
                    raise UserError(f"{utterance.row}: the id {utterance.id!r} is in two manifests: ids must differ")
                seen.add(hash(utterance.id))
            yield utterance
