"""What is known of a graph's values in the symbols of its inputs: shapes, and the integers that follow from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from sparsec.analysis.symbols.size import OPAQUE, Size
from sparsec.graph.constants import constant

Shape = tuple[Size, ...]
MOST_ELEMENTS = 64
"""Of a tensor of integers that is followed."""


@dataclass
class Symbols:
    """What is known of values.

    Attributes:
        shapes: of every value of known rank.
        data: the elements, in order, of integer tensors of at most one dimension that follow from shapes.
        bounds: of sizes that are opaque, what they are never larger than.
        quotients: by the name of a size that is no polynomial in the inputs', what is divided by which number to get
            it, rounded down; in the order in which they follow from each other.

    """

    shapes: dict[ir.Value, Shape] = field(default_factory=dict)
    data: dict[ir.Value, Shape] = field(default_factory=dict)
    bounds: dict[Size, Size] = field(default_factory=dict)
    quotients: dict[str, tuple[Size, int]] = field(default_factory=dict)
    _count: Iterator[int] = field(default_factory=itertools.count)

    def opaque(self, bound: Size | None = None) -> Size:
        """A size that nothing is known of, but that it is never larger than a bound."""
        size = Size.of(f"{OPAQUE}{next(self._count)}")
        if bound is not None:
            self.bounds[size] = bound
        return size

    def quotient(self, size: Size, by: int) -> Size:
        """A size divided by a number and rounded down, for all sizes that are not negative: equal ones are equal."""
        if not size.known:
            return self.opaque()
        whole, rest = Size.of(0), Size.of(0)
        for names, factor in size.terms:
            monomial = Size(((names, 1),))
            whole += monomial * Size.of(factor // by)
            rest += monomial * Size.of(factor % by)
        if rest.number is not None:
            return whole
        name = f"floor(({rest})/{by})"
        self.quotients[name] = rest, by
        return whole + Size.of(name)

    def shape(self, value: ir.Value | None) -> Shape | None:
        """A value's shape."""
        return None if value is None else self.shapes.get(value)

    def integers(self, value: ir.Value | None) -> Shape | None:
        """The elements of a tensor of integers or truth values, constants included."""
        if value is None:
            return None
        array = constant(value)
        if array is not None and array.dtype.kind in "iub" and array.ndim <= 1 and array.size <= MOST_ELEMENTS:
            return tuple(Size.of(int(each)) for each in array.reshape(-1))
        return self.data.get(value)
