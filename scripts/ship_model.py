"""Put a finished run's model into the package, in float16, with its model card.

    python scripts/ship_model.py runs/everyday-seed1

The figures of the card come from results/RECIPE/seedN.json (scripts/record_run.py).
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmolre.bundle import PIPELINE_FILE, SHIPPED, Bundle, load_bundle, model_folder, save_bundle
from mmolre.data.dataset import Source
from mmolre.encoders import from_spec
from mmolre.encoders.text import TextEncoder
from mmolre.errors import UserError, run_script
from mmolre.evaluate.decision import Decision
from mmolre.evaluate.report import best_trivial
from mmolre.files import write_text
from mmolre.train.recipe import RECIPE_FILE, Recipe, read_recipe
from mmolre.train.teachers import is_file_of_predictions

LIMIT = 10_000_000  # bytes
RESULTS = Path(__file__).parent.parent / "results"

CARD = """---
license: other
language: en
tags: [sentiment-analysis, emotion-recognition, multimodal]
---
# The model that comes with mmolre

Multimodal Mixture of Low-Rank Experts over encoders with low-rank adapters: from the words of an utterance, its sound,
or both, it predicts sentiment in [-3, 3] and the probability of happy, sad, anger, surprise, disgust and fear.
{parameters:,} parameters of ours, {megabytes:.1f} MB in float16. The encoders are not in it: all-MiniLM-L6-v2 (text)
and the encoder of Whisper tiny.en (audio), which `mmolre encoders fetch` brings and checks.

This card is made by `python scripts/ship_model.py`; the figures are those of `results/{recipe}/seed{seed}.json`.

## Trained on

Recipe `{recipe}`, seed {seed}: {train_utterances:,} utterances, {train_with_sentiment:,} with sentiment and
{train_with_emotions:,} with emotions. CMU-MOSEI (text; sentiment and emotions), CMU-MOSI (text; sound for some of it;
sentiment), MELD (text; one emotion or none, and which lines are neutral) and RAVDESS (sound; emotions acted by
{speakers}). None of it is in the package.{origin}{refit}

## Figures

{figures}

Sentiment: MAE, Pearson correlation, accuracy of the sign (zeros left out). Emotions: mean weighted accuracy, micro-F1,
macro-F1, mean AUC, and how often `top` is right where at most one emotion is present. In brackets the best trivial
predictor. Where a manifest names the recordings (CMU-MOSEI's and CMU-MOSI's videos), an utterance is read in the light
of the others of its recording; figures of each on its own are in docs/results.md. A voice is read less what is common
to its speaker's, where the manifest names speakers (*by speaker*). They were made with texts cut at 128
tokens, as few are longer; this model reads as many as its encoder does.

## Calibration and uncertainty

The emotions' probabilities are calibrated on valid. For words: one temperature and one shift for each emotion, drawn to
those of all six where labels are few. For voices, which were learned as having one emotion or none: one temperature, of
a softmax over these seven, of which `top` is the likeliest. Expected calibration error (all six pooled, 15 bins of
equal mass; valid is what they were fitted on):
{calibration}.

The band around a sentiment goes from {band_low:+.2f} to {band_high:+.2f}: the 10 % and 90 % quantiles of the errors on
{band_n:,} utterances of valid, almost all of them words alone. It is not wider where the model is less sure. How
many of a test split lie within: `python benchmarks/analyze.py band`.

## How emotions from words and voice together come about

None of these corpora has emotion labels for utterances in which both the words and the voice carry the emotion. So the
emotions of an utterance with both are the mean of the two modalities' own calibrated logits, and its thresholds the
mean of theirs. No figure here says how good that is. {anchored}

## Limits

- English only. Words of speakers in English-language videos (reviews, opinions) and of the dialogues of one television
  series, voices of North American actors who speak two sentences. Other people, languages, accents, ages and
  situations: unknown, expect worse.
- The emotions are what annotators saw in others, or what actors were told to play; not what somebody felt.
- Sentiment from a voice alone was learned from fewer than 400 short clips and is weak.
- Surprise and fear are rare in the training text; their probabilities are the least certain.
- Synthetic, sung or heavily processed voices are not what it was trained on.

## Responsible use

For research and for looking at one's own recordings. Not for decisions about people: not for hiring, grading, policing,
insurance, health or the watching of employees, where reading emotions is unreliable and in places unlawful. Tell people
whose speech is analysed, and get their consent.

## Licence

The code is MIT. The weights were learned from corpora that are given for research (CMU-MOSI, CMU-MOSEI), under GPL-3.0
(MELD) or under CC BY-NC-SA 4.0 (RAVDESS): use them for research and not commercially, and cite the corpora.
"""


def figures_table(metrics: dict[str, dict[str, Any]]) -> str:
    """One row per data set and set of modalities."""
    lines = [
        "| | utterances | MAE | Corr | Acc-2 | WA | micro-F1 | macro-F1 | AUC | top right |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    columns = (
        *(("sentiment", name, 3, 1) for name in ("mae", "corr")),
        ("sentiment", "acc2_non0", 1, 100),
        *(("emotion", name, 1, 100) for name in ("wa_mean", "micro_f1", "macro_f1", "auc_mean", "top_accuracy")),
    )
    for name, scored in metrics.items():
        cells = []
        for task, key, digits, scale in columns:
            value = scored.get(task, {}).get(key)
            if value is None:
                cells.append("")
                continue
            trivial = best_trivial(scored, task, key)
            best = "" if trivial is None else f" ({scale * trivial:.{digits}f})"
            cells.append(f"{scale * value:.{digits}f}{best}")
        lines.append(f"| {name} | {scored['n']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _about(name: str) -> dict[str, Any]:
    """The facts about a model's training."""
    return json.loads((model_folder(name) / PIPELINE_FILE).read_text(encoding="utf-8"))["about"]


