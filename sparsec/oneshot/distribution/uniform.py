"""The same sparsity in every layer."""

from __future__ import annotations

from collections.abc import Sequence

from sparsec.oneshot.distribution.asked import Asked


def uniform(weights: Sequence[Asked], sparsity: float) -> list[float]:
    """Every weight gets the target."""
    return [sparsity] * len(weights)
