"""From a planned graph to one Relax module: what every backend's lowering shares.

A backend makes a `LoweringContext` of its own, whose `lower_node` knows its kernels, and calls `lower_in`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import tvm
from tvm import relax

from sparsec.backends.program import TensorSpec
from sparsec.backends.relax.context import LoweringContext
from sparsec.errors import UnsupportedOperatorError, counted
from sparsec.graph.interface import input_names, output_names
from sparsec.graph.nodes import node_name, operator_of
from sparsec.target import Target


@dataclass(frozen=True)
class Lowered:
    """A Relax module with its signature; `module["main"]` takes `inputs`, then `constants`, and returns `outputs`."""

    module: tvm.IRModule
    target: Target
    threads: int
    constants: tuple[np.ndarray, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    calls: tuple[tuple[str, str], ...]


def lower_in(context: LoweringContext, model: ir.Model, threads: int,
             result: Callable[[LoweringContext, ir.Value], relax.Expr]) -> Lowered:
    """Lower a model in a context of its own; `result` makes of a graph's output what is returned for it."""
    graph = model.graph
    inputs = [value for value in graph.inputs if value.const_value is None]
    emit_function(context, "main", Part(tuple(graph), tuple(inputs), tuple(graph.outputs)), model.opset_imports, result)
    module = context.bb.get()
    module["main"] = module["main"].with_attr("num_input", len(inputs))  # TVM's machine checks these, no constants
    return Lowered(module, context.target, threads, tuple(context.constants.values()),
                   tuple(_spec(context, value, name)
                         for value, name in zip(graph.inputs, input_names(model), strict=True) if value in inputs),
                   tuple(_spec(context, *each) for each in zip(graph.outputs, output_names(model), strict=True)),
                   tuple(context.calls))


@dataclass(frozen=True)
class Part:
    """Nodes of a graph, in order, that depend on no others: a function of the inputs."""

    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


def part_of(model: ir.Model, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> Part:
    """The nodes between inputs and outputs."""
    needed, waiting = set[ir.Node](), list(outputs)
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is not None and node not in needed and value not in inputs:
            needed.add(node)
            waiting += [each for each in node.inputs if each is not None]
    return Part(tuple(node for node in model.graph if node in needed), tuple(inputs), tuple(outputs))


def emit_function(context: LoweringContext, name: str, part: Part, opsets: Mapping[str, int],
                  result: Callable[[LoweringContext, ir.Value], relax.Expr]) -> None:
    """Add the function of a part, which takes its inputs and then the context's constants, to the module."""
    parameters = [_parameter(context, value, f"input_{index}") for index, value in enumerate(part.inputs)]
    with context.bb.function(name):
        try:
            with context.bb.dataflow():
                _lower_nodes(context, part.nodes, opsets)
                results = context.bb.emit_output(relax.Tuple([result(context, value) for value in part.outputs]))
        except Exception:
            context.bb._end_block()  # noqa: SLF001 - the builder prints a complaint if it dies with an open block
            raise
        context.bb.emit_func_output(results, [*parameters, *context.constants])


def _lower_nodes(context: LoweringContext, nodes: Sequence[ir.Node], opsets: Mapping[str, int]) -> None:
    """Lower every node in order; nodes behind a refused one are not reported, as nothing is known of their inputs."""
    refused: dict[str, tuple[str, str]] = {}
    missing: set[ir.Value] = set()
    for node in nodes:
        context.node = node
        if missing.isdisjoint(node.inputs):
            try:
                context.lower_node(context, node)
                continue
            except UnsupportedOperatorError as error:
                opset = opsets.get(node.domain, "none")
                refused[node_name(node)] = f"{operator_of(node)} (opset {opset})", str(error)
        missing.update(node.outputs)
    if refused:
        listed = "; ".join(f"node '{name}': {operator}: {reason}" for name, (operator, reason) in refused.items())
        raise UnsupportedOperatorError(f"{counted(len(refused), 'node')} cannot be lowered for {context.target.name}: "
                                       f"{listed}", {name: reason for name, (_, reason) in refused.items()})


def has_own_memory(context: LoweringContext, expr: relax.Expr, returned: set[relax.Expr]) -> bool:
    """Whether an output's expression lies in memory that is its alone, which is then among the `returned`.

    Inputs, constants and what is returned for another output are others'; a reshape lies where its source does.
    """
    while isinstance(expr, relax.DataflowVar):
        bound = context.bb.lookup_binding(expr)
        view = isinstance(bound, relax.Call) and getattr(bound.op, "name", "") == "relax.reshape"
        if not view and not isinstance(bound, relax.Var | tvm.ir.GenericConst):
            own = expr not in returned
            returned.add(expr)
            return own
        expr = bound.args[0] if view else bound
    return False


def _parameter(context: LoweringContext, value: ir.Value, name: str) -> relax.Var:
    """The parameter of `main` for an input of the model."""
    parameter = relax.Var(name, relax.TensorType(context.shape(value), context.given(value)))
    context.bind(value, parameter)
    return parameter


def _spec(context: LoweringContext, value: ir.Value, name: str) -> TensorSpec:
    """The signature entry of an input or output."""
    return TensorSpec(name, context.dtype(value), context.shape(value))
