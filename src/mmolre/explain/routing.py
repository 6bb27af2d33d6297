"""Which shared experts each task uses, and each emotion; how evenly; how far the two tasks' routers differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mmolre.data.batching import collate, likeness, sorted_buckets
from mmolre.errors import UserError
from mmolre.model.mmolre import MMoLRE
from mmolre.plotting import pyplot, save
from mmolre.schema import EMOTIONS, Utterance

Floats = NDArray[np.float64]


class Decisions(NamedTuple):
    """All that one router decided: the shared experts' shares of each utterance's gates, (n, N), rows summing to 1;
    its probabilities before the choice, (n, N); and which utterances these are, (n,)."""

    shares: Floats
    probabilities: Floats
    rows: NDArray[np.int64]


def decisions(
    model: MMoLRE, utterances: Sequence[Utterance], arrays: Sequence[Mapping[str, np.ndarray]], batch_size: int = 64
) -> dict[tuple[str, int, str], Decisions]:
    """(modality, block from 1, task) -> what that router decided; gates per token are averaged over the utterance.

    Raises:
        UserError: the model has no routers over several shared experts.
    """
    config = model.config
    experts = len(config.shared_ranks)
    if experts < 2 or config.routing == "uniform" or not config.blocks:
        raise UserError("this model has no routers that choose among shared experts: there is no routing to explain")
    device = next(model.parameters()).device
    found: dict[tuple[str, int, str], list[Decisions]] = {}
    for indices in sorted_buckets([likeness(present) for present in arrays], batch_size):
        batch = collate([utterances[i] for i in indices], [arrays[i] for i in indices]).to(device)
        with torch.inference_mode():
            routing = model(batch.features, batch.masks).routing
        for place in routing:
            values = [place.gates[..., :experts], place.probabilities[..., :experts]]
            if place.gates.ndim == 3:
                mask = place.mask[..., None]
                values = [(x * mask).sum(1) / mask.sum(1) for x in values]
            gates, probabilities = (x.cpu().double().numpy() for x in values)
            rows = np.asarray(indices)[place.rows.cpu().numpy()]
            shares = gates / gates.sum(1, keepdims=True)
            key = (place.modality, place.block + 1, place.task)
            found.setdefault(key, []).append(Decisions(shares, probabilities, rows))
    joined = {}
    for key, parts in found.items():
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows)
        shares = np.concatenate([part.shares for part in parts])
        probabilities = np.concatenate([part.probabilities for part in parts])
        joined[key] = Decisions(shares[order], probabilities[order], rows[order])
    return joined


def summarize(
    model: MMoLRE, utterances: Sequence[Utterance], found: Mapping[tuple[str, int, str], Decisions]
) -> dict[str, Any]:
    """The numbers behind the figure, JSON-able.

    Returns:
        ``ranks``, ``top_k``, ``utterances`` and ``places``: per modality and block

        - ``shares``: task -> N mean shares of the gates; ``kept``: task -> N shares of utterances that keep an expert;
        - ``of_emotions``: emotion -> ``n`` utterances labelled with it, and each task's mean shares there;
        - ``balance``: task -> entropy of the shared experts' mean probabilities over log N: 1 where they are all used
          alike, 0 where one is used alone;
        - ``difference`` (two tasks): ``divergence``, the mean over utterances of the Jensen-Shannon divergence of the
          tasks' shares in bits (0: the same, 1: nothing in common); ``divergence_of_means``, that of the mean shares;
          ``same_kept``, the mean share of one's kept experts that the other keeps too.
    """
    config = model.config
    places: dict[tuple[str, int], dict[str, Any]] = {}
    for (modality, block, task), made in found.items():
        place = places.setdefault(
            (modality, block),
            {"modality": modality, "block": block, "n": len(made.rows)}
            | {name: {} for name in ("shares", "kept", "of_emotions", "balance")},
        )
        place["shares"][task] = made.shares.mean(0).tolist()
        place["kept"][task] = (made.shares > 0).mean(0).tolist()
        among = made.probabilities.mean(0)
        # PLE's gates have the own expert among them, too.
        place["balance"][task] = _entropy(among / among.sum()) / np.log2(made.shares.shape[1])
        for e, emotion in enumerate(EMOTIONS):
            with_it = [i for i, row in enumerate(made.rows) if (utterances[row].emotions[e] or 0) > 0]
            if with_it:
                of = place["of_emotions"].setdefault(emotion, {"n": len(with_it), "shares": {}})
                of["shares"][task] = made.shares[with_it].mean(0).tolist()
    for (modality, block), place in places.items():
        if len(config.tasks) == 2:
            a, b = (found[modality, block, task].shares for task in config.tasks)
            kept = ((a > 0) & (b > 0)).sum(1) / (a > 0).sum(1)
            place["difference"] = {
                "divergence": float(jensen_shannon(a, b).mean()),
                "divergence_of_means": float(jensen_shannon(a.mean(0), b.mean(0))),
                "same_kept": float(kept.mean()),
            }
    return {
        "ranks": list(config.shared_ranks),
        "top_k": config.top_k,
        "utterances": len(utterances),
        "places": list(places.values()),
    }


def jensen_shannon(a: Floats, b: Floats) -> Floats:
    """Divergence of distributions along the last axis, in bits: 0 the same, 1 nothing in common."""
    return _entropy((a + b) / 2) - (_entropy(a) + _entropy(b)) / 2


def figure(path: Path, title: str, summary: Mapping[str, Any]) -> list[Path]:
    """A panel per modality and block: a line per task and emotion, a column per expert, its share in percent inside."""
    plt = pyplot()
    modalities = list(dict.fromkeys(place["modality"] for place in summary["places"]))
    blocks = max(place["block"] for place in summary["places"])
    ranks = summary["ranks"]
    heights = [len(_lines(next(p for p in summary["places"] if p["modality"] == m))) for m in modalities]
    drawn, axes = plt.subplots(
        len(modalities),
        blocks,
        figsize=(blocks * (2.2 + 0.42 * len(ranks)), 0.9 + sum(1.1 + 0.24 * height for height in heights)),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )
    for axis in axes.flat:
        axis.set_visible(False)
    for place in summary["places"]:
        axis = axes[modalities.index(place["modality"]), place["block"] - 1]
        axis.set_visible(True)
        lines = _lines(place)
        values = 100 * np.array([shares for _, shares in lines])
        axis.imshow(values, cmap="cividis_r", aspect="auto", vmin=0)
        for (i, j), value in np.ndenumerate(values):
            dark = value > values.max() / 2
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
        axis.axhline(len(place["shares"]) - 0.5, color="white", linewidth=3)
        axis.set_yticks(range(len(lines)), [name for name, _ in lines], fontsize=8)
        axis.set_xticks(range(len(ranks)), [f"{n}\nr {rank}" for n, rank in enumerate(ranks, 1)], fontsize=7)
        told = [f"{place['modality']}, block {place['block']}"]
        if "difference" in place:
            told.append(f"the tasks differ by {place['difference']['divergence']:.2f} bits")
        told.append("evenness " + ", ".join(f"{task} {value:.2f}" for task, value in place["balance"].items()))
        axis.set_title("\n".join(told), fontsize=9)
    drawn.suptitle(
        f"{title}: share of each shared expert in a router's gates, %, {summary['utterances']:,} utterances\n"
        "difference: 0 the same, 1 bit nothing in common; evenness: 1 all experts alike",
        fontsize=10,
    )
    return save(drawn, path)


def _lines(place: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    """Both tasks' lines, then the emotion router's (or the one there is) where each emotion is present."""
    task = "emotion" if "emotion" in place["shares"] else next(iter(place["shares"]))
    lines = [(f"{name}: all", shares) for name, shares in place["shares"].items()]
    return lines + [(f"{task}: {name}", of["shares"][task]) for name, of in place["of_emotions"].items()]


def _entropy(p: Floats) -> Floats:
    return -np.where(p > 0, p * np.log2(np.where(p > 0, p, 1)), 0).sum(-1)
