"""What sessions compute without kernels where the run tells the sizes, with why, and what would give it kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from sparsec.compiler.outside import WEIGHTED, in_bodies
from sparsec.compiler.report import Outside
from sparsec.compiler.samples import advised
from sparsec.compiler.sized.stage import RowStage
from sparsec.compiler.sized.staged import Staged
from sparsec.graph.constants import constant
from sparsec.graph.nodes import LAYERS, node_name
from sparsec.graph.shapes import SIZED_BY_VALUES
from sparsec.passes.context import Spared

NUMPY = "numpy computes it where the run tells the sizes, slower than onnxruntime"
REFERENCE = "ONNX's reference computes it where the run tells the sizes, much slower than onnxruntime"


def outside(found: Staged, graph: ir.Graph, left: Sequence[Outside], spared: Spared) -> Iterator[Outside]:
    """What sessions compute without kernels, once each.

    Those are the layers that are `left` in stages of rows or to a processor, products that are in none, what ONNX's
    reference runs, and what the target has no implementation for.
    """
    told = {each.layer: each for each in left}  # for every number of rows alike
    yield from told.values()
    sizes = fixed_sizes(graph, found.plan.limits, found.fixed)
    for node in found.plan.stages:
        if isinstance(node, RowStage):
            continue
        interpreted, lacking = node in found.plan.interpreted, spared.why_interpreted(node)
        product = (node not in found.plan.computed and not node.domain and node.op_type in WEIGHTED
                   and _is_product(node, found))
        if node_name(node) not in told and (interpreted or product or lacking):
            how = REFERENCE if interpreted else NUMPY
            yield Outside(node_name(node), node.op_type, f"{how}; {lacking or _ways(node, sizes)}")
        if interpreted:
            yield from in_bodies(node)


def _ways(node: ir.Node, sizes: str) -> str:
    """What gives a node kernels, or why nothing does."""
    if node.op_type in SIZED_BY_VALUES:
        return "what it gives is as large as values say, at fixed sizes, too"
    made = node.outputs[0].dtype
    if node.op_type in LAYERS and made != ir.DataType.FLOAT:
        return f"it computes in {made}, and kernels in float32 only"
    return f"fixed sizes have kernels ({sizes})"


def fixed_sizes(graph: ir.Graph, limits: Mapping[str, tuple[int, int]], fixed: Mapping[str, int]) -> str:
    """How the options say fixed sizes, by an example that holds together: totals are sums, images have pixels."""
    sizes = advised(graph.inputs, limits)
    sizes |= {name: size for name, size in fixed.items() if name in sizes}
    return f"such as dims={sizes}" if sizes else "by shapes"


def _is_product(node: ir.Node, found: Staged) -> bool:
    """Whether a node multiplies matrices, not only numbers by each other as positions by frequencies."""
    shape = found.symbols.shape(node.inputs[0])
    inner = None if shape is None or not shape else shape[-1].number
    return constant(node.inputs[1]) is not None or inner != 1
