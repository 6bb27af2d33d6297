"""How well are acted voices of unseen speakers read? A recipe in 4 folds by speaker.

    python benchmarks/voice_folds.py recipes/ravdess.yaml --folds-of RAVDESS/manifest.csv --out DIR

The speakers of train and valid are dealt out to four folds, in the order of their names; those of test are left alone,
so that what is chosen here has not seen them. In each fold the recipe is trained without the fold's speakers, two of
the next fold's being valid, and reads the fold's utterances from the voice alone. ``--data`` adds manifests that are
trained on in every fold. A finished fold is not trained again. The last line is one JSON object.

``predictions.jsonl`` in ``--out`` is what was said of each utterance by the model that had not heard its speaker, the
probabilities of the emotions: what a stranger hears. A recipe can learn from it, as ``teachers``.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from folds import FOLDS, arguments, recipe_of, trained

from mmolre.data.cache import FeatureCache
from mmolre.data.manifest import read_manifest
from mmolre.encoders.weights import home
from mmolre.evaluate.run import evaluate
from mmolre.files import write_text
from mmolre.schema import EMOTIONS, Utterance

VALID_SPEAKERS = 2
DIGITS = 4
METRICS = ("top_accuracy", "auc_mean", "ap_mean", "wa_mean", "macro_f1")


def assign_splits(utterances: Sequence[Utterance], fold: int) -> list[Utterance]:
    """The utterances of train and valid, with the splits of a fold, whose own speakers are ``test``."""
    kept = [u for u in utterances if u.split in ("train", "valid") and u.speaker is not None]
    speakers = sorted({str(u.speaker) for u in kept})
    split = dict.fromkeys(speakers, "train")
    split |= dict.fromkeys(speakers[(fold + 1) % FOLDS :: FOLDS][:VALID_SPEAKERS], "valid")
    split |= dict.fromkeys(speakers[fold::FOLDS], "test")
    return [replace(u, split=split[str(u.speaker)]) for u in kept]


def main() -> None:
    parser = arguments(__doc__, "speakers")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)), help="only these, from 0")
    options = parser.parse_args()
    recipe = recipe_of(options)
    utterances = read_manifest(options.folds_of)
    folder = next(u.audio for u in utterances if u.audio is not None).parent
    cache = FeatureCache(home() / "features")
    found = []
    said: list[str] = []
    for fold in options.folds:
        manifest = options.out / f"fold-{fold}" / "manifest.jsonl"
        bundle = trained(recipe, manifest, assign_splits(utterances, fold), folder, options.data, cache)
        scored = evaluate(bundle, [manifest], "test", modalities=["audio"], cache=cache)
        found.append({key: scored.metrics["emotion"][key] for key in METRICS})
        for utterance, probabilities in zip(scored.utterances, scored.emotions.tolist(), strict=True):
            emotions = {name: round(p, DIGITS) for name, p in zip(EMOTIONS, probabilities, strict=True)}
            said.append(json.dumps({"id": utterance.id, "emotions": emotions}) + "\n")
        print(manifest.parent.name, {key: round(value, 3) for key, value in found[-1].items()}, flush=True)
    write_text(options.out / "predictions.jsonl", "".join(said))
    means = {key: float(np.mean([fold[key] for fold in found])) for key in METRICS}
    print(json.dumps({"recipe": recipe.name, "seed": recipe.seed, "folds": options.folds} | means | {"each": found}))


if __name__ == "__main__":
    main()
