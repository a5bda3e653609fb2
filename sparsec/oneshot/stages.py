"""Running a model piece by piece, so that a layer's weight may change between its inputs and its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from sparsec.errors import ModelError
from sparsec.graph import ort
from sparsec.graph.compare import Feeds

RANDOM = ("RandomNormal", "RandomUniform")


@dataclass
class Walk:
    """One pass over all samples that stops in front of some nodes.

    Attributes:
        model: its weights may be replaced while the walk stands still; every node is executed once.
        values: by name the arrays of every batch that nodes further on read.

    """

    model: onnx.ModelProto
    values: dict[str, list[np.ndarray]]
    _position: int = 0
    _constant: Mapping[str, onnx.NodeProto] = field(default_factory=dict)
    _last: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def over(cls, model: onnx.ModelProto, batches: Sequence[Feeds]) -> Walk:
        """A walk that stands in front of the first node."""
        nodes = model.graph.node
        last = {name: index for index, node in enumerate(nodes) for name in reads(node)}
        last |= {value.name: len(nodes) for value in model.graph.output}
        values = {name: [batch[name] for batch in batches] for name in batches[0]}
        return cls(model, values, 0, _constant_nodes(model.graph), last)

    def stops(self, indices: Sequence[int]) -> Iterator[int]:
        """Each of the nodes when all that it reads is there; then the end, as the number of nodes."""
        for index in (*indices, len(self.model.graph.node)):
            self._advance(index)
            yield index

    def _advance(self, stop: int) -> None:
        nodes = [node for node in self.model.graph.node[self._position:stop] if node.output[0] not in self._constant]
        self._position = stop
        made = [name for node in nodes for name in node.output if name and self._last.get(name, -1) >= stop]
        if stop == len(self.model.graph.node):
            made += [value.name for value in self.model.graph.output if value.name in self._constant]
        if made:
            piece = self._piece(nodes, made)
            session = ort.session(piece)
            needed = [value.name for value in piece.graph.input]
            results = [ort.run(session, made, {name: self.values[name][batch] for name in needed}, "samples")
                       for batch in range(len(next(iter(self.values.values()))))]
            self.values |= {name: [result[place] for result in results] for place, name in enumerate(made)}
        for name in [name for name in self.values if self._last.get(name, -1) < stop]:
            if len(self.values) > 1:
                del self.values[name]

    def rest(self, batches: Sequence[int]) -> dict[str, list[np.ndarray]]:
        """The outputs that lie ahead, of some batches, with the weights as they are now; the walk stays where it is."""
        nodes = [node for node in self.model.graph.node[self._position:] if node.output[0] not in self._constant]
        ahead = {name for node in nodes for name in node.output}
        made = [value.name for value in self.model.graph.output if value.name in ahead]
        if not made:
            return {}
        piece = self._piece(nodes, made)
        session, needed = ort.session(piece), [value.name for value in piece.graph.input]
        results = [ort.run(session, made, {name: self.values[name][batch] for name in needed}, "samples")
                   for batch in batches]
        return {name: [result[place] for result in results] for place, name in enumerate(made)}

    def _piece(self, nodes: Sequence[onnx.NodeProto], made: Sequence[str]) -> onnx.ModelProto:
        """The nodes as a model of their own, with what they read as inputs, and constants computed inside."""
        wanted = {name for node in nodes for name in reads(node)} | set(made)
        front: list[onnx.NodeProto] = []
        for name, maker in reversed([*self._constant.items()]):
            if name in wanted and not any(maker is each for each in front):
                front.insert(0, maker)
                wanted |= reads(maker)
        inner = {name for node in nodes for name in node.output}
        inputs = [_value(name, arrays[0]) for name, arrays in self.values.items()
                  if name in wanted and name not in inner]
        graph = helper.make_graph(
            [*front, *nodes], "piece", inputs, [onnx.ValueInfoProto(name=name) for name in made],
            [tensor for tensor in self.model.graph.initializer if tensor.name in wanted])
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version,
                                 functions=self.model.functions)


def reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node or a graph inside it reads."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names |= {value.name for value in graph.output}
            names |= {name for inner in graph.node for name in reads(inner)}
    return names


def _constant_nodes(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """By output the nodes that depend on no input of the graph, in order."""
    known, found = {tensor.name for tensor in graph.initializer}, dict[str, onnx.NodeProto]()
    for node in graph.node:
        if reads(node) <= known and node.op_type not in RANDOM:
            known |= set(node.output)
            found |= {name: node for name in node.output if name}
    return found


def _value(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    if not isinstance(array, np.ndarray):
        raise ModelError(f"value '{name}' is no tensor, and layers follow while it is in use; such models cannot be "
                         "pruned from samples")
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * array.ndim)
