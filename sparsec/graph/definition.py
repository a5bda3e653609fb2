"""Writing a node out in other operators, which are named after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, DTypeLike

from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.constants import add_constant
from sparsec.graph.nodes import node_name, operator_of, optional


class Definition(ABC):
    """What stands for one node.

    Attributes:
        node: the node.

    """

    def __init__(self, node: ir.Node, name: str) -> None:
        self.node, self._name, self._count = node, name, 0

    @abstractmethod
    def _place(self, node: ir.Node) -> None:
        """Bring a new node to where the definition is."""

    @abstractmethod
    def constant(self, array: ArrayLike, dtype: DTypeLike = np.float32) -> ir.Value:
        """A new constant."""

    def _name_of(self, _op_type: str) -> str:
        """The name of the next node."""
        return f"{self._name}/{self._count}"

    def several(self, op_type: str, outputs: int, *inputs: ir.Value | None, domain: str = "",
                **attributes: Any) -> list[ir.Value]:
        """The outputs of a new node."""
        node = ir.node(op_type, list(inputs), attributes, domain=domain, num_outputs=outputs,
                       name=self._name_of(op_type))
        for index, value in enumerate(node.outputs):
            value.name = f"{self._name}/{self._count}.{index}"
        self._count += 1
        self._place(node)
        return list(node.outputs)

    def put(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The output of a new node that has one."""
        return self.several(op_type, 1, *inputs, **attributes)[0]

    def input(self, index: int) -> ir.Value | None:
        """An input of the node, None where it is absent."""
        return optional(self.node, index)

    def needed(self, index: int) -> ir.Value:
        """An input that the operator cannot do without."""
        value = self.input(index)
        if value is None:
            raise self.refused(f"its input {index} is absent")
        return value

    def refused(self, reason: str) -> UnsupportedOperatorError:
        """The error for a form of the operator that is not taken."""
        return UnsupportedOperatorError(f"node '{node_name(self.node)}': {operator_of(self.node)}: {reason}")


class GraphDefinition(Definition):
    """A definition in front of its node in the graph."""

    def __init__(self, node: ir.Node) -> None:
        assert node.graph is not None
        super().__init__(node, node_name(node))
        self._graph = node.graph

    def _place(self, node: ir.Node) -> None:
        self.node.prepend(node)

    def constant(self, array: ArrayLike, dtype: DTypeLike = np.float32) -> ir.Value:
        """A new initializer."""
        return add_constant(self._graph, f"{self._name}/constant", np.asarray(array, dtype))
