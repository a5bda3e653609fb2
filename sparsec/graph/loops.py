"""How often the bodies of Loop and Scan run, where that is known before they do."""

from __future__ import annotations

import math

import onnx_ir as ir

from sparsec.graph.constants import constant
from sparsec.graph.nodes import bodies, optional, read_by
from sparsec.graph.shapes import static_shape

LOOPS = ("Loop", "Scan")

UNROLLED = 2000
"""Nodes up to which a loop is unrolled, those of loops within it each time that they run."""


def trips(node: ir.Node) -> int | None:
    """How often a Loop's or Scan's body runs, None where only the run tells."""
    if node.op_type == "Scan":
        count, axes = node.attributes.get_int("num_scan_inputs") or 1, node.attributes.get_ints("scan_input_axes", ())
        shape = static_shape(node.inputs[-count])
        return None if not shape else shape[axes[0] if axes else 0]
    collected = node.outputs[len(node.inputs) - 2:]
    if collected and (shape := static_shape(collected[0])):
        return shape[0]
    most, condition = constant(optional(node, 0)), optional(node, 1)
    starts = condition is None or ((first := constant(condition)) is not None and bool(first.all()))
    return int(most.reshape(())) if most is not None and most.size == 1 and starts and _goes_on(node) else None


def _goes_on(loop: ir.Node) -> bool:
    """Whether the condition after a trip follows from constants and from the number of the trip."""
    body, = bodies(loop)
    inside, seen, waiting = set(body), {*body.inputs[:2]}, [body.outputs[0]]
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if producer in inside:
            waiting += read_by(producer)
        elif constant(value) is None:
            return False
    return True


def unrolled(node: ir.Node) -> float:
    """The nodes that stand for a node once all loops within it are unrolled; infinite where only the run tells."""
    inner = sum(unrolled(each) for graph in bodies(node) for each in graph)
    if node.op_type not in LOOPS or node.domain:
        return 1 + inner
    times = trips(node)
    return math.inf if times is None else times * max(1, inner)
