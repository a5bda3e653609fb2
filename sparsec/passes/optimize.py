"""Generic optimisation, by onnxscript: constants, BatchNorm into Conv and Gemm, dropout, and moves that change nothing.

Constants fold whatever their size, so that a weight behind Transpose, Cast or ConstantOfShape is a plain weight again;
quantisation nodes stay. Sum becomes Add.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir

from sparsec import files
from sparsec.errors import ModelError
from sparsec.graph.constants import add_constant
from sparsec.graph.large import is_large
from sparsec.graph.nodes import node_name
from sparsec.graph.quiet import quiet
from sparsec.graph.shapes import static_shape
from sparsec.graph.verify import infer
from sparsec.passes import rewrite, wide
from sparsec.passes.context import Context, Report
from sparsec.passes.fold_large import fold_large
from sparsec.passes.rewrite_all import rewrite_all

GROWTH, GROWN_BYTES = 8, files.FREE_BYTES
"""Times its inputs' bytes that a constant may always take, and the bytes of all that are larger."""
GROWING = ("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "OneHot", "Resize", "Upsample", "EyeLike", "GatherND",
           "Gather", "Concat", "Einsum", "MatMul", "RandomNormal", "RandomUniform", "SequenceAt", "ScatterND")
"""Operators whose output may be of any size whatever that of their inputs."""


def run(model: ir.Model, _context: Context) -> Report:
    """Optimises the graph in place; raises ModelError where a node's constants do not evaluate."""
    before = Counter(node.op_type for node in model.graph)
    names = {output.name: node.name for node in model.graph for output in node.outputs}
    wide.split(model)
    folding = _Folding()
    fold_large(model.graph, folding.affords)
    for node in list(model.graph):
        if node.op_type == "Sum" and node.domain == "":
            _sum_to_adds(node)
    rewrite.clean(model)  # also drops absent trailing inputs, on which onnxscript's BatchNorm rule fails
    try:
        with quiet():
            rewrite_all(model, folding.allows)
    except RuntimeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"folding constants failed: {' '.join(str(cause).split())}; check the model in onnxruntime",
                         ) from error
    _register_constants(model.graph)
    _name_again(model, names)
    infer(model, "the optimised model")
    removed = before - Counter(node.op_type for node in model.graph)
    return Report("optimize", bool(removed), {f"{kind} removed": count for kind, count in sorted(removed.items())})


def _register_constants(graph: ir.Graph) -> None:
    """Make initializers of the constants that onnxscript forgets, whose rules name them after their input only."""
    for node in graph.all_nodes():
        for index, value in enumerate(node.inputs):
            if (value is not None and value.const_value is not None and value.producer() is None
                    and not value.is_initializer() and not value.is_graph_input()):
                name = f"{node_name(node)}.constant{index}"
                node.replace_input_with(index, add_constant(graph, name, value.const_value.numpy()))


class _Folding:
    """Which constants may fold: what is no weight that another was made into must not fill the memory.

    Others are left to run time: those that are much larger than what they follow from, beyond `GROWN_BYTES` in all.
    """

    def __init__(self) -> None:
        self.left = GROWN_BYTES

    def allows(self, node: ir.Node) -> bool | None:
        """Whether a node folds; None leaves the decision to onnxscript, which makes arrays."""
        if any(value is not None and is_large(value.const_value) for value in node.inputs):
            return False
        return self.affords(node)

    def affords(self, node: ir.Node) -> bool | None:
        """Whether a node's result is not too large for what it follows from; None where that is not known."""
        given = sum(_nbytes(value) or 0 for value in node.inputs if value is not None)
        made = [_nbytes(value) for value in node.outputs]
        known = [each for each in made if each is not None]
        if len(known) < len(made):
            return False if node.op_type in GROWING else None
        if sum(known) > GROWTH * given:
            if sum(known) > self.left:
                return False
            if node.op_type in GROWING:
                self.left -= sum(known)
        return True if node.op_type == "ConstantOfShape" else None


def _nbytes(value: ir.Value) -> int | None:
    """Bytes of a value, None where its type or shape is not known."""
    shape = static_shape(value)
    return None if shape is None or value.dtype is None else math.prod(shape) * -(-value.dtype.bitwidth // 8)


def _name_again(model: ir.Model, names: Mapping[str | None, str | None]) -> None:
    """Gives nodes that took the place of others their names, by what they compute."""
    kept = {node.name for node in model.graph}
    for node in model.graph:
        old = names.get(node.outputs[0].name)
        if old and old not in kept and node.name not in names.values():
            node.name = old


def _sum_to_adds(node: ir.Node) -> None:
    """Sum(a, b, c) -> Add(Add(a, b), c)."""
    total, *rest = node.inputs
    for value in rest:
        add = ir.node("Add", [total, value])
        node.prepend(add)
        total = add.outputs[0]
        total.type = node.outputs[0].type
    if not rest:
        identity = ir.node("Identity", [total])
        node.prepend(identity)
        total = identity.outputs[0]
    assert total is not None and node.graph is not None  # noqa: PT018  # Sum has at least one input
    rewrite.take_over(total, node.outputs[0])
    node.graph.remove(node, safe=True)
