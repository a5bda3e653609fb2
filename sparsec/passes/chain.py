"""Nodes that are put in front of another and replace it in the end: what passes that write an operator out share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_constant
from sparsec.graph.nodes import node_name
from sparsec.passes import rewrite


@dataclass(frozen=True)
class Chain:
    """Nodes of float32 in front of another, which they replace in the end."""

    node: ir.Node

    def add(self, op_type: str, *inputs: ir.Value | np.ndarray | None, domain: str = "", name: str | None = None,
            **attributes: float | str | Sequence[int]) -> ir.Value:
        """The output of a new node; arrays become initializers."""
        assert self.node.graph is not None
        own = f"{node_name(self.node)}.{op_type.lower()}"
        values = [add_constant(self.node.graph, own, each) if isinstance(each, np.ndarray) else each for each in inputs]
        new = ir.node(op_type, values, attributes, domain=domain, name=name)
        self.node.prepend(new)
        new.outputs[0].dtype = ir.DataType.FLOAT
        return new.outputs[0]

    def reshape(self, x: ir.Value, new: Sequence[int]) -> ir.Value:
        """A value of another shape."""
        return self.add("Reshape", x, np.array(new, np.int64))

    def slice(self, x: ir.Value, axis: int, first: int, end: int, step: int = 1) -> ir.Value:
        """Every `step`-th part of a value from `first` to before `end`, along an axis."""
        return self.add("Slice", x, *(np.array([each], np.int64) for each in (first, end, axis, step)))

    def end(self, last: ir.Value) -> None:
        """Puts the last value in the place of the node's output."""
        assert self.node.graph is not None
        rewrite.take_over(last, self.node.outputs[0])
        self.node.graph.remove(self.node, safe=True)
