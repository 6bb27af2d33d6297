"""What shared experts cost as they become many: low rank against full rank, N = 2 to 64.

    export OMP_NUM_THREADS=1
    python benchmarks/efficiency.py --out results/experiments/efficiency.json --figure docs/figures/efficiency
    python benchmarks/efficiency.py --out runs/efficiency-cuda.json --device cuda --batch 64

Of the middle of one modality (two UniTSE blocks, d = 384, k = 4, two tasks): parameters; FLOPs of a forward pass of one
utterance; CPU time and memory of a training step (forward, backward, AdamW) of ``--batch`` utterances of 32 time steps.
And of one bank of low-rank experts: the time of computing all of them and masking, over that of gathering the kept.

Times are of this process on one thread (CPU seconds), medians over turns in which every N and both ranks are timed one
after another, so that other work on the machine troubles all alike: read their ratios. Memory is how far a process of
its own grew above what it held before the model was made. On a GPU times are of the clock on the wall, and memory is
the most that torch held.
"""

import argparse
import json
import os
import platform
import resource
import statistics
from pathlib import Path
from typing import Any

import torch
from gather import measure as measure_gathering
from gather import seconds, synchronise
from torch.utils.flop_counter import FlopCounterMode

from mmolre.files import write_text
from mmolre.model.config import ModalityConfig, ModelConfig
from mmolre.model.unitse import UniTSE
from mmolre.plotting import HIGHLIGHT, PLAIN, pyplot, save

WIDTH, RANK, OWN_RANK, KEPT, TIME_STEPS = 384, 32, 64, 4, 32
EXPERTS = (2, 4, 8, 16, 32, 64)
KINDS = {"low": f"low rank, r = {RANK}", "full": f"full rank, r = {WIDTH}"}


def config(kind: str, experts: int, width: int = WIDTH) -> ModelConfig:
    """The shape of one cell."""
    rank, own = (RANK, OWN_RANK) if kind == "low" else (width, width)
    return ModelConfig(
        modalities={"text": ModalityConfig(width=width)},
        width=width,
        shared_ranks=(rank,) * experts,
        specific_rank=own,
        top_k=min(KEPT, experts),
        dropout=0.0,
    )