def _teachers(names: Sequence[str]) -> str:
    """Those that a model was taught by, by the names of their recipes; files of predictions by their own."""
    recipes = Counter(Path(n).name if is_file_of_predictions(n) else _about(n)["recipe"] for n in names)
    return " and ".join(f"`{name}`" + (f" ({n} seeds, their mean)" if n > 1 else "") for name, n in recipes.items())


def _origin(recipe: Recipe) -> str:
    """What the card says of what came before: the models that it went on from, what each learned, and who taught it."""
    steps = []
    files = False
    while True:
        told = f"`{recipe.name}`, seed {recipe.seed}"
        if learned := recipe.training.only:
            anew = ", from new weights" if recipe.start_fresh else ""
            told += f": what reads {' and '.join(learned)} learned{anew or ' on'}"
        if recipe.teachers:
            told += f"; it also learned what {_teachers(recipe.teachers)} said of its training utterances"
            files |= any(map(is_file_of_predictions, recipe.teachers))
        steps.append(told)
        folder = model_folder(recipe.start_from).parent if recipe.start_from is not None else None
        if folder is None or not (folder / RECIPE_FILE).exists():
            break
        recipe = read_recipe(folder)
    if len(steps) < 2:
        return ""
    told = " It came about in steps:\n\n" + "\n".join(f"{i}. {step}." for i, step in enumerate(reversed(steps), 1))
    return told + ("\n\nWhich programs write the `.jsonl` files is said in the recipes." if files else "")


REFIT = """

At the end {what} was learned as well: this is the model of `{name}` again (`refit`), with the epoch,
thresholds and calibration that it had chosen on valid before. So the figures are of test alone."""


def _anchored(decision: Decision) -> str:
    """How the sentiment of words and voice comes about."""
    anchor = decision.anchors.get("text+audio")
    told = "The sentiment is the fused model's"
    if anchor is None or anchor.weight == 1:
        return f"{told}: the few\nutterances of valid with both did not ask to pull it toward that of the words alone."
    return (
        f"{told}, pulled\n{1 - anchor.weight:.0%} of the way toward that of the {anchor.modality} alone, as valid says."
    )


def reads_all(encoder: Source) -> Source:
    """The encoder with its own window: in training long texts, of which there are few, are cut for speed alone."""
    if isinstance(encoder, TextEncoder):
        return from_spec(encoder.spec | {"max_tokens": None}, encoder.device)
    return encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    recipe = read_recipe(options.run)
    bundle = load_bundle(options.run, fold=False)
    kept = json.loads((RESULTS / recipe.title / f"seed{recipe.seed}.json").read_text(encoding="utf-8"))
    origin, refit = _origin(recipe), ""
    if recipe.refit:
        what = "valid" + "".join(f"'s {modality}" for modality in recipe.training.only[:1])
        refit = REFIT.format(name=recipe.name, what=what)
    encoders = {modality: reads_all(encoder) for modality, encoder in bundle.encoders.items()}
    if "all" not in bundle.about["sentiment_error_quantiles"]:
        raise UserError(f"{options.run}: too few labelled rows of valid to say how uncertain a sentiment is")
    with tempfile.TemporaryDirectory(prefix=".shipped.", dir=SHIPPED.parent) as folder:
        beside = Path(folder)  # what is there stays until all of the new one is
        save_bundle(beside, bundle.model, encoders, bundle.decision, bundle.about, dtype=torch.float16)
        size = sum(path.stat().st_size for path in beside.iterdir())
        if size > LIMIT:
            raise UserError(f"{size / 1e6:.1f} MB is more than the {LIMIT / 1e6:.0f} MB that a shipped model may have")
        write_text(beside / "README.md", _card(recipe, bundle, kept, size, origin, refit))
        for path in beside.iterdir():
            path.replace(SHIPPED / path.name)
    print(f"{SHIPPED}: {size / 1e6:.2f} MB")


def _card(recipe: Recipe, bundle: Bundle, kept: dict[str, Any], size: int, origin: str, refit: str) -> str:
    """The README.md of the model."""
    errors = {
        name: m["emotion"]["calibration_error"]
        for name, m in kept["metrics"].items()
        if m.get("emotion", {}).get("calibration_error") is not None
    }
    band = bundle.about["sentiment_error_quantiles"]["all"]
    return CARD.format(
        **bundle.about,
        parameters=kept["parameters"],
        megabytes=size / 1e6,
        figures=figures_table(kept["metrics"]),
        band_low=band["low"],
        band_high=band["high"],
        band_n=band["n"],
        origin=origin,
        refit=refit,
        speakers="16 speakers" if recipe.refit else "14 speakers; two more for valid",
        anchored=_anchored(bundle.decision),
        calibration=", ".join(f"{name} {error:.3f}" for name, error in errors.items()) or "not measured",
    )


if __name__ == "__main__":
    run_script(main)
