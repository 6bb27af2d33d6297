"""Newton's method with step halving, for the small convex fits on valid. numpy alone."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

STEPS, ENOUGH, SHORTEST = 100, 1e-10, 1e-9


def minimise(
    loss: Callable[[Vector], float], derivatives: Callable[[Vector], tuple[Vector, Vector]], start: Vector
) -> Vector:
    """Where a convex loss is smallest.

    Args:
        loss: of (n,) parameters.
        derivatives: its gradient, (n,), and its Hessian, (n, n), positive definite.
        start: (n,) to begin from.
    """
    w = start
    for _ in range(STEPS):
        gradient, hessian = derivatives(w)
        step = np.linalg.solve(hessian, gradient)
        size, before = 1.0, loss(w)
        while loss(w - size * step) > before and size > SHORTEST:
            size /= 2
        w = w - size * step
        if np.abs(size * step).max() < ENOUGH:
            break
    return w
