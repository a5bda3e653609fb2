"""What a stage leaves for later ones on nodes and values, by typed names.

An annotation is defined once, beside the type of what it holds: `graph.layout.LAYOUT` (where a value lies),
`cost.plan.CHOICE` (the kernel of a layer), `kernels.ranges.RANGES` (what calibrates a layer), and
`OUTSIDE`, `NARROW`, `HALF`, `APART` and `NETWORK` here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import onnx_ir as ir

T = TypeVar("T")


@dataclass(frozen=True)
class Annotation(Generic[T]):
    """A name under which nodes or values hold something of one type; copies of a model keep it."""

    name: str

    def get(self, holder: ir.Node | ir.Value) -> T | None:
        """What a node or value holds, None where it holds nothing."""
        return cast("T | None", holder.meta.get(self.name))

    def require(self, holder: ir.Node | ir.Value) -> T:
        """What a node or value holds after the stage that sets it for all that are asked."""
        found = self.get(holder)
        assert found is not None, f"'{holder.name}' has no {self.name}"
        return found

    def set(self, holder: ir.Node | ir.Value, held: T) -> None:
        """Let a node or value hold something, in place of what it held."""
        holder.meta[self.name] = held


OUTSIDE = Annotation[str]("outside")
"""Why a node runs without the kernel that its operator has; the lowering says so."""

NARROW = Annotation[str]("narrow")
"""What a node without weights multiplies with, where `precision` has made that fewer bits; the lowering says so."""

HALF = Annotation[str]("half")
"""The half-precision type that a value of floats is stored in between the stages of a model for run-time sizes."""

APART = Annotation[str]("apart")
"""Why a node that keeps rows apart is in no stage of rows."""

NETWORK = Annotation[float]("network")
"""All weights that an inference reads, as a multiple of this layer's: what drives these out of the caches."""
