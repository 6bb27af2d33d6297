"""Which words and which seconds drove each score of one utterance, and what each modality added to it.

Integrated gradients (Sundararajan et al., ICML 2017; captum's), through the encoders, from an input that says nothing:
padding for words, silence for sound. The parts of a score add up to what it differs from the score of that nothing.
Sentiment is in its own units; emotions are in logits, as the model's decision reads them. On the way each router keeps
the experts that it keeps for the utterance itself: a choice that jumps has no gradient that could tell of the jump.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmolre.bundle import Bundle
from mmolre.errors import UserError
from mmolre.evaluate.calibration import Calibration
from mmolre.evaluate.thresholds import modality_key
from mmolre.explain.inputs import leaf
from mmolre.model.router import Gates, TopKRouter
from mmolre.plotting import pyplot, save
from mmolre.schema import EMOTIONS, Utterance

STEPS, MOST_STEPS = 32, 256
"""Of the integration: doubled as long as more than :data:`REST` is left unexplained of a score."""
REST = 0.05
BATCH = 16
_COLUMNS = 14


def score_names(bundle: Bundle) -> list[str]:
    """``sentiment`` and the six emotions, as far as the model has the tasks."""
    tasks = bundle.model.config.tasks
    return [*(["sentiment"] if "sentiment" in tasks else []), *(EMOTIONS if "emotion" in tasks else [])]


def scores(bundle: Bundle, features: Mapping[str, Tensor]) -> Tensor:
    """(B, scores) of :func:`score_names`, differentiable, as the model's decision reads it; emotions are logits.

    Args:
        features: modality -> (B, T, L, width) without padding.
    """
    masks = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in features.items()}
    found = bundle.model(dict(features), masks).tasks
    decision, key = bundle.decision, modality_key(tuple(features))
    alone: dict[str, dict[str, Tensor]] = {}
    if len(features) > 1 and decision.needs_each_alone:
        alone = {m: bundle.model({m: x}, {m: masks[m]}).tasks for m, x in features.items()}
    columns = []
    if "sentiment" in found:
        sentiment = found["sentiment"]
        if key in decision.anchors:
            anchor = decision.anchors[key]
            base = alone[anchor.modality]["sentiment"]
            sentiment = base + anchor.weight * (sentiment - base)
        columns.append(sentiment[:, None])
    if "emotion" in found:
        own = {m: x["emotion"] for m, x in alone.items()} if alone and decision.late else {key: found["emotion"]}
        columns.append(torch.stack([_calibrated(bundle, k, logits) for k, logits in own.items()]).mean(0))
    return torch.cat(columns, dim=1)


def explain(bundle: Bundle, utterance: Utterance, steps: int = STEPS) -> dict[str, Any]:
    """Take one utterance's scores apart.

    Returns:
        - ``id``, ``text``, ``modalities``;
        - ``scores``: name -> ``value`` (sentiment, or probability), ``raw`` (sentiment, or logit), ``nothing`` (``raw``
          of the baselines), ``unexplained``: ``raw - nothing`` less the sum of all attributions, the error of the
          integration in so many ``steps``;
        - ``parts``: modality -> ``places`` and ``attributions``: name -> one number each;
        - with several modalities ``alone`` and ``added``: modality -> name -> the value from it alone, and how much the
          value is higher than without it;
        - ``weights``: task -> modality -> weight in the fusion.

    Raises:
        UserError: nothing in the utterance that the model reads; captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise UserError("attributions need captum: pip install 'mmolre[explain]'") from None
    leaves = {m: x for m, source in bundle.encoders.items() if (x := leaf(source, utterance, bundle.model))}
    if not leaves:
        raise UserError(f"{utterance.id}: it has no {' or '.join(bundle.encoders)}, which is what the model reads")
    names = score_names(bundle)

    def forward(*values: Tensor) -> Tensor:
        pairs = zip(leaves.items(), values, strict=True)
        return scores(bundle, {m: of.features(value) for (m, of), value in pairs})

    own, nothing = tuple(x.value for x in leaves.values()), tuple(x.baseline for x in leaves.values())
    with torch.no_grad():
        features = {m: of.features(of.value) for m, of in leaves.items()}
        masks = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in features.items()}
        weights = bundle.model(features, masks).modality_weights
        less = {
            m: scores(bundle, {o: x for o, x in features.items() if o != m})[0] for m in features if len(leaves) > 1
        }
        alone = {m: scores(bundle, {m: features[m]})[0] for m in less}
    parts: dict[str, dict[str, Any]] = {m: {"places": of.places, "attributions": {}} for m, of in leaves.items()}
    told: dict[str, dict[str, float]] = {}
    with choices_of(bundle.model):
        with torch.no_grad():
            raw, base = forward(*own)[0], forward(*nothing)[0]
        for i, name in enumerate(names):
            method, change, count = IntegratedGradients(forward), float(raw[i] - base[i]), steps
            while True:
                given = method.attribute(own, nothing, target=i, n_steps=count, internal_batch_size=BATCH)
                rest = change - sum(float(x.detach().double().sum()) for x in given)
                if abs(rest) <= REST * max(1.0, abs(change)) or 2 * count > MOST_STEPS:
                    break
                count *= 2
            for (m, of), attributions in zip(leaves.items(), given, strict=True):
                parts[m]["attributions"][name] = of.by_place(attributions.detach())
            told[name] = {
                "value": _value(name, raw[i]),
                "raw": float(raw[i]),
                "nothing": float(base[i]),
                "unexplained": rest,
                "steps": count,
            }
    known = list(bundle.model.config.modalities)
    result: dict[str, Any] = {
        "id": utterance.id,
        "text": utterance.text,
        "modalities": list(leaves),
        "scores": told,
        "parts": parts,
        "weights": {task: {m: float(w[0, known.index(m)]) for m in leaves} for task, w in weights.items()},
    }
    if less:
        result["alone"] = {m: {n: _value(n, x[i]) for i, n in enumerate(names)} for m, x in alone.items()}
        result["added"] = {
            m: {n: told[n]["value"] - _value(n, x[i]) for i, n in enumerate(names)} for m, x in less.items()
        }
    return result


