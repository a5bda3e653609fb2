"""A model with sizes that only the run tells, in stages: static parts are compiled, what is between is interpreted.

An operator whose output's size depends on values (NonZero, NonMaxSuppression, Unique, Compress, TopK of a computed k,
Range, …) ends a compiled part, and so do a loop of a computed number of trips, of none or of thousands, and what the
target has no implementation for. What depends on such a size is interpreted until shapes are static again; there the
next compiled part begins.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.backends.program import STAGES, UNKNOWN, Program, TensorSpec
from sparsec.compiler.sized.rows import WEIGHTED
from sparsec.cost.precisions import UNCALIBRATED
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.interface import input_names, output_names
from sparsec.graph.loops import LOOPS, UNROLLED, unrolled
from sparsec.graph.nodes import bodies, node_name, read_by
from sparsec.graph.sequences import of_the_run
from sparsec.graph.shapes import SIZED_BY_VALUES, static_shape
from sparsec.graph.sized import SUPPRESSION
from sparsec.passes.context import NOTHING, Spared
from sparsec.runtime.evaluator import knows
from sparsec.runtime.sized.operators import OPERATORS

VIEWS = ("Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Moves that numpy does without a copy, as Gather of one index."""
INTERPRETED = 500_000
"""Nodes that a loop of a known number of trips may run, about ten seconds' work."""
REASON = "its rows are known at run time only; numpy computes it"
SIZED_REASON = "it is interpreted, at fixed sizes, too: what it gives is as large as values say"
BEHIND_REASON = "it is interpreted: only the run tells sizes in it"


@dataclass(frozen=True)
class Stage:
    """A part of a graph.

    Attributes:
        interpreted: whether sizes in it are known at run time only.
        model: its nodes and their constants.

    """

    interpreted: bool
    model: onnx.ModelProto

    @property
    def inputs(self) -> list[str]:
        """The names of what it takes."""
        return [value.name for value in self.model.graph.input]

    @property
    def outputs(self) -> list[str]:
        """The names of what it gives."""
        return [value.name for value in self.model.graph.output]


def split(model: ir.Model, spared: Spared = NOTHING) -> list[Stage]:
    """The stages of a graph of ONNX's operators, in the order of running; empty where nothing is interpreted.

    Raises:
        UnsupportedOperatorError: an interpreted node is none of ONNX's.

    """
    nodes = list(model.graph)
    numbers = _numbers(nodes, spared)
    if not any(number % 2 for number in numbers):
        return []
    endless = [f"'{node_name(node)}' ({node.op_type})" for node in nodes if INTERPRETED < unrolled(node) < math.inf]
    if endless:
        raise UnsupportedOperatorError(f"the loops {', '.join(endless)} run over {INTERPRETED} nodes in all, which are "
                                       "interpreted one by one; export what they compute without a loop")
    foreign = [f"'{node.name}' ({node.domain}::{node.op_type})" for node, number in zip(nodes, numbers, strict=True)
               if number % 2 and node.domain]
    if foreign:
        raise UnsupportedOperatorError(f"sizes that only the run tells reach {', '.join(foreign)}, which nothing "
                                       "interprets; export the model with static shapes there")
    for index, value in enumerate(model.graph.outputs):
        if value.producer() is None:  # a constant, or an input
            nodes.append(_named_again(model.graph, index, value))
            numbers.append(0)
    return [_stage(model, nodes, numbers, number) for number in sorted(set(numbers))]


def interpreted_in(graph: ir.Graph, spared: Spared = NOTHING, device: str = "") -> list[tuple[ir.Node, str]]:
    """The nodes that are interpreted, with the reason; without those with a kernel, or a function on numpy.

    Where the rest of the model runs on a device, that is all of them, but for views of what others make.
    """
    nodes = list(graph)
    found = [node for node, number in zip(nodes, _numbers(nodes, spared), strict=True) if number % 2]
    made = {value for node in found for value in node.outputs}

    def is_quick(node: ir.Node) -> bool:
        if device:
            return _is_view(node) and node.inputs[0] in made
        return node.op_type in (*OPERATORS, SUPPRESSION) and spared.why_interpreted(node) is None

    return [(node, _why(node, spared)) for node in found if not is_quick(node)]


def _why(node: ir.Node, spared: Spared) -> str:
    """Why a node is interpreted."""
    if (lacking := spared.why_interpreted(node)) is not None:
        return f"{lacking}; the processor interprets it"
    return SIZED_REASON if node.op_type in SIZED_BY_VALUES else BEHIND_REASON


def _named_again(graph: ir.Graph, index: int, value: ir.Value) -> ir.Node:
    """An Identity that computes an output which nothing computes."""
    node = ir.node("Identity", [value])
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    graph.append(node)
    graph.outputs[index] = node.outputs[0]
    return node


def _numbers(nodes: Sequence[ir.Node], spared: Spared) -> list[int]:
    """The stage of every node: even ones are compiled, odd ones interpreted, as late as their inputs ask for."""
    stage: dict[ir.Value, int] = {}
    numbers = []
    for node in nodes:
        kind = int(is_dynamic(node) or (spared.why_interpreted(node) is not None and not node.domain
                                         and knows(node.op_type)))
        before = max((stage.get(value, 0) for value in read_by(node)), default=0)
        number = before if before % 2 == kind else before + 1
        numbers.append(number)
        stage.update(dict.fromkeys(node.outputs, number))
    return _sunk(nodes, numbers)


