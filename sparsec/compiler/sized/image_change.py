"""A node on images of any size that is rewritten with channels last; `images` says which are, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.graph.constants import add_constant
from sparsec.graph.nodes import node_name, operand
from sparsec.passes.rewrite import take_over

RANKS = (3, 4, 5)
"""Dimensions of sequences, images and volumes with channels."""

Attribute = int | float | str | Sequence[int] | Sequence[float]


@dataclass(frozen=True)
class Packed:
    """A weight as a kernel of one of `graph.sized.CONVOLUTIONS` reads it, for so many vectors of outputs at once."""

    kind: str
    vectors: int
    values: np.ndarray


@dataclass(frozen=True)
class Windows:
    """How windows lie in an image: whether they begin further than a pixel apart, and whether each is its own pixel."""

    strided: bool
    pixel: bool

    @classmethod
    def of(cls, attributes: Mapping[str, Attribute]) -> Windows:
        """Those of a node's attributes."""
        kernel, strides, pads = (np.asarray(attributes[name]) for name in ("kernel_shape", "strides", "pads"))
        strided = bool((strides != 1).any())
        return cls(strided, not strided and bool((kernel == 1).all()) and not pads.any())


Pack = Callable[[str, np.ndarray, Windows], Packed | None]
"""A layer's name, its weight (outputs, channels, sides …) and windows to a kernel of its own; None for rows."""


def has_open_sides(shape: Shape | None) -> bool:
    """Whether a height, width or such is told by the run."""
    return shape is not None and len(shape) in RANKS and any(size.number is None for size in shape[2:])


@dataclass(frozen=True)
class Change:
    """A node that is rewritten, the shape of its result, channels first, and what `rows_of_images` is given."""

    graph: ir.Graph
    symbols: Symbols
    node: ir.Node
    shape: Shape
    pack: Pack

    def order(self, value: ir.Value) -> tuple[int, ...]:
        """The order of a value's dimensions, channels last: the one that it has been computed in, or a new one.

        Sides that only the run tells are the last in front of the channels, so that all in front of these are rows.
        """
        made = channels_last(value)
        if made is not None:
            return made[1]
        shape = self.symbols.shapes[value]
        axes = sorted(range(2, len(shape)), key=lambda axis: (shape[axis].number is None, axis))
        return 0, *axes, 1

    def last(self, value: ir.Value, order: tuple[int, ...]) -> ir.Value:
        """A value with its dimensions in an order."""
        made = channels_last(value)
        if made is not None and made[1] == order:
            return made[0]
        return self.add("Transpose", [value], {"perm": order}, [self.symbols.shapes[value][axis] for axis in order])

    def add(self, kind: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Attribute],
            shape: Sequence[Size], *, domain: str = "", name: str | None = None) -> ir.Value:
        """A node in front of the one that is rewritten."""
        return self.entered(ir.node(kind, inputs, attributes, domain=domain, name=name), shape)

    def entered(self, made: ir.Node, shape: Sequence[Size]) -> ir.Value:
        """The result of a node that is put in front of the one that is rewritten."""
        out = made.outputs[0]
        out.name = f"{node_name(self.node)}.{made.op_type}{len(self.symbols.shapes)}"
        out.type, self.symbols.shapes[out] = self.node.outputs[0].type, tuple(shape)
        self.graph.insert_before(self.node, made)
        return out

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A constant of the graph."""
        made = add_constant(self.graph, f"{node_name(self.node)}.{name}", array)
        self.symbols.shapes[made] = tuple(map(Size.of, array.shape))
        return made

    def finish(self, value: ir.Value, order: tuple[int, ...]) -> bool:
        """The result, channels last, takes the node's place; those who read it channels first get it turned."""
        old = self.node.outputs[0]
        back = [order.index(axis) for axis in range(len(order))]
        turned = self.add("Transpose", [value], {"perm": back}, self.shape)
        take_over(turned, old)
        self.graph.remove(self.node, safe=True)
        return True

    def ordered(self, order: tuple[int, ...]) -> Shape:
        """The shape of the result in an order."""
        return tuple(self.shape[axis] for axis in order)


def channels_last(value: ir.Value) -> tuple[ir.Value, tuple[int, ...]] | None:
    """What a value is, channels last, and in which order of its dimensions."""
    node = value.producer()
    if node is None or node.op_type != "Transpose" or node.domain or len(value.shape or node.outputs) < 2:
        return None
    back = node.attributes.get_ints("perm", ())
    order = tuple(back.index(axis) for axis in range(len(back))) if back else ()
    return (operand(node, 0), order) if order[:1] == (0,) and order[-1:] == (1,) and len(order) in RANKS else None


def windows_of(node: ir.Node, order: tuple[int, ...], kernel: Sequence[int]) -> dict[str, Attribute]:
    """The attributes of a node's windows, by axis in an order of dimensions."""
    rank, axes = len(kernel), [axis - 2 for axis in order[1:-1]]
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    pads = list(node.attributes.get_ints("pads", ()) if mode == "NOTSET" else ()) or [0] * 2 * rank
    found = {name: list(node.attributes.get_ints(name, ()) or [1] * rank) for name in ("strides", "dilations")}
    return {"kernel_shape": [kernel[axis] for axis in axes],
            **{name: [each[axis] for axis in axes] for name, each in found.items()},
            "pads": [pads[axis + side] for side in (0, rank) for axis in axes], "auto_pad": mode}
