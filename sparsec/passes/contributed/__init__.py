"""onnxruntime's own operators (domain com.microsoft), which its optimiser and Olive leave, written out in ONNX's.

So are the linear models of ai.onnx.ml, and ONNX's newer operators where sizes are symbolic.
Definitions follow onnxruntime's docs/ContribOperators.md and its CPU kernels; later passes fuse what they know again.
Quantised operators are read by `passes.quantized`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import onnx_ir as ir

from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.verify import infer
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Report
from sparsec.passes.contributed import (
    attention,
    classical,
    experts,
    fused,
    norms,
    recurrent,
    renamed,
    standard,
)
from sparsec.passes.contributed.body import Body

DOMAIN = "com.microsoft"
WRITERS: dict[str, Callable[[Body], None]] = {**attention.WRITERS, **experts.WRITERS, **fused.WRITERS, **norms.WRITERS,
                                           **renamed.WRITERS}
DOMAINS = {DOMAIN: WRITERS, classical.DOMAIN: classical.WRITERS}
"""What is written out wherever it stands, by domain and operator."""


def run(model: ir.Model, _context: Context) -> Report:
    """Writes every operator out, in place, in rounds: what stands behind one may need the shapes in front.

    Raises:
        UnsupportedOperatorError: an operator has a form that is not taken.

    """
    counts: Counter[str] = Counter()
    restated = bool(restate(model))
    while nodes := list(_contributed(model)):
        done, waiting = 0, None
        ready = [node for node in nodes if not any(_pending(value) for value in node.inputs)]
        for node in ready or nodes:
            try:
                _write(model, node)
            except UnsupportedOperatorError as error:
                waiting = error
                continue
            counts[node.op_type] += 1
            done += 1
        if not done:
            raise waiting or UnsupportedOperatorError(f"node '{nodes[0].name}' ({nodes[0].op_type}) depends on itself")
        rewrite.clean(model)
        infer(model, "the graph with contributed operators written out")
    return Report("contributed", bool(counts) or restated, counts, restated=restated)


def restate(model: ir.Model) -> int:
    """Write the recurrent layers out that onnxruntime does not run and ONNX's reference only in part; returns how many.

    What outputs are compared with is the model in this form.
    """
    found = [node for node in model.graph.all_nodes() if not node.domain and node.op_type in recurrent.WRITERS
             and recurrent.is_known_to_none(node)]
    for node in found:
        _write(model, node)
    if found:
        rewrite.clean(model)
        infer(model, "the graph with recurrent layers written out")
    return len(found)


def _contributed(model: ir.Model) -> Iterator[ir.Node]:
    for node in model.graph.all_nodes():
        newer = not node.domain and node.op_type in standard.WRITERS and standard.WANTED[node.op_type](node)
        if newer or node.op_type in DOMAINS.get(node.domain, ()):
            yield node


def _pending(value: ir.Value | None) -> bool:
    """Whether nothing is known of a value, as what computes it is not written out yet."""
    return value is not None and value.shape is None


def _write(model: ir.Model, node: ir.Node) -> None:
    body = Body(node, model.opset_imports[""], _float(node))
    DOMAINS.get(node.domain, standard.WRITERS)[node.op_type](body)
    assert node.graph is not None
    if any(output.uses() or output.is_graph_output() for output in node.outputs):
        raise body.refused("one of its outputs is not taken")
    node.graph.remove(node, safe=True)


def _float(node: ir.Node) -> ir.DataType:
    """The element type of the node's floating-point inputs."""
    types = (value.dtype for value in node.inputs if value is not None and value.dtype is not None)
    return next((dtype for dtype in types if dtype.is_floating_point()), ir.DataType.FLOAT)
