"""The same sparsity everywhere, and Gale et al. (2019)'s exception for the first and the last layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsec.errors import PruningError

LAST_LAYER_CAP = 0.8


def uniform(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Every layer gets the target."""
    return [sparsity] * len(shapes)


def uniform_plus(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """A first convolution stays dense, a last fully connected layer gets at most 80 %, the others share the rest.

    Raises PruningError, with the range, where the others cannot take the rest.
    """
    sizes = [math.prod(shape) for shape in shapes]
    dense = sizes[0] if len(shapes[0]) > 2 else 0
    last = sizes[-1] if len(shapes[-1]) == 2 else 0
    removed = sparsity * sum(sizes)
    rest = removed / max(1, sum(sizes) - dense)
    if rest > LAST_LAYER_CAP and last:
        rest = (removed - LAST_LAYER_CAP * last) / max(1, sum(sizes) - dense - last)
    if rest >= 1:
        limit = 1 - (dense + (1 - LAST_LAYER_CAP) * last) / sum(sizes)
        raise PruningError(
            f"quota 'uniform+' is not valid at sparsity {sparsity}: this network allows 0 <= sparsity < {limit:.4f}; "
            "use quota erk or igq"
        )
    sparsities = [rest] * len(shapes)
    if dense:
        sparsities[0] = 0.0
    if last:
        sparsities[-1] = min(rest, LAST_LAYER_CAP)
    return sparsities
