"""Least squares on the weights that are kept: the best that a mask allows for the samples."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.linalg import lapack
from threadpoolctl import ThreadpoolController

from sparsec.machine.cpus import available

DIRECT, ITERATED = 2e10, 2e11
"""Multiply-adds that a layer may take, solved output by output, or else step by step for all outputs at once."""
WHOLE = 512
"""Outputs of a layer that may take all of them; one of fewer takes its share."""
FEWEST = 3
"""Steps below which a layer keeps what the sweep has left."""
MOST = 100
"""Steps after which nothing is left to gain."""


def refit(pruned: np.ndarray, weight: np.ndarray, hessian: np.ndarray, damping: float, *,
          exact: float = DIRECT) -> np.ndarray:
    """The kept weights of every output w that minimise (w - v)^T (H + damping) (w - v), v the dense weights.

    Exact where that takes at most `exact` multiply-adds, for `WHOLE` outputs and more; larger layers come nearer by
    conjugate gradients, as many steps as `ITERATED` multiply-adds allow.

    Args:
        pruned: (outputs, inputs); its non-zeros say what is kept.
        weight: the dense weight.
        hessian: the mean of x x^T.
        damping: added to the diagonal of the Hessian, as a share of its mean.
        exact: the multiply-adds that an exact solution may take.

    """
    counts = np.count_nonzero(pruned, axis=1).astype(np.float64)
    share = min(len(weight) / WHOLE, 1.0)
    steps = int(ITERATED * share / (weight.size * float(len(hessian))))
    direct = (counts**3 / 6 + counts**2).sum() <= exact * share
    if not direct and steps < FEWEST:
        return pruned
    added = damping * max(float(hessian.diagonal().mean()), 1e-30)
    if direct:
        return _solved(pruned, weight, hessian, added)
    damped = hessian.astype(np.float32)
    damped[np.diag_indices_from(damped)] += np.float32(added)
    return _descended(pruned, weight, damped, min(steps, MOST))


def _solved(pruned: np.ndarray, weight: np.ndarray, hessian: np.ndarray, added: float) -> np.ndarray:
    """Output by output by a Cholesky decomposition; those are small, and BLAS's threads would wait for each other."""
    exact = weight.astype(np.float64)
    wanted = exact @ hessian + added * exact  # (outputs, inputs)
    result = np.zeros_like(pruned)

    def solve(output: int) -> None:
        kept = np.flatnonzero(pruned[output])
        if len(kept):
            own = hessian[np.ix_(kept, kept)]
            own[np.diag_indices_from(own)] += added
            _, solution, failed = lapack.dposv(own, wanted[output, kept], lower=1)
            result[output, kept] = pruned[output, kept] if failed else np.ravel(solution)

    with _threads().limit(limits=1, user_api="blas"), ThreadPoolExecutor(available()) as pool:
        for _ in pool.map(solve, range(len(result))):
            pass
    return result


@functools.cache
def _threads() -> ThreadpoolController:
    """The libraries with threads of their own; looking for them takes milliseconds."""
    return ThreadpoolController()


def _descended(pruned: np.ndarray, weight: np.ndarray, damped: np.ndarray, steps: int) -> np.ndarray:
    """Conjugate gradients on every output's kept weights, all outputs in one product, from what the sweep has left.

    The diagonal is the preconditioner; the error of no output grows.
    """
    kept, scale = pruned != 0, np.float32(1) / damped.diagonal()
    found = pruned.astype(np.float32)
    rest = np.where(kept, (weight - found).astype(np.float32) @ damped, np.float32(0))
    way = rest * scale
    left = np.einsum("oi,oi->o", rest, way)
    for _ in range(steps):
        bent = np.where(kept, way @ damped, np.float32(0))
        curvature = np.einsum("oi,oi->o", way, bent)
        step = np.where(curvature > 0, left / np.where(curvature > 0, curvature, 1), 0).astype(np.float32)[:, None]
        found += step * way
        rest -= step * bent
        scaled = rest * scale
        now = np.einsum("oi,oi->o", rest, scaled)
        way = scaled + np.where(left > 0, now / np.where(left > 0, left, 1), 0).astype(np.float32)[:, None] * way
        left = now
    return found.astype(pruned.dtype)
