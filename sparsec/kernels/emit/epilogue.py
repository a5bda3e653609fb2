"""What follows a product inside its kernel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epilogue:
    """What follows a product: Y = activation(product + bias + residual)."""

    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    residual: bool = False
