"""Where attention finds the features of a projection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Projection:
    """Where a projection's features lie: from `offset` on in a buffer of `features` (Q, K and V may share one)."""

    features: int
    offset: int = 0
