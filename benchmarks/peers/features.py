"""Make what both sides read: a manifest of ready-made features, and the same as one pickle in MMSA's layout.

    python benchmarks/peers/features.py MANIFEST FOLDER --audio audio45

Of the manifest's utterances that have text, sentiment and the features named: ``words``, the mean of MiniLM's last
three layers for each token, cut at ``--tokens``; ``acoustic``, the features named; and ``visual``, a single 0, since
MMSA's models will not do without (ours is not told of it). Without ``--audio``, ``acoustic`` is such a 0, too.
``FOLDER/manifest.csv`` is for us, ``FOLDER/mmsa.pkl`` for MMSA: there zeros stand before the words, since most of its
models read no lengths and take the last position of a recurrent network or of attention; with zeros after the words,
three of them learn nothing.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmolre.data.cache import FeatureCache
from mmolre.data.dataset import build_dataset
from mmolre.data.export import export_mmsa
from mmolre.data.feature_file import FeatureFile, write_feature_file
from mmolre.data.manifest import read_manifest
from mmolre.data.manifest_write import write_manifest
from mmolre.encoders.text import TextEncoder
from mmolre.encoders.weights import home
from mmolre.errors import UserError, run_script

LAYERS = (-1, -2, -3)


def make(
    manifest: Path, folder: Path, audio: str | None, tokens: int, most: int | None, encoder: str = "minilm"
) -> int:
    """Write everything; returns how many utterances there are.

    Args:
        audio: the name of features; none for words alone.
        most: of each split, the first so many; all by default.
    """
    rows = [u for u in read_manifest(manifest) if u.text is not None and u.sentiment is not None and u.split]
    if audio is None:
        heard = {}
    else:
        files = {u.id: u.features[audio] for u in rows if audio in u.features}
        opened = {path: FeatureFile(path) for path in set(files.values())}
        heard = {id_: values for id_, path in files.items() if (values := opened[path].get(id_)) is not None}
        rows = [u for u in rows if u.id in heard]
    by_split = {split: [u for u in rows if u.split == split][:most] for split in ("train", "valid", "test")}
    rows = [u for of_split in by_split.values() for u in of_split]
    if not all(by_split.values()):
        wanted = "text and sentiment" if audio is None else f"text, sentiment and the features {audio!r}"
        raise UserError(f"{manifest}: no utterance of some split has {wanted}")
    folder.mkdir(parents=True, exist_ok=True)
    dataset = build_dataset(rows, {"text": TextEncoder(encoder, LAYERS)}, FeatureCache(home() / "features"))
    encoded = zip(dataset.utterances, dataset.arrays, strict=True)
    words = ((u.id, x["text"][:tokens].astype(np.float32).mean(1)) for u, x in encoded)
    write_feature_file(folder / "words.safetensors", words)

    nothing = np.zeros((1, 1), np.float32)
    ids = [u.id for u in dataset.utterances]
    write_feature_file(folder / "acoustic.safetensors", ((id_, heard.get(id_, nothing)) for id_ in ids))
    write_feature_file(folder / "visual.safetensors", ((id_, nothing) for id_ in ids))
    features = {name: folder / f"{name}.safetensors" for name in ("words", "acoustic", "visual")}
    made = [replace(u, text=None, audio=None, features=features) for u in dataset.utterances]
    write_manifest(folder / "manifest.csv", made)
    return export_mmsa(folder / "manifest.csv", folder / "mmsa.pkl", padding="front")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--audio", help="name of utterance-level features in the manifest; without, words alone")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--most", type=int, help="utterances of each split")
    options = parser.parse_args()
    print(make(options.manifest, options.folder, options.audio, options.tokens, options.most), "utterances")


if __name__ == "__main__":
    run_script(main)
