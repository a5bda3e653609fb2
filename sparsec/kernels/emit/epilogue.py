"""What follows a product inside its kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Follows(Protocol):
    """What is said of what follows a product, by whatever describes it."""

    @property
    def activation(self) -> str:
        """The activation's name."""

    @property
    def alpha(self) -> float:
        """Its first parameter."""

    @property
    def beta(self) -> float:
        """Its second."""

    @property
    def multiplies(self) -> bool:
        """Whether the residual multiplies what the activation gives."""


@dataclass(frozen=True)
class Epilogue:
    """What follows a product: Y = activation(product + bias + residual).

    Where the residual `multiplies`, Y = activation(product + bias) * residual. With `in_place` nothing else needs the
    residual behind the product, whose kernel may write the result in its place.
    """

    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    residual: bool = False
    in_place: bool = False
    multiplies: bool = False
