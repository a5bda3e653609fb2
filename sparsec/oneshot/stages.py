"""Running a model piece by piece, so that a layer's weight may change between its inputs and its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from sparsec.errors import ModelError
from sparsec.graph import ort
from sparsec.graph.compare import Feeds
from sparsec.oneshot.weights import constants

RANDOM = ("RandomNormal", "RandomUniform")


@dataclass(frozen=True)
class Piece:
    """Some nodes that follow each other, to be run; of none there is no session.

    Attributes:
        needed, made: the names of what they take and give.
        constants: the names of all constants that they read.

    """

    session: Any
    needed: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    constants: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Piece:
        """That of a model of its own."""
        return cls(ort.session(model, spinning=False), tuple(value.name for value in model.graph.input),
                   tuple(value.name for value in model.graph.output), frozenset(constants(model.graph)))

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """What the nodes give."""
        found = ort.run(self.session, self.made, feeds, "samples") if self.made else []
        return dict(zip(self.made, found, strict=True))


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
    _stops: tuple[int, ...] = ()
    _kept: dict[int, Piece] = field(default_factory=dict)
    _constant: Mapping[str, onnx.NodeProto] = field(default_factory=dict)
    _last: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def over(cls, model: onnx.ModelProto, batches: Sequence[Feeds]) -> Walk:
        """A walk that stands in front of the first node."""
        nodes = model.graph.node
        last = {name: index for index, node in enumerate(nodes) for name in reads(node)}
        last |= {value.name: len(nodes) for value in model.graph.output}
        values = {name: [batch[name] for batch in batches] for name in batches[0]}
        return cls(model, values, _constant=_constant_nodes(model.graph), _last=last)

    def stops(self, indices: Sequence[int]) -> Iterator[int]:
        """Each of the nodes when all that it reads is there; then the end, as the number of nodes."""
        self._stops = (*indices, len(self.model.graph.node))
        for index in self._stops:
            self._advance(index)
            yield index

    def _advance(self, stop: int) -> None:
        first = {name: arrays[0] for name, arrays in self.values.items()}
        piece = self._kept.pop(self._position, None) or self._made(self._position, stop, first)
        self._position = stop
        results = [piece.run({name: self.values[name][batch] for name in piece.needed})
                   for batch in range(len(next(iter(self.values.values()))))]
        self.values |= {name: [result[name] for result in results] for name in piece.made}
        for name in [name for name in self.values if self._last.get(name, -1) < stop]:
            if len(self.values) > 1:
                del self.values[name]

    def rest(self, batches: Sequence[int], changed: str) -> dict[str, list[np.ndarray]]:
        """The outputs that lie ahead, of some batches; the walk stays where it is.

        `changed` is the one constant that is not as it will be when the walk comes by: sessions are kept of what does
        not read it, since to make one takes as long as many runs.
        """
        outputs, fresh = [value.name for value in self.model.graph.output], dict[int, Piece]()
        found: dict[str, list[np.ndarray]] = {}
        for batch in batches:
            values, start = {name: arrays[batch] for name, arrays in self.values.items()}, self._position
            ahead = set[str]()
            for stop in (each for each in self._stops if each > self._position):
                piece = fresh.get(start) or self._kept.get(start)
                if piece is None or (start not in fresh and changed in piece.constants):
                    piece = self._made(start, stop, values)
                    (fresh if changed in piece.constants else self._kept)[start] = piece
                values |= piece.run({name: values[name] for name in piece.needed})
                ahead.update(piece.made)
                start = stop
            for name in outputs:
                if name in ahead and name not in self._constant:
                    found.setdefault(name, []).append(values[name])
        return found

    def _made(self, start: int, stop: int, values: Mapping[str, np.ndarray]) -> Piece:
        """The nodes from one to before another, which take values of these types."""
        nodes = [node for node in self.model.graph.node[start:stop] if node.output[0] not in self._constant]
        made = [name for node in nodes for name in node.output if name and self._last.get(name, -1) >= stop]
        if stop == len(self.model.graph.node):
            made += [value.name for value in self.model.graph.output if value.name in self._constant]
        return Piece.of(self._piece(nodes, made, values)) if made else Piece(None)

    def _piece(self, nodes: Sequence[onnx.NodeProto], made: Sequence[str], values: Mapping[str, np.ndarray],
               ) -> onnx.ModelProto:
        """The nodes as a model of their own, with what they read as inputs, and constants computed inside."""
        wanted = {name for node in nodes for name in reads(node)} | set(made)
        front: list[onnx.NodeProto] = []
        for name, maker in reversed([*self._constant.items()]):
            if name in wanted and not any(maker is each for each in front):
                front.insert(0, maker)
                wanted |= reads(maker)
        inner = {name for node in nodes for name in node.output}
        inputs = [_value(name, array) for name, array in values.items() if name in wanted and name not in inner]
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
