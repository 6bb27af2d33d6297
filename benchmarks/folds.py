"""What benchmarks in folds share: their arguments, and a model trained without what the fold holds out."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmolre.bundle import MODEL_FOLDER, Bundle, load_bundle
from mmolre.data.cache import FeatureCache
from mmolre.data.manifest import write_manifest
from mmolre.schema import Utterance
from mmolre.train.recipe import Recipe, load_recipe
from mmolre.train.run import Callbacks, train

FOLDS = 4


def arguments(description: str | None, folded: str) -> argparse.ArgumentParser:
    """What all of them take; ``folded``: what is folded of the manifest, for people."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--folds-of", type=Path, required=True, help=f"manifest whose {folded} are folded")
    parser.add_argument("--data", type=Path, action="append", default=[], help="further training manifests")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe")
    return parser


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe, with what ``--set`` changes of it."""
    return load_recipe(options.recipe, dict(item.split("=", 1) for item in options.set))


def trained(
    recipe: Recipe,
    manifest: Path,
    rows: Sequence[Utterance],
    audio_root: Path,
    data: Sequence[Path],
    cache: FeatureCache,
) -> Bundle:
    """Write the fold's rows to ``manifest`` and train on them and ``data``, in its folder, if that is not done yet."""
    write_manifest(manifest, rows, audio_root=audio_root)
    out = manifest.parent

    def said(line: dict) -> None:
        print(out.name, line.get("epoch"), line.get("score"), flush=True)

    train(recipe, [manifest, *data], out, cache=cache, callbacks=Callbacks(log_line=said))
    return load_bundle(out / MODEL_FOLDER)
