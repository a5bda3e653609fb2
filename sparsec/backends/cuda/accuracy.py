"""What numbers of 8 bits do to a layer, and why layers that might have them compute in half precision."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.base import Judge
from sparsec.backends.cuda.planning import layer_of
from sparsec.backends.job import Job
from sparsec.backends.observing import calibrated
from sparsec.cost.option import Option
from sparsec.cost.precisions import CALIBRATED
from sparsec.graph.compare import relative_error
from sparsec.graph.nodes import on_the_left, weight_array
from sparsec.kernels.cuda import eight_bits
from sparsec.kernels.cuda.families import FAMILIES
from sparsec.kernels.ranges import LayerSamples

SLOWER = "kernels of 8 bits are no faster"
NOT_IEEE = "strict IEEE keeps NaN and infinity, which numbers of 8 bits have none of"
DENSE = {"int8": (eight_bits.DENSE_INT8, eight_bits.GROUPS_INT8),
         "fp8": (eight_bits.DENSE_FP8, eight_bits.GROUPS_FP8)}
"""By precision the families that take every layer that computes with it, of single warps and of warp groups."""


def judge(graph: ir.Model, job: Job) -> Judge:
    """What tells the errors of options; samples calibrate the layers, and without any nothing but weights is rounded.

    Where nodes cannot be executed one by one, no error is known.
    """
    seen = calibrated(graph, job, _takes, CALIBRATED)
    return lambda node, option: None if node not in seen else layer_error(node, option, seen[node])


def _takes(node: ir.Node) -> bool:
    """Whether a node is a layer whose operands may have fewer bits."""
    return layer_of(node) is not None and not on_the_left(node)


def layer_error(node: ir.Node, option: Option, seen: LayerSamples) -> float | None:
    """The largest error of the product of a kernel's operands over the product's largest magnitude.

    None where the kernel computes with the numbers of the layer.
    """
    family, layer = FAMILIES[option.family], layer_of(node)
    if family.is_exact(option) or layer is None or (family.dtype and layer.given is not None):
        return None
    weight = weight_array(node).reshape(len(layer.weight), -1)
    exact = weight @ seen.columns
    if family.dtype:
        return relative_error(eight_bits.product(layer, weight, seen.columns, family.dtype), exact)
    return relative_error(family.reference(weight, seen.columns, option.params), exact)


def widened(node: ir.Node, option: Option, job: Job) -> str | None:
    """Why a layer that the model or the precision allows 8 bits computes in half precision, None where it does not."""
    layer = layer_of(node)
    if layer is None or FAMILIES[option.family].precision:
        return None
    precision = "int8" if layer.given is not None else job.precision
    if precision not in DENSE:
        return None
    archs = job.target.archs
    found = [family.offers(layer, job.target, archs, job.precision) for family in DENSE[precision]]
    reason = found[archs == (eight_bits.GROUPS,)]
    if isinstance(reason, str):
        return reason
    return NOT_IEEE if job.options.strict_ieee and layer.given is None else SLOWER
