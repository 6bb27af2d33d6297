"""From where on gathering the kept experts' columns beats computing all columns and masking.

    python benchmarks/gather.py            # the crossing that GATHER_SAVES and GATHER_COPIES in model/experts.py state
    python benchmarks/gather.py --device cuda

Both ways of one bank, in turns, medians; the second block of UniTSE (each task reads its own) and the first (all read
the same, so that masking computes the hidden columns once). ``saved`` is the factor of multiplications that gathering
saves; where the ratio of the times passes 1 is the crossing.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mmolre.model.experts import LowRankExperts
from mmolre.model.neighbours import KERNEL, Neighbours

WIDTH, TASKS = 384, 2


def synchronise(device: str) -> None:
    """Wait for a GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: str) -> float:
    """Of one call; on a CPU those of this process alone, so that other work on the machine counts little."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    run()
    synchronise(device)
    return clock() - start


def measure(
    experts: int, rank: int, kept: int, batch: int, steps: int, sources: int, repeats: int, device: str
) -> dict[str, float]:
    """Milliseconds of both ways, forward alone and forward + backward, and the factor that is saved."""
    bank = LowRankExperts(WIDTH, [rank] * experts).to(device)
    x = torch.randn(sources, batch, steps, WIDTH, device=device, requires_grad=True)
    gates = torch.rand(TASKS, batch, experts, device=device).softmax(-1)
    values, chosen = gates.topk(kept, dim=-1)
    gates = torch.zeros_like(gates).scatter(-1, chosen, values)

    ways: dict[str, Callable[[], Tensor]] = {
        "all": lambda: bank.folded(Neighbours(x), gates),
        "gathered": lambda: bank.gathered(Neighbours(x), gates, kept),
    }
    times: dict[str, list[float]] = {}
    for i in range(repeats + 2):
        for name, way in ways.items():
            with torch.no_grad():
                forward = seconds(way, device)
            bank.zero_grad()
            x.grad = None
            both = seconds(lambda way=way: way().sum().backward(), device)
            if i > 1:
                times.setdefault(f"{name}, forward", []).append(1e3 * forward)
                times.setdefault(f"{name}, forward + backward", []).append(1e3 * both)
    saved = (sources * KERNEL + TASKS) * experts / (TASKS * (KERNEL + 1) * kept)
    return {"saved": saved} | {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    print("sources  N   rank k   B   T   saved  all/gathered: forward, forward + backward")
    for sources in (2, 1):
        for experts, rank, kept in ((8, 32, 6), (8, 32, 4), (9, 32, 3), (8, 32, 2), (16, 32, 2), (64, 32, 2)):
            for batch, steps in ((32, 8), (32, 32), (32, 96), (1, 32)):
                got = measure(experts, rank, kept, batch, steps, sources, options.repeats, options.device)
                ratios = [got[f"all, {w}"] / got[f"gathered, {w}"] for w in ("forward", "forward + backward")]
                print(
                    f"{sources:>7} {experts:>3} {rank:>5} {kept:>2} {batch:>4} {steps:>3} {got['saved']:>6.2f}  "
                    f"{ratios[0]:>20.2f} {ratios[1]:>18.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
