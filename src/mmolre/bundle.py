"""A model with all that prediction needs: which encoders feed it, and how its logits are read.

A bundle is a folder: ``config.json`` and ``model.safetensors`` (the model), ``pipeline.json`` (encoders, calibration,
thresholds, and what it was trained on). No pickle anywhere.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmolre.data.dataset import Source
from mmolre.data.readymade import SOURCE, ReadyMade
from mmolre.encoders import from_spec
from mmolre.encoders.base import Encoder
from mmolre.encoders.weights import SOURCES, holds, sha256
from mmolre.errors import UserError
from mmolre.evaluate.decision import Decision
from mmolre.files import write_text
from mmolre.model.mmolre import CONFIG_FILE, WEIGHTS_FILE, MMoLRE, resolve
from mmolre.model.upper import Upper

PIPELINE_FILE = "pipeline.json"
MODEL_FOLDER = "model"
SHIPPED = Path(__file__).parent / "shipped"
"""The folder of the model that comes with the package, which ``shipped`` names, too."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model, its encoders (or ready-made features) by modality, its decision rules, and facts about its training.

    ``digest``: 64 hexadecimal digits, the same iff the files that it was read from are.
    """

    model: MMoLRE
    encoders: dict[str, Source]
    decision: Decision
    about: dict[str, Any]
    digest: str


def save_bundle(
    folder: Path,
    model: MMoLRE,
    encoders: Mapping[str, Source],
    decision: Decision,
    about: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a bundle; each file whole or not at all, the weights first."""
    model.save_pretrained(folder, dtype=dtype)
    content = {
        "encoders": {m: encoder.spec | {"fingerprint": encoder.fingerprint} for m, encoder in encoders.items()},
        "decision": decision.to_json(),
        "about": dict(about),
    }
    write_text(folder / PIPELINE_FILE, json.dumps(content, indent=2) + "\n")


def model_folder(name: Path | str) -> Path:
    """The folder with the model's files: ``name`` itself, its model if it is a run's folder, or a hub id's snapshot;
    ``shipped``: the one that comes with the package.

    Raises:
        UserError: no model there; a folder of one's own is called ``shipped``, and may be meant.
    """
    if name == SHIPPED.name:
        if Path(name).exists():
            raise UserError(f"{name} is the model that comes with the package, and a folder here: that is ./{name}")
        return SHIPPED
    folder = resolve(name)
    return folder / MODEL_FOLDER if (folder / MODEL_FOLDER / PIPELINE_FILE).exists() else folder


def check_device(device: str) -> None:
    """A :class:`UserError` where torch cannot compute on a device, e.g. ``cuda`` without a GPU."""
    try:
        torch.zeros(1, device=device).item()  # of a device that only plays one, nothing can be read
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"the device {device} cannot be used here: {str(error).splitlines()[0]}") from None


def load_bundle(
    name: Path | str | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
    device: str = "cpu",
    fold: bool = True,
) -> Bundle:
    """Load a bundle: the shipped one by default (or ``shipped``), a run's folder, a bundle's folder, or a hub id.

    Args:
        name: see above.
        overrides: modality -> folder or hub id that holds the very same encoder weights elsewhere.
        device: where torch runs the model and its encoders.
        fold: whether to fold low-rank adapters into their encoders (:meth:`mmolre.model.upper.Upper.fold`): faster, but
            the model cannot be saved again.

    Raises:
        UserError: no model there, a damaged file, encoder weights other than the model was trained with.
    """
    folder = model_folder(SHIPPED if name is None else name)
    path = folder / PIPELINE_FILE
    decision, about, specs = read_pipeline(folder)
    encoders: dict[str, Source] = {}
    expected: dict[str, str] = {}
    named: dict[str, Source] = {}
    with _undamaged(path):
        for modality, spec in specs.items():
            expected[modality] = spec.pop("fingerprint")
            encoders[modality] = _source(spec, device)
            if overrides and modality in overrides:
                named[modality] = encoders[modality]
                encoders[modality] = _source(spec | {"source": overrides[modality]}, device)
    for modality, encoder in encoders.items():
        if encoder.fingerprint != expected[modality] and not _is_role(encoder, named.get(modality), expected[modality]):
            raise UserError(
                f"the {modality} encoder {encoder.source!r} is not the one that the model in {folder} was trained with "
                "(its weights or tokenizer differ); name the right one"
            )
    model = MMoLRE.from_pretrained(folder)
    if set(model.config.modalities) != set(encoders):
        raise UserError(f"{path} does not fit the model beside it, which reads {' and '.join(model.config.modalities)}")
    for modality, encoder in encoders.items():
        expects = model.config.modalities[modality]
        layers = expects.layers if expects.adapted is None else len(expects.adapted.given)
        if encoder.n_layers != layers:
            raise UserError(
                f"{path} does not fit the model beside it, which takes {layers} layers of its {modality} encoder"
            )
    uppers: dict[str, Upper] = dict(model.uppers.items())  # type: ignore[arg-type]
    for modality, upper in uppers.items():
        if upper.needs_base:
            upper.base = encoders[modality].whole  # type: ignore[union-attr]
            if fold:
                upper.fold()
    return Bundle(model.to(device), encoders, decision, about, bundle_digest(folder))


def bundle_digest(name: Path | str | None = None) -> str:
    """What :attr:`Bundle.digest` will be; loads nothing. ``name`` as for :func:`load_bundle`.

    Raises:
        UserError: no model there.
    """
    folder = model_folder(SHIPPED if name is None else name)
    found = hashlib.sha256()
    for file in (CONFIG_FILE, WEIGHTS_FILE, PIPELINE_FILE):
        try:
            found.update(sha256(folder / file).encode())
        except OSError as error:
            raise UserError(f"{folder} holds no model: {file}: {error.strerror or error}") from None
    return found.hexdigest()


def read_pipeline(folder: Path) -> tuple[Decision, dict[str, Any], dict[str, Any]]:
    """A model's decision rules, the facts about its training and its encoders' specifications, without its weights.

    Raises:
        UserError: no model there, a damaged file.
    """
    path = folder / PIPELINE_FILE
    with _undamaged(path):
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{folder} holds no trained model: {PIPELINE_FILE} is missing") from None
        return Decision.from_json(content["decision"]), dict(content["about"]), dict(content["encoders"])


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__} {error}") from None


def _is_role(encoder: Source, named: Source | None, fingerprint: str) -> bool:
    """Whether ``encoder`` lies in a folder with all files of the role that the model names, and maybe others, such as a
    hub's snapshot has: those of a role alone are what its fingerprint is of."""
    role = SOURCES.get(getattr(named, "source", ""))
    if role is None or named is None or named.fingerprint != fingerprint or not isinstance(encoder, Encoder):
        return False
    return holds(encoder.folder, role)


def _source(spec: dict[str, Any], device: str) -> Source:
    if spec["source"] == SOURCE:
        return ReadyMade(spec["modality"], spec["stride"], spec["width"])
    return from_spec(spec, device)