class Step:
    """A training step of one cell."""

    def __init__(self, shape: ModelConfig, batch: int, device: str = "cpu") -> None:
        self.module = UniTSE(shape).to(device)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-4)
        self.x = torch.randn(batch, TIME_STEPS, shape.width, device=device)
        self.mask = torch.ones(batch, TIME_STEPS, dtype=torch.bool, device=device)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        features, _, balance = self.module(self.x, self.mask)
        (features.square().mean() + balance).backward()
        self.optimizer.step()

    def flops(self) -> int:
        """Of a forward pass of one utterance."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.module(self.x[:1], self.mask[:1])
        return counter.get_total_flops()


def memory(shape: ModelConfig, batch: int, device: str = "cpu") -> int:
    """Bytes by which a process grows that makes the cell and does two steps; on a GPU those that torch holds for it."""
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step = Step(shape, batch, device)
        step()
        step()
        return torch.cuda.max_memory_allocated() - before
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step = Step(shape, batch)
        step()
        step()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writer, str(grown * 1024).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return int(said)


def measure(
    experts: tuple[int, ...], batch: int, repeats: int, width: int = WIDTH, device: str = "cpu"
) -> dict[str, Any]:
    """Kind -> one value per N of ``parameters``, ``flops``, ``step_ms`` and ``memory_bytes``."""
    shapes = {(kind, n): config(kind, n, width) for kind in KINDS for n in experts}
    used = {key: memory(shape, batch, device) for key, shape in shapes.items()}  # first: nothing is used again
    facts: dict[tuple[str, int], tuple[int, int]] = {}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in shapes}
    for turn in range(repeats):
        for key, shape in shapes.items():
            step = Step(shape, batch, device)
            facts[key] = sum(p.numel() for p in step.module.parameters()), step.flops()
            if not turn:
                step()
            step()  # optimizer state is made in the first
            synchronise(device)
            times[key].append(1e3 * seconds(step, device))
    return {
        kind: {
            "parameters": [facts[kind, n][0] for n in experts],
            "flops": [facts[kind, n][1] for n in experts],
            "step_ms": [round(statistics.median(times[kind, n]), 2) for n in experts],
            "memory_bytes": [used[kind, n] for n in experts],
        }
        for kind in KINDS
    }


def gathering(experts: tuple[int, ...], batch: int, repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """k -> for each N >= k the time of computing all and masking over that of gathering, forward + backward."""
    found: dict[str, list[float]] = {}
    for kept in (1, 2, KEPT):
        for n in (n for n in experts if n >= kept):
            times = measure_gathering(n, RANK, kept, batch, TIME_STEPS, 2, repeats, device)
            ratio = times["all, forward + backward"] / times["gathered, forward + backward"]
            found.setdefault(str(kept), []).append(round(ratio, 3))
    return found


def figure(path: Path, content: dict[str, Any]) -> list[Path]:
    """A panel per quantity against N, and one with the crossing."""
    plt = pyplot()
    experts = content["experts"]
    drawn, axes = plt.subplots(1, 5, figsize=(15, 3.4))
    panels = {
        "parameters": ("parameters, millions", 1e-6),
        "flops": ("forward, MFLOPs per utterance", 1e-6),
        "step_ms": ("training step, CPU ms", 1.0),
        "memory_bytes": ("training step, MB of memory", 1e-6),
    }
    for axis, (key, (title, scale)) in zip(axes, panels.items(), strict=False):
        for kind, colour in (("full", PLAIN), ("low", HIGHLIGHT)):
            values = [scale * v for v in content["cells"][kind][key]]
            axis.plot(experts, values, "o-", color=colour, markersize=4)
            axis.annotate(
                KINDS[kind], (experts[0], values[0]), (-2, -14), textcoords="offset points", color=colour, fontsize=8
            )
        axis.set_yscale("log")
        axis.margins(y=0.22)
        axis.set_title(title, fontsize=9)
    axis = axes[-1]
    axis.axhline(1, color="black", linewidth=0.8)
    for kept, ratios in content["gathering"].items():
        of = experts[len(experts) - len(ratios) :]
        axis.plot(of, ratios, "o-", color=HIGHLIGHT, markersize=4, alpha=0.4 + 0.15 * int(kept))
        place = (of[-1], ratios[-1])
        axis.annotate(f"k = {kept}", place, (5, -3), textcoords="offset points", fontsize=8, color=HIGHLIGHT)
    axis.set_yscale("log")
    axis.set_yticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    axis.minorticks_off()
    axis.set_title("computing all ÷ gathering the kept, time\n(above 1 gathering wins)", fontsize=9)
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(experts, [str(n) for n in experts])
        axis.set_xlabel("shared experts N", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlim(right=2 * experts[-1])
    drawn.suptitle(
        "The middle of one modality, two blocks, d = 384, k = 4; where N is large, only the kept experts are computed",
        fontsize=10,
    )
    return save(drawn, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path, help="path without an ending")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--draw", action="store_true", help="only draw what --out holds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.draw:
        device = "cpu" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
        content = {
            "experts": list(EXPERTS), "width": WIDTH, "ranks": {"low": RANK, "full": WIDTH}, "kept": KEPT,
            "time_steps": TIME_STEPS, "batch": options.batch, "repeats": options.repeats,
            "versions": {"torch": torch.__version__, "machine": platform.machine(), "threads": "1", "device": device},
            "cells": measure(EXPERTS, options.batch, options.repeats, device=options.device),
            "gathering": gathering(EXPERTS, options.batch, options.repeats, options.device),
        }  # fmt: skip
        write_text(options.out, json.dumps(content, indent=1) + "\n")
    if options.figure:
        figure(options.figure, json.loads(options.out.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
