"""What a model may ask for before anything is computed: nodes once its functions are inlined, and sizes of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from sparsec.errors import ModelError

MOST_NODES = 10_000
"""Nodes that compute, with those of nested graphs and of functions wherever they are called.

TVM takes more than twice as long for twice the nodes: minutes for a thousand, and days for a hundred thousand.
"""
MOST_CONSTANTS = 20_000
"""Nodes that are constants, as older exporters write every number: reading them takes a second for a thousand."""
MOST_ELEMENTS = (1 << 31) - 1
"""Elements of a tensor: kernels index with 32 bits, and TVM has shapes of as many."""
MOST_CALLS = 3000
"""Calls of functions: for every one of a function, onnx-ir's inliner tries the names of all before it."""


def check_nodes(model: onnx.ModelProto) -> None:
    """Count the nodes that inlining the model's functions makes, without inlining them.

    Raises:
        ModelError: there are more than `MOST_NODES`, `MOST_CONSTANTS`, or `MOST_CALLS` of functions.

    """
    bodies = {_key(each): each.node for each in model.functions}
    sizes: dict[tuple[str, str, str], tuple[int, int, int]] = {}
    open_calls: set[tuple[str, str, str]] = set()

    def count(nodes: Sequence[onnx.NodeProto]) -> tuple[int, int, int]:
        total = constants = calls = 0
        for node in every_node(nodes):
            key = (node.domain, node.op_type, node.overload)
            if key in bodies:
                own, fixed, within = size(key)
                total, constants, calls = total + own, constants + fixed, calls + within + 1
            elif node.op_type == "Constant" and not node.domain:
                constants += 1
            else:
                total += 1
        return total, constants, calls

    def size(key: tuple[str, str, str]) -> tuple[int, int, int]:
        if key in open_calls:
            return 1, 0, 0  # a function that calls itself, which inlining refuses
        if key not in sizes:
            open_calls.add(key)
            sizes[key] = count(bodies[key])
            open_calls.discard(key)
        return sizes[key]

    _check(*count(model.graph.node))


def _check(total: int, constants: int, calls: int) -> None:
    if calls > MOST_CALLS:
        raise ModelError(f"its functions are called {calls} times, and sparsec inlines up to {MOST_CALLS} calls; split "
                         "the model, or export it without functions")
    if constants > MOST_CONSTANTS:
        raise ModelError(f"it has {constants} Constant nodes with those of its functions, and sparsec takes up to "
                         f"{MOST_CONSTANTS}; fold them into initializers, by onnxsim or onnxruntime's optimiser")
    if total > MOST_NODES:
        raise ModelError(f"it has {total} nodes with those of its functions, and compiling takes longer than in "
                         f"proportion: sparsec takes up to {MOST_NODES}; split the model, or export whole layers as "
                         "single operators")


def every_node(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of graphs nested in them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for nested in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from every_node(nested.node)


def _key(function: onnx.FunctionProto) -> tuple[str, str, str]:
    return function.domain, function.name, function.overload
