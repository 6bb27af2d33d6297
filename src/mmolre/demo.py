"""The demo: the package's sample utterances, predicted, and what to type next."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from mmolre import terminal
from mmolre.errors import UserError
from mmolre.files import read_json_lines

SAMPLES = Path(__file__).parent / "samples"
MANIFEST = SAMPLES / "samples.jsonl"

HEADINGS = {
    ("text",): "text alone",
    ("audio",): "voice alone, synthetic",
    ("text", "audio"): "text + synthetic voice",
}


def run_demo() -> None:
    """Predict the samples with the shipped model and print a table, how to read it, and commands to go on with.

    Raises:
        UserError: the encoders have not been fetched, or the package lacks its model or samples.
    """
    terminal.note("Loading the model and its encoders …")
    from mmolre.data.dataset import FailedRow
    from mmolre.data.manifest import read_manifest
    from mmolre.predictor import Prediction, load

    utterances = read_manifest(MANIFEST)
    about = {row["id"]: row for row in read_json_lines(MANIFEST)}
    predictor = load()
    with terminal.quiet_warnings():
        results = list(predictor.predict_many(utterances))
    rows: list[tuple[str, Prediction | None]] = []
    for modalities, heading in HEADINGS.items():
        rows.append((heading, None))
        for utterance, result in zip(utterances, results, strict=True):
            if isinstance(result, FailedRow):
                raise UserError(f"the package's sample {result.id} cannot be read: {result.reason}")
            if utterance.modalities == modalities:
                rows.append((f'"{utterance.text or about[utterance.id]["spoken"]}"', result))
    terminal.out.print(terminal.prediction_table(rows))
    terminal.plain(_explanation(_command()))


def _explanation(mmolre: str) -> str:
    voice = shlex.quote(_short(SAMPLES / "both-happy.ogg"))
    manifest = shlex.quote(_short(MANIFEST))
    return f"""
sentiment: from -3, very negative, to 3, very positive. Emotions: how probable
each is; bold: over its threshold. top: the one that stands out, if any.

Sentences and voices are ours. The voices are synthetic (espeak-ng) and flat,
and the model has learned from people: the rows with voice show that it works,
not how well.

Next, with your own words, recording (any format, up to 60 s), or both:
  {mmolre} predict --text "I did not expect that at all!"
  {mmolre} predict --audio {voice}
  {mmolre} predict --audio {voice} --text "Thank you!"
Many at once; a manifest (.csv, .jsonl, .parquet) has columns id, text, audio:
  {mmolre} predict --data {manifest} --out predictions.jsonl
A model of your own, where it also has split, sentiment and emotions:
  {mmolre} train everyday --data MANIFEST --out runs/mine
  {mmolre} evaluate runs/mine --data MANIFEST
  {mmolre} predict --model runs/mine --text "I did not expect that at all!"
All commands and options: {mmolre} --help"""


def _command() -> str:
    """The command as the person can type it here."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(Path(sys.executable).name)} -m mmolre"
    found = shutil.which("mmolre")
    if called.name != "mmolre" or (found and Path(found).resolve() == called.resolve()):
        return "mmolre"
    return shlex.quote(_short(called))


def _short(path: Path) -> str:
    """A path as seen from here, if that is shorter."""
    relative = os.path.relpath(path)
    return min(relative, str(path), key=len)
