"""How fast the folded expert bank is, against one expert after another and against full-rank experts.

    python benchmarks/experts.py --json

Timings are medians over interleaved repeats in one run, so that a noisy machine troubles all sides alike; each turn
begins with a call that is not timed, so that all have their data in the caches. Everything is float32; the bank is that
of one modality in one block, gates per utterance.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmolre.model.experts import LowRankExperts
from mmolre.model.neighbours import KERNEL, Neighbours

BATCH, TIME, WIDTH = 16, 64, 384
RANKS = (16, 32, 48, 64, 80, 96, 112, 128)
TOTAL_RANK = sum(RANKS)
GEMM = 2048
IN_A_ROW = 3


class LoopedExperts(nn.Module):
    """N experts as anybody would write them first: two nn.Conv1d each, one expert after another."""

    def __init__(self, width: int, ranks: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Conv1d(width, rank, KERNEL, padding=1) for rank in ranks)
        self.second = nn.ModuleList(nn.Conv1d(rank, width, 1) for rank in ranks)

    def forward(self, x_btd: Tensor, gates_bn: Tensor) -> Tensor:
        x_bdt = x_btd.transpose(1, 2)
        total = torch.zeros_like(x_bdt)
        for n, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            total = total + gates_bn[:, n, None, None] * second(F.gelu(first(x_bdt)))
        return total.transpose(1, 2)


def two_tasks(bank: LowRankExperts, x_btd: Tensor, gates_kbn: Tensor) -> Tensor:
    """The bank as the first block uses it: the hidden columns once, combined for each task."""
    return bank.folded(Neighbours(x_btd[None]), gates_kbn)


def forward_backward(run: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Callable[[], None]:
    """One training step without the optimizer: forward, backward into ``parameters``."""

    def step() -> None:
        for p in parameters:
            p.grad = None
        run().sum().backward()

    return step


def medians(runs: dict[str, Callable[[], object]], repeats: int, warm_up: int = 3) -> dict[str, float]:
    """Median seconds of each, the runs taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats + warm_up):
        for name, run in runs.items():
            run()  # not timed: what ran before has filled the caches with its own data
            for _ in range(IN_A_ROW):
                start = time.perf_counter()
                run()
                if i >= warm_up:
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def bank_flops(total_rank: int, tasks: int = 1) -> float:
    """Multiplications and additions of the two products of a bank."""
    positions = BATCH * TIME
    return 2.0 * positions * (KERNEL * WIDTH * total_rank + tasks * total_rank * WIDTH)


def measure(repeats: int) -> dict[str, float]:
    """All figures; see the keys."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, TIME, WIDTH, requires_grad=True)
    gates = torch.rand(BATCH, len(RANKS)).softmax(-1)
    gates_two = torch.rand(2, BATCH, len(RANKS)).softmax(-1)
    folded = LowRankExperts(WIDTH, RANKS)
    loop = LoopedExperts(WIDTH, RANKS)
    full_rank = LoopedExperts(WIDTH, [WIDTH] * len(RANKS))
    few, many = LowRankExperts(WIDTH, [TOTAL_RANK // 4] * 4), LowRankExperts(WIDTH, [TOTAL_RANK // 64] * 64)
    gates_few, gates_many = torch.rand(BATCH, 4).softmax(-1), torch.rand(BATCH, 64).softmax(-1)

    train = medians(
        {
            "folded": forward_backward(lambda: folded(x, gates), [x, *folded.parameters()]),
            "loop": forward_backward(lambda: loop(x, gates), [x, *loop.parameters()]),
            "full_rank": forward_backward(lambda: full_rank(x, gates), [x, *full_rank.parameters()]),
            "few": forward_backward(lambda: few(x, gates_few), [x, *few.parameters()]),
            "many": forward_backward(lambda: many(x, gates_many), [x, *many.parameters()]),
        },
        repeats,
    )
    a, b = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM)
    with torch.inference_mode():
        forward = medians(
            {
                "gemm": lambda: a @ b,
                "folded": lambda: folded(x, gates),
                "folded_two_tasks": lambda: two_tasks(folded, x, gates_two),
                "loop": lambda: loop(x, gates),
            },
            3 * repeats,
        )
    rate = 2.0 * GEMM**3 / forward["gemm"]
    return {
        "speedup_vs_loop": train["loop"] / train["folded"],
        "speedup_vs_full_rank": train["full_rank"] / train["folded"],
        "fraction_of_gemm": bank_flops(TOTAL_RANK) / forward["folded"] / rate,
        "fraction_of_gemm_two_tasks": bank_flops(TOTAL_RANK, 2) / forward["folded_two_tasks"] / rate,
        "cost_64_over_4": train["many"] / train["few"],
        "forward_speedup_vs_loop": forward["loop"] / forward["folded"],
        "gemm_gflops": rate / 1e9,
        "folded_forward_ms": 1e3 * forward["folded"],
        "folded_forward_backward_ms": 1e3 * train["folded"],
        "loop_forward_backward_ms": 1e3 * train["loop"],
        "full_rank_forward_backward_ms": 1e3 * train["full_rank"],
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    figures = measure(options.repeats)
    if options.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
        return
    print(f"B {BATCH}, T {TIME}, d {WIDTH}, ranks {RANKS}, float32")
    for name, value in figures.items():
        print(f"{name:32} {value:10.3f}")


if __name__ == "__main__":
    main()