@contextmanager
def choices_of(model: torch.nn.Module) -> Iterator[None]:
    """Within, routers keep the experts that they keep for the first row of what they are first given."""
    kept: dict[torch.nn.Module, Tensor] = {}

    def hold(router: torch.nn.Module, _: Any, gates: Gates) -> Gates:
        chosen = kept.setdefault(router, gates.weights[0] > 0)
        weights = torch.where(chosen, gates.probabilities, 0.0)
        if router.renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return Gates(weights, gates.probabilities)

    hooks = [m.register_forward_hook(hold) for m in model.modules() if isinstance(m, TopKRouter)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def figure(path: Path, content: Mapping[str, Any]) -> list[Path]:
    """A line per score, a column per word or quarter of a second; with several modalities, what each added."""
    plt = pyplot()
    names = list(content["scores"])
    strips: list[tuple[str, list[str], np.ndarray]] = []
    for modality, part in content["parts"].items():
        values = np.array([part["attributions"][name] for name in names])
        for start in range(0, len(part["places"]), _COLUMNS):
            title = (
                f"{modality}: {values.sum(1)[0]:+.2f} of {names[0]} in all" if not start else f"{modality}, going on"
            )
            strips.append((title, part["places"][start : start + _COLUMNS], values[:, start : start + _COLUMNS]))
    strongest = np.max([np.abs(values).max(1) for _, _, values in strips], axis=0)
    last = "added" in content
    drawn, axes = plt.subplots(
        len(strips) + last, 1, figsize=(2.2 + 0.62 * _COLUMNS, 0.7 + 2.5 * (len(strips) + last)), squeeze=False
    )
    for axis, (title, places, values) in zip(axes.flat, strips, strict=False):
        _cells(axis, values, values / np.where(strongest, strongest, 1)[:, None], "{:+.2f}")
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_xticks(range(len(places)), places, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
        axis.set_xlim(-0.5, _COLUMNS - 0.5)
    if last:
        axis, modalities = axes[-1, 0], list(content["added"])
        values = np.array([[content["added"][m][name] for m in modalities] for name in names])
        largest = np.abs(values).max(1, keepdims=True)
        _cells(axis, values, values / np.where(largest, largest, 1), "{:+.2f}")
        axis.set_title("what each modality added: the score less the score without it", fontsize=9, loc="left")
        axis.set_xticks(range(len(modalities)), modalities, fontsize=8)
        axis.set_xlim(-0.5, _COLUMNS - 0.5)
    shown = [_shown(name, content["scores"][name]) for name in names]
    for axis in axes.flat:
        axis.set_yticks(range(len(names)), shown, fontsize=8)
        for side in ("top", "right", "bottom", "left"):
            axis.spines[side].set_visible(False)
    drawn.suptitle(
        f"{content['id']}: what drove each score. Blue raises it, red lowers it, as far as the strongest of its line;\n"
        "sentiment in its units, emotions in logits",
        fontsize=10,
    )
    return save(drawn, path)


def _cells(axis: Any, values: np.ndarray, relative: np.ndarray, form: str) -> None:
    axis.imshow(relative, cmap="RdBu", vmin=-1.2, vmax=1.2, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if abs(relative[i, j]) > 0.7 else "black"
        axis.text(j, i, form.format(value), ha="center", va="center", fontsize=6, color=colour)


def _shown(name: str, score: Mapping[str, float]) -> str:
    value = f"{score['value']:+.2f}" if name == "sentiment" else f"{100 * score['value']:.0f} %"
    left = score["unexplained"]
    loud = abs(left) > REST * max(1.0, abs(score["raw"] - score["nothing"]))
    return f"{name} {value}" + (f"\n({left:+.2f} unexplained)" if loud else "")


def _value(name: str, raw: Tensor) -> float:
    return float(raw if name == "sentiment" else raw.double().sigmoid())


def _calibrated(bundle: Bundle, key: str, logits: Tensor) -> Tensor:
    calibration = bundle.decision.calibration.get(key, Calibration())
    own = logits * logits.new_tensor(calibration.scale) + logits.new_tensor(calibration.bias)
    if not calibration.exclusive:
        return own
    seven = torch.cat([own, own.new_zeros(*own.shape[:-1], 1)], dim=-1)
    itself = torch.eye(own.shape[-1], seven.shape[-1], dtype=torch.bool, device=own.device)
    return own - seven[..., None, :].masked_fill(itself, -torch.inf).logsumexp(-1)
