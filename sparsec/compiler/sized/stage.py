"""A graph with run-time sizes in stages: what keeps rows apart is compiled for numbers of rows, the rest is run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.compiler.sized.codes import dequantize_apart
from sparsec.compiler.sized.rows import NOT_DATA, RESHAPES, Rows, constants, leading, row_nodes
from sparsec.compiler.sized.simplify import known_data
from sparsec.graph.annotations import APART, HALF
from sparsec.graph.constants import add_constant
from sparsec.graph.guards import Guard, guards, in_order
from sparsec.graph.nodes import read_by
from sparsec.graph.verify import check, infer
from sparsec.graph.zeros import COMPUTED, expected_zeros
from sparsec.passes.context import NOTHING, Spared


@dataclass(frozen=True)
class RowStage:
    """Nodes that keep the same rows apart.

    Attributes:
        rows: their rows, in the dimensions that they take in the first input.
        nodes: in order.
        inputs, outputs: what they read and give; all have the rows, if perhaps in other dimensions, but the last inputs
            may be single numbers.

    """

    rows: Rows
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


Stage = RowStage | ir.Node


def stages_of(graph: ir.Graph, symbols: Symbols, spared: Spared = NOTHING, alone: Collection[str] = ()) -> list[Stage]:
    """The stages of a sorted graph in the order of running; a stage has the nodes of constants alone that it needs.

    Nodes that the target has no implementation for are stages of their own. Operators that are `alone` are compiled
    without a layer beside them, too.
    """
    rows, fixed = row_nodes(graph, symbols, alone), constants(graph)
    rows = {node: each for node, each in rows.items() if (node.domain or spared.why_interpreted(node) is None)
            and APART.get(node) is None}
    when = guards(graph)
    level: dict[ir.Value, int] = {}
    single: list[tuple[int, int, ir.Node]] = []
    groups: dict[tuple[int, Rows, Guard], list[ir.Node]] = defaultdict(list)
    for index, node in enumerate(in_order(graph, when)):
        read = (value for value in (*read_by(node), *(each for each, _ in when[node]))
                if known_data(value, symbols) is None)
        before = max((level.get(value, 0) for value in read), default=0)
        if all(value in fixed for value in node.outputs):
            number = 0
        elif node in rows:
            number = before + before % 2
            groups[number, rows[node], when[node]].append(node)
        else:
            number = before + 1 - before % 2
        if node not in rows:
            single.append((number, index, node))
        level.update(dict.fromkeys(node.outputs, number))
    dequantize_apart(graph, groups.values(), symbols)
    order: list[tuple[int, int, Stage]] = [*single]
    for count, ((number, *_), nodes) in enumerate(groups.items()):
        order.append((number, count, _stage(nodes, fixed, symbols)))
    return [stage for *_, stage in sorted(order, key=lambda each: each[:2])]


def _stage(nodes: Sequence[ir.Node], fixed: set[ir.Value], symbols: Symbols) -> RowStage:
    own, made = set(nodes), {value: None for node in nodes for value in node.outputs if value.name}
    inputs = dict.fromkeys(value for node in nodes for index, value in enumerate(node.inputs)
                           if value is not None and value not in made and value not in fixed
                           and index not in NOT_DATA.get(node.op_type, ()))
    outputs = [value for value in made if value.is_graph_output() or any(use.node not in own for use in value.uses())]
    given = sorted(inputs, key=lambda value: not leading(symbols.shapes[value]))
    return RowStage(Rows.of(symbols.shapes[given[0]]), tuple(nodes), tuple(given), tuple(outputs))


def counts_of(leads: Sequence[Shape], limits: Mapping[str, tuple[int, int]],
              counts: Sequence[int]) -> tuple[int, ...]:
    """The numbers of rows to compile for, of some `counts`: no more than one that has as many as there can be.

    Args:
        leads: the dimensions that are rows, of everything that has rows.
        limits: the least and the largest size by symbol.
        counts: ascending.

    """
    largest = {name: limit[1] for name, limit in limits.items()}
    most = max(math.prod(size.value(largest) if size.symbols <= largest.keys() else counts[-1]
                         for size in lead) for lead in leads) if leads else counts[-1]
    return tuple(count for index, count in enumerate(counts) if not index or counts[index - 1] < most)


@dataclass(frozen=True)
class Joint:
    """All row stages in one model of static shapes, side by side.

    Attributes:
        model: its graph has the inputs and outputs of every stage, in order.
        stages: what they are.

    """

    model: ir.Model
    stages: tuple[RowStage, ...]

    def store_halves(self) -> None:
        """Note of the inputs and outputs which are stored in half precision between stages."""
        for stage, (inputs, outputs) in zip(self.stages, self.parts(), strict=True):
            for of, value in zip((*stage.inputs, *stage.outputs), (*inputs, *outputs), strict=True):
                if (half := HALF.get(of)) is not None:
                    HALF.set(value, half)

    def parts(self) -> list[tuple[list[ir.Value], list[ir.Value]]]:
        """The inputs and outputs of each stage, as passes have left them."""
        inputs, outputs = iter(self.model.graph.inputs), iter(self.model.graph.outputs)
        return [([next(inputs) for _ in stage.inputs], [next(outputs) for _ in stage.outputs])
                for stage in self.stages]


def joint(model: ir.Model, stages: Sequence[RowStage], symbols: Symbols, count: int) -> Joint:
    """The row stages for `count` rows: the last of the dimensions that are rows has that size, the others have 1."""
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(model.graph.opset_imports), name="rows")
    for number, stage in enumerate(stages):
        copy = _Copy(graph, stage, symbols, count, f"@{number}")
        values = copy.all()
        graph.inputs.extend(copy.given[value] for value in stage.inputs)
        graph.outputs.extend(values[value] for value in stage.outputs)
    whole = ir.Model(graph, ir_version=model.ir_version)
    RemoveUnusedNodesPass()(whole)
    infer(whole, "the rows of the model")
    check(whole, "the rows of the model")
    return Joint(whole, tuple(stages))


@dataclass
class _Copy:
    """A stage that is copied into the joint graph, for some number of rows: by value of the model, the one there.

    Attributes:
        given: by input of the stage, that of the graph.

    """

    graph: ir.Graph
    stage: RowStage
    symbols: Symbols
    count: int
    suffix: str
    values: dict[ir.Value, ir.Value] = field(default_factory=dict)
    given: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def all(self) -> dict[ir.Value, ir.Value]:
        """Copy every node, and what it needs of constants."""
        for node in self.stage.nodes:
            if node.outputs[0] not in self.values:
                self._add(node)
        for value in self.stage.outputs:
            own, wanted = self._static(value), self._static(value, self.stage.rows.rank)
            if own != wanted:
                self.values[value] = self._reshaped(self.values[value], wanted, f"{value.name}{self.suffix}.out")
            self.values[value].shape = ir.Shape(wanted)
        return self.values

    def _static(self, value: ir.Value, rank: int | None = None) -> list[int]:
        """The shape of a value for the number of rows, in its own dimensions, or in `rank` of them."""
        shape = self.symbols.shapes[value]
        own = len(leading(shape))
        if not own:
            return [size.number or 0 for size in shape]
        return [*[1] * ((own if rank is None else rank) - 1), self.count, *[size.number or 0 for size in shape[own:]]]

    def _given(self, value: ir.Value) -> ir.Value:
        """An input of the stage, in its own dimensions."""
        own, wanted = self._static(value), self._static(value, self.stage.rows.rank)
        self.given[value] = ir.Value(name=f"{value.name}{self.suffix}", type=value.type, shape=ir.Shape(wanted))
        COMPUTED.set(self.given[value], (expected_zeros(value),))
        return self.given[value] if own == wanted else self._reshaped(
            self.given[value], own, f"{value.name}{self.suffix}.in")

    def _reshaped(self, value: ir.Value, target: Sequence[int], name: str) -> ir.Value:
        """A value with its rows in other dimensions."""
        shape = add_constant(self.graph, f"{name}.shape", np.array(target, np.int64))
        node = ir.Node("", "Reshape", [value, shape], [], num_outputs=1, name=name)
        node.outputs[0].name, node.outputs[0].type = name, value.type
        self.graph.append(node)
        return node.outputs[0]

    def _value(self, value: ir.Value | None) -> ir.Value | None:
        if value is None:
            return None
        if value not in self.values:
            producer = value.producer()
            if value.const_value is not None:
                self.values[value] = _initializer(self.graph, value)
            elif producer is None or value in self.stage.inputs:
                self.values[value] = self._given(value)
            else:
                self._add(producer)
        return self.values[value]

    def _told(self, node: ir.Node) -> ir.Value:
        """The shape of a node's result, of the axes that it is told."""
        shape = self._static(node.outputs[0])
        axes = node.attributes.get_ints("axes", None) or range(len(shape))
        return add_constant(self.graph, f"{node.name}{self.suffix}.shape", np.array([shape[a] for a in axes], np.int64))

    def _add(self, node: ir.Node) -> None:
        if node.op_type in RESHAPES and node in self.stage.nodes:
            made = ir.Node("", "Reshape", [self._value(node.inputs[0]), self._told(node)],
                           [ir.AttrInt64("allowzero", 1)], num_outputs=1, name=node.name)
        else:
            told = NOT_DATA.get(node.op_type, ()) if node in self.stage.nodes else ()
            inputs = [self._told(node) if index in told and value is not None else self._value(value)
                      for index, value in enumerate(node.inputs)]
            made = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()),
                           num_outputs=len(node.outputs), name=node.name)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            new.name, new.type = f"{old.name}{self.suffix}" if old.name else "", old.type
            self.values[old] = new
        self.graph.append(made)


def _initializer(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A constant of the joint graph that shares its contents with one of the model."""
    name = str(value.name)
    if name not in graph.initializers:
        graph.register_initializer(ir.Value(name=name, const_value=value.const_value, shape=value.shape,
                                            type=value.type))
    return graph.initializers[name]
