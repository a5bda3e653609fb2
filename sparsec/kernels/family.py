"""What a kernel family is: one way to multiply a constant weight, from what it refuses to the code that it generates.

A kernel's file ends with its `Family`, and one line enters it in the table of its target. Backends, accuracy and
benchmarks ask all families of a table alike: nothing outside of a kernel's file knows its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np

from sparsec.cost.option import Option
from sparsec.cost.precisions import allows
from sparsec.kernels.emit.tir import Kernel
from sparsec.kernels.packing.recipe import Recipe
from sparsec.target import Target

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class WeightedProduct:
    """A constant weight that multiplies activations; the subclasses add where these lie and what follows.

    Attributes:
        weight: (outputs, inner): inputs, or the channels x taps of a convolution.
        bias: (outputs,).
        facts: what has been found out of the weight; layers that share the weight may share it, too.

    """

    weight: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    facts: dict[Hashable, Any] = field(default_factory=dict, repr=False, kw_only=True)

    def memoised(self, find: Callable[..., T], *arguments: Hashable) -> T:
        """`find(weight, *arguments)`, computed for the first candidate that asks and kept for the others."""
        key = find, arguments
        if key not in self.facts:
            self.facts[key] = find(self.weight, *arguments)
        found: T = self.facts[key]
        return found

    @property
    def nonzeros(self) -> int:
        """The weights that are not zero."""
        return int(self.memoised(np.count_nonzero))

    @property
    def density(self) -> float:
        """The share of the weights that are not zero."""
        return self.nonzeros / max(1, self.weight.size)


Product = TypeVar("Product", bound=WeightedProduct)
Params = TypeVar("Params")
Hardware = TypeVar("Hardware")


def accepts(_layer: object, _hardware: object) -> str | None:
    """The `reject` of a family that takes every layer on all hardware."""
    return None


@dataclass(frozen=True)
class Family(Generic[Product, Params, Hardware]):
    """A kernel family. `Hardware` is what its kernels may assume: an `Isa`, or the architectures of GPUs.

    Attributes:
        name: its key in its target's table.
        layer: the class of the layers that it computes.
        formats: how it may store weights: names of storage formats, for CPUs without their parameters.
        precision: what a layer must be allowed to compute with, a key of `cost.precisions.PRECISIONS`; empty: nothing.
        candidates: the options worth pricing for a layer that is not rejected, each with what a run of it does
            (`Option.work`), from (layer, target, hardware, precision).
        recipe: how the weight (outputs, inner) becomes the kernel's arrays, from the parameters; an artifact that
            stores the weight itself repeats it, if it is one of `kernels.packing.RECIPES`.
        build: the kernel, from (parameters, hardware): (the recipe's arrays, the layer's, activations) -> y.
        reference: the product (outputs, n) of a weight and activations (inner, n) with the kernel's numbers, but
            without the order of its sums, from (weight, activations, parameters); the layer says what follows.
        reject: why it cannot compute a layer on some hardware, or None.

    """

    name: str
    layer: type[Product]
    formats: tuple[str, ...]
    precision: str
    candidates: Callable[[Product, Target, Hardware, str], Iterable[Option]]
    recipe: Callable[[Params], Recipe]
    build: Callable[[Params, Hardware], Kernel]
    reference: Callable[[np.ndarray, np.ndarray, Params], np.ndarray]
    reject: Callable[[Product, Hardware], str | None] = accepts

    def is_exact(self, option: Option) -> bool:
        """Whether an option multiplies the numbers that the layer has, and not rounded ones."""
        return self.precision in ("", "fp32") and option.codec in ("", "f32")

    def permits(self, _layer: Product, precision: str) -> bool:
        """Whether a layer may compute with the kernel's numbers at a precision."""
        return not self.precision or allows(precision, self.precision)

    def offers(self, layer: Product, target: Target, hardware: Hardware, precision: str) -> list[Option] | str:
        """The options for a layer, or the reason why there are none."""
        if not self.permits(layer, precision):
            return f"it computes in {self.precision}, here {precision} is asked for"
        if (reason := self.reject(layer, hardware)) is not None:
            return reason
        options = [replace(option, family=self.name) for option in self.candidates(layer, target, hardware, precision)]
        return options or "none of its tilings fits the layer"


def offers(families: Mapping[str, Family[Any, Any, Hardware]], layer: WeightedProduct, target: Target,
           hardware: Hardware, precision: str) -> tuple[list[Option], dict[str, str]]:
    """The options of every family for a layer, and why the others have none, by the family's name."""
    options: list[Option] = []
    refused: dict[str, str] = {}
    for name, family in families.items():
        if not isinstance(layer, family.layer):
            continue
        found = family.offers(layer, target, hardware, precision)
        if isinstance(found, str):
            refused[name] = found
        else:
            options += found
    return options, refused


def float_product(weight: np.ndarray, activations: np.ndarray, _params: object) -> np.ndarray:
    """The `reference` of families that compute in float32."""
    product: np.ndarray = weight @ activations
    return product
