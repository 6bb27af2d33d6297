"""Predictions of whole manifests, streamed to a file."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice, tee
from pathlib import Path
from typing import IO, NamedTuple

from mmolre.data.dataset import FailedRow
from mmolre.data.manifest import iter_manifest
from mmolre.data.surroundings import surrounded
from mmolre.errors import UserError
from mmolre.evaluate.together import Together
from mmolre.files import refuse_inputs, replacing
from mmolre.predictor import CHUNK, Prediction, Predictor
from mmolre.schema import Utterance

KEPT_EXAMPLES = 5


class Counts(NamedTuple):
    """How a file of predictions came out.

    Attributes:
        written: lines.
        failed: rows that could not be read; ``errors`` lists them, ``examples`` are the first few.
        together: of those written, the ones that are read with others of their recordings or speakers.
        foreign: the language that the first texts seem to be in, where the model does not read it; else ``None``.
    """

    written: int
    failed: int
    errors: Path
    examples: list[FailedRow]
    together: int = 0
    foreign: str | None = None


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
    (id, row, reason). Both appear only when all rows are done. A model that reads utterances in the light of their
    recordings reads all of the manifests' so, wherever they stand; that takes memory for each recording, and for voices
    of known speakers some 200 bytes each. One that reads what is said around an utterance takes memory for all texts.

    Args:
        progress: called with the number of rows done.

    Raises:
        UserError: a bad manifest, or a file that cannot be written or is read, such as a recording of a manifest;
            nothing is left behind.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder: name a file to write the predictions to, such as predictions.jsonl")
    errors = out.with_name(out.stem + ".errors.jsonl")
    for path in (out, errors):
        refuse_inputs(path, data)
    there = [path for path in (out, errors) if path.exists()]
    first: list[str] = []
    for utterance in _rows(data, audio_root):  # what is wrong with a manifest is said before anything is predicted
        for path in there:
            refuse_inputs(path, [*([utterance.audio] if utterance.audio else []), *utterance.features.values()])
        first += [utterance.text] if utterance.text and len(first) < CHUNK else []
    written = failed = 0
    examples: list[FailedRow] = []
    with ExitStack() as stack:
        results_path = stack.enter_context(replacing(out))
        errors_path = stack.enter_context(replacing(errors))
        results = stack.enter_context(results_path.open("w", encoding="utf-8"))
        problems = stack.enter_context(errors_path.open("w", encoding="utf-8"))
        own = None
        if (together := predictor.bundle.decision.together()) is not None:
            beside = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", dir=out.parent))
            own = _Own(predictor, together, beside)
        found = _rows(data, audio_root)
        rows, again = tee(surrounded(list(found)) if predictor.reads_surroundings else found)
        for result, utterance in zip(predictor.predict_many(rows), again, strict=True):
            if isinstance(result, FailedRow):
                failed += 1
                problems.write(_line(result._asdict()))
                examples += [result] if len(examples) < KEPT_EXAMPLES else []
            else:
                written += 1
                if own is not None:
                    own.keep(result, utterance)
                else:
                    results.write(_line(result.to_json()))
            progress(written + failed)
        for prediction in own.in_context() if own is not None else ():
            results.write(_line(prediction.to_json()))
    if not failed:
        errors.unlink()
    read_with_others = together.with_others if together is not None else 0
    return Counts(written, failed, errors, examples, read_with_others, predictor.foreign_language(first))


def _rows(data: Sequence[Path], audio_root: Path | None) -> Iterator[Utterance]:
    seen: set[int] = set()
    for path in data:
        for utterance in iter_manifest(path, audio_root=audio_root):
            if len(data) > 1:  # within one manifest it has been checked already
                if hash(utterance.id) in seen:
                    raise UserError(f"{utterance.row}: the id {utterance.id!r} is in two manifests: ids must differ")
                seen.add(hash(utterance.id))
            yield utterance


class _Own:
    """Predictions of each utterance on its own, on the disk until the last that it is read with is known."""

    def __init__(self, predictor: Predictor, together: Together, file: IO[str]) -> None:
        self._predictor, self._together, self._file = predictor, together, file

    def keep(self, prediction: Prediction, utterance: Utterance) -> None:
        """One more, in the order of the file to be."""
        recording, speaker = utterance.recording, utterance.speaker
        self._predictor.count_in(self._together, [prediction], [recording], [speaker])
        kept = [recording, speaker, prediction.to_json()]
        self._file.write(json.dumps(kept) + "\n")  # in ASCII: a name that is no text comes back as it was

    def in_context(self) -> Iterator[Prediction]:
        """All that was kept, in its order."""
        self._file.seek(0)
        while lines := list(islice(self._file, CHUNK)):
            recordings, speakers, kept = zip(*map(json.loads, lines), strict=True)
            predictions = [Prediction(**p) for p in kept]
            yield from self._predictor.in_context(predictions, recordings, speakers, self._together)


def _line(content: object) -> str:
    # A reason may name a file whose name is no text.
    return json.dumps(content, ensure_ascii=False).encode(errors="replace").decode() + "\n"
