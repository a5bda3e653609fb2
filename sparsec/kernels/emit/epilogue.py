"""What follows a product inside its kernel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epilogue:
    """What follows a product: Y = activation(product + bias + residual).

    With `in_place` nothing else needs the residual behind the product, whose kernel may write the result in its place.
    """

    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    residual: bool = False
    in_place: bool = False
