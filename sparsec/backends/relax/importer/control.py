"""If, Loop and Scan: branches are chosen now or computed both, iterations are unrolled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import Operator, bind_typed, imports_of, opset_of, slice_at
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.loops import UNROLLED, unrolled

op = relax.op


def if_(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """If: the branch that a constant chooses; else both, as branches have no effects but their values."""
    condition = context.array(node.inputs[0])
    graphs = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    if condition is not None:
        return _lower_body(context, node, graphs[0 if condition.all() else 1])
    both = [_lower_body(context, node, graph) for graph in graphs]
    chosen = op.reshape(context.tensor(node.inputs[0]), ())
    return [op.where(chosen, then, otherwise) for then, otherwise in zip(*both, strict=True)]


def _lower_body(context: LoweringContext, node: ir.Node, graph: ir.Graph) -> list[relax.Expr]:
    """The outputs of a subgraph whose inputs are bound."""
    for inner in graph.all_nodes():
        if inner.version is None:
            inner.version = imports_of(node).get(inner.domain, node.version or 1)
    for inner in graph:
        try:
            context.lower_node(context, inner)
        except UnsupportedOperatorError as error:
            raise UnsupportedOperatorError(f"its body needs {inner.op_type}: {error}") from error
    return [context.tensor(result) for result in graph.outputs]


def scan(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Scan of opset 9 and newer."""
    if opset_of(node) < 9:
        raise UnsupportedOperatorError("before opset 9 its sequences have a batch axis; export with a newer opset")
    body, attributes = node.attributes["body"].as_graph(), node.attributes
    count = attributes.get_int("num_scan_inputs") or 0
    states, sequences = node.inputs[:-count], node.inputs[-count:]
    axes = attributes.get_ints("scan_input_axes", ()) or (0,) * count
    directions = attributes.get_ints("scan_input_directions", ()) or (0,) * count
    steps = context.shape(sequences[0])[axes[0]]
    current = [context.tensor(value) for value in states]
    collected: list[list[relax.Expr]] = [[] for _ in body.outputs[len(states):]]
    _check_size(node, steps)
    for step in range(steps):
        slices = [slice_at(context, context.tensor(value), steps - 1 - step if backward else step, axis)
                  for value, axis, backward in zip(sequences, axes, directions, strict=True)]
        results = _iterate(context, node, body, [*current, *slices])
        current = results[:len(states)]
        for sequence, result in zip(collected, results[len(states):], strict=True):
            sequence.append(result)
    out_axes = attributes.get_ints("scan_output_axes", ()) or (0,) * len(collected)
    backwards = attributes.get_ints("scan_output_directions", ()) or (0,) * len(collected)
    return [*current, *(op.stack(sequence[::-1] if backward else sequence, axis)
                        for sequence, axis, backward in zip(collected, out_axes, backwards, strict=True))]


def loop(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Loop with a number of iterations that is a constant, or the length of the sequences that it collects."""
    body, count = node.attributes["body"].as_graph(), len(node.inputs) - 2
    trips, condition = (context.array(value) for value in node.inputs[:2])
    sequences = node.outputs[count:]
    if sequences and sequences[0].shape is not None and sequences[0].shape.is_static():
        steps = context.shape(sequences[0])[0]
    elif trips is not None and (node.inputs[1] is None or (condition is not None and condition.all())):
        steps = int(trips.reshape(()))
    else:
        raise UnsupportedOperatorError("the number of iterations is not known at compile time")
    _check_size(node, steps)
    current = [context.tensor(value) for value in node.inputs[2:]]
    collected: list[list[relax.Expr]] = [[] for _ in sequences]
    for step in range(steps):
        results = _iterate(context, node, body, [np.array(step), np.array(True), *current])
        if not sequences and context.array(body.outputs[0]) is None:
            raise UnsupportedOperatorError("its condition is computed at run time")
        current = results[1:1 + count]
        for sequence, result in zip(collected, results[1 + count:], strict=True):
            sequence.append(result)
    return [*current, *(op.stack(sequence, 0) for sequence in collected)]


def _check_size(node: ir.Node, steps: int) -> None:
    """Refuse what would unroll into too much, and what never runs and so has no outputs to take the shape from."""
    if not 0 < unrolled(node) <= UNROLLED:
        raise UnsupportedOperatorError(f"{steps} iterations of its body unroll to none or over {UNROLLED} nodes")


def _iterate(context: LoweringContext, node: ir.Node, body: ir.Graph,
             inputs: Sequence[relax.Expr | np.ndarray]) -> list[relax.Expr]:
    """One iteration: the body's outputs for these inputs; arrays are known at compile time."""
    for value in (*body.inputs, *(value for inner in body.all_nodes() for value in inner.outputs)):
        context.forget(value)
    for value, given in zip(body.inputs, inputs, strict=True):
        if isinstance(given, np.ndarray):
            context.know(value, given)
        else:
            bind_typed(context, value, given)
    return _lower_body(context, node, body)


OPERATORS: dict[str, Operator] = {"If": if_, "Loop": loop, "Scan": scan}