def _sunk(nodes: Sequence[ir.Node], numbers: Sequence[int]) -> list[int]:
    """The stages again, with moves that only interpreted nodes read among these: for numpy they are views, not copies.

    So weights that a computed expert chooses are not copied, nor transposed, in front of their product.
    """
    stage = dict(zip(nodes, numbers, strict=True))
    for node in reversed(nodes):
        readers = [stage.get(use.node, 0) for value in node.outputs for use in value.uses()]
        if (stage[node] % 2 == 0 and _is_view(node) and readers and all(number % 2 for number in readers)
                and not any(value.is_graph_output() for value in node.outputs)):
            stage[node] = min(readers)
    return [stage[node] for node in nodes]


def _is_view(node: ir.Node) -> bool:
    """Whether numpy gives what a node moves without a copy."""
    if node.domain or node.op_type not in VIEWS:
        return False
    return node.op_type != "Gather" or static_shape(node.inputs[1]) == ()


def is_dynamic(node: ir.Node) -> bool:
    """Whether a size around or inside a node is known at run time only, or it is a loop that is not unrolled."""
    used = [value for value in node.outputs if value.name and (value.uses() or value.is_graph_output())]
    if of_the_run(node) or any(static_shape(value) is None for value in (*node.inputs, *used) if value is not None):
        return True
    if node.op_type in LOOPS and not node.domain and not 0 < unrolled(node) <= UNROLLED:
        return True
    return any(each.op_type in SIZED_BY_VALUES or of_the_run(each) for graph in bodies(node)
               for each in graph.all_nodes())


def _stage(model: ir.Model, nodes: Sequence[ir.Node], numbers: Sequence[int], number: int) -> Stage:
    """The nodes of a stage as a model."""
    own = [node for node, each in zip(nodes, numbers, strict=True) if each == number]
    made = {value: None for node in own for value in node.outputs if value.name}
    read = dict.fromkeys(value for node in own for value in read_by(node) if value not in made)
    readers = defaultdict(set)
    for node, each in zip(nodes, numbers, strict=True):
        for value in read_by(node):
            readers[value].add(each)
    given = [value for value in made if value.is_graph_output() or readers[value] - {number}]
    graph = onnx.GraphProto(name=f"stage{number}")
    graph.node.extend(ir.to_proto(node) for node in own)
    for value in read:
        if value.const_value is not None:
            tensor = ir.to_proto(value.const_value)
            tensor.name = str(value.name)
            graph.initializer.append(tensor)
        else:
            graph.input.append(ir.to_proto(value))
    graph.output.extend(ir.to_proto(value) for value in given)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    return Stage(bool(number % 2), onnx.helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version))


def in_parts(reason: str) -> str:
    """Why a layer of a stage computes with more bits than it might, from why a layer of a whole model would."""
    return "parts between interpreted operators are not calibrated" if reason.startswith(UNCALIBRATED) else reason


def has_kernels(stage: Stage, device: str) -> bool:
    """Whether an interpreted stage of tensors of known ranks may have products with constant weights, or NMS.

    A device of its own has no kernel of NMS, so that a stage with one is interpreted.
    """
    graph = stage.model.graph
    constants = {tensor.name for tensor in graph.initializer}
    tensors = all(value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
                  for value in (*graph.input, *graph.output))
    operators = {node.op_type for node in graph.node if node.op_type not in WEIGHTED or node.input[1] in constants}
    if device and SUPPRESSION in operators:
        return False
    return tensors and not operators.isdisjoint((*WEIGHTED, SUPPRESSION))


def rows_by_values(model: ir.Model, spared: Spared, device: str) -> set[str]:
    """The names of nodes on rows that values choose, in stages that may have kernels on a device."""
    if not device or all(static_shape(value) is not None for node in model.graph for value in node.outputs):
        return set()
    try:
        stages = split(model, spared)
    except UnsupportedOperatorError:
        return set()
    return {node.name for stage in stages if stage.interpreted and has_kernels(stage, device)
            for node in stage.model.graph.node if node.op_type not in SIZED_BY_VALUES}


def program(model: ir.Model, stages: Sequence[Stage], interpreted: Sequence[bool], parts: Iterable[bytes]) -> Program:
    """The program that runs the stages, whose bytes `parts` are; of those that are interpreted they are models."""
    results = [str(value.name) for value in model.graph.outputs]
    plan = {"results": results, "stages": [
        {"interpreted": each, "inputs": stage.inputs, "outputs": stage.outputs}
        for stage, each in zip(stages, interpreted, strict=True)]}
    arrays = [np.frombuffer(data, np.uint8) for data in (json.dumps(plan).encode(), *parts)]
    return Program(b"", STAGES, tuple(arrays), _specs(model.graph.inputs, input_names(model)),
                   _specs(model.graph.outputs, output_names(model)))


def _specs(values: Sequence[ir.Value], names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """The signature; sizes that only the run tells are `UNKNOWN`."""
    specs = []
    for value, name in zip(values, names, strict=True):
        dims = (None,) if value.shape is None else value.shape
        shape = tuple(dim if isinstance(dim, int) else UNKNOWN for dim in dims)
        specs.append(TensorSpec(name, "float32" if value.dtype is None else value.dtype.numpy().name, shape))
    return tuple(specs)
