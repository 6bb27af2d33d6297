"""From how many positions on tiles (Winograd) beat windows for an expert bank's convolutions.

    python benchmarks/tiles.py

Of one bank, forward and backward, float32, one thread; each line's sides are timed in turns, so that a noisy machine
troubles both alike. ``mmolre.model.neighbours.TILES_FROM`` is where the last column passes 1.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmolre.model.neighbours import KERNEL, Neighbours

REPEATS = 15


def measure(positions: int, width: int, columns: int) -> dict[str, float]:
    """Median milliseconds of both ways."""
    x = torch.randn(1, positions, width, requires_grad=True)
    weight, bias = nn.Parameter(torch.randn(columns, KERNEL * width)), nn.Parameter(torch.randn(columns))
    ways: dict[str, Callable[[], Tensor]] = {
        "windows": lambda: F.linear(Neighbours(x).windows, weight, bias),
        "tiles": lambda: Neighbours(x).convolve_tiles(weight, bias),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(REPEATS + 2):
        for name, way in ways.items():
            way().sum().backward()
            start = time.perf_counter()
            way().sum().backward()
            if i > 1:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    torch.set_num_threads(1)
    print("  d    R  positions  windows, ms  tiles, ms  windows / tiles")
    for width, columns in ((384, 64), (384, 272), (384, 576), (768, 576)):
        for positions in (64, 128, 256, 384, 512, 1024, 2048):
            got = measure(positions, width, columns)
            ratio = got["windows"] / got["tiles"]
            print(f"{width:3d} {columns:4d} {positions:10d} {got['windows']:12.2f} {got['tiles']:10.2f} {ratio:10.2f}")


if __name__ == "__main__":
    main()
