"""The kernels for a linear layer on few rows of activations (batch 1 above all), as options, and their emission."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.cpu.context import LoweringContext
from sparsec.backends.cpu.weights import bias_vector, epilogue_of, weight_array
from sparsec.graph.shapes import static_shape
from sparsec.kernels import well
from sparsec.kernels.isa import Isa
from sparsec.kernels.matvec import Matvec
from sparsec.option import Option, Work

MAX_ROWS = 8  # rows of activations that a kernel keeps in flight


def shape_of(node: ir.Node) -> Matvec:
    """The product of a sparsec::MatMul whose activations lie row-major."""
    weight, epilogue = weight_array(node), epilogue_of(node)
    rows = math.prod((static_shape(node.inputs[0]) or ())[:-1])
    return Matvec(weight.shape[0], weight.shape[1], rows, epilogue.activation, epilogue.alpha, epilogue.beta,
                  epilogue.residual)


def options(node: ir.Node, isa: Isa) -> list[Option]:
    """Every way to run the layer."""
    return [*_well_options(node, isa)]


def _well_options(node: ir.Node, isa: Isa) -> Iterator[Option]:
    weight, shape = weight_array(node), shape_of(node)
    if well.reject(isa) is not None or shape.batch > MAX_ROWS:
        return
    params = well.WellParams(shape, sort=well.sorting_pays(weight, isa.lanes), lanes=isa.lanes, threads=isa.threads)
    nonzeros = int(np.count_nonzero(weight))
    slots = well.slot_count(weight, params)
    nbytes = slots * (isa.lanes * 5 + 2)
    yield Option("well", "well/f32", f"lanes={isa.lanes} sort={params.sort} fill={nonzeros / max(1, slots) / isa.lanes:.2f}",
                 params, nbytes, Work(slots * shape.batch, slots * (2.5 + 2 * shape.batch), params.groups, nbytes))


@functools.lru_cache(maxsize=256)
def build(params: Any) -> Any:
    """The kernel; layers with equal parameters share the object, and so the compiled code."""
    return well.build(params)


def emit(context: LoweringContext, node: ir.Node, params: Any) -> relax.Expr:
    """The layer's output, row-major and flat."""
    weight = weight_array(node)
    constants = [*well.pack(weight, params).values(), bias_vector(node)]
    inputs = [node.inputs[i] for i in (0, 3) if i < len(node.inputs) and node.inputs[i] is not None]
    size = params.shape.batch * params.shape.outputs
    return context.call(build(params), [*map(context.constant, constants), *map(context.flat, inputs)], size)
