"""Densities of layers that have given ratios."""

from __future__ import annotations

from collections.abc import Sequence


def shared(sizes: Sequence[int], ratios: Sequence[float], sparsity: float) -> list[float]:
    """Sparsities of layers of some sizes whose densities have these ratios; those that exceed 1 are dense."""
    dense: set[int] = set()
    while True:
        free = [i for i in range(len(sizes)) if i not in dense]
        budget = (1 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        scale = budget / sum(sizes[i] * ratios[i] for i in free) if free else 0.0
        excess = {i for i in free if scale * ratios[i] > 1}
        if not excess:
            return [0.0 if i in dense else 1 - scale * ratio for i, ratio in enumerate(ratios)]
        dense |= excess
