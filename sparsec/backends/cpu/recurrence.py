"""Lowering of sparsec::Recurrence: the kernel that the plan chose for one step, repeated inside one kernel."""

from __future__ import annotations

import functools
from collections.abc import Hashable

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.weights import bias_vector, chosen, constant_vector
from sparsec.graph.nodes import optional, weight_array
from sparsec.graph.operators.recurrence import Activation
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cpu.families import FAMILIES
from sparsec.kernels.cpu.rows import recurrence
from sparsec.kernels.cpu.rows.layer import RowProduct
from sparsec.kernels.cpu.rows.recurrence import Recurrence
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Kernel

LENGTHS = 5
"""The input that says where members of the batch end."""


def shape_of(node: ir.Node) -> Recurrence:
    """The recurrence that a node is."""
    steps, batch, _ = static_shape(node.inputs[0]) or ()
    attributes, hidden = node.attributes, weight_array(node).shape[1]
    return Recurrence(attributes.get_string("cell", ""), steps, batch, hidden,
                      tuple(map(Activation.read, (attributes.get_string("activations") or "").split())),
                      backwards=bool(attributes.get_int("reverse")), peepholes=optional(node, 6) is not None,
                      lengths=optional(node, LENGTHS) is not None, clip=attributes.get_float("clip", 0.0) or 0.0)


def layer_of(node: ir.Node, _isa: Isa) -> RowProduct:
    """The product of one step."""
    return RowProduct(weight_array(node), bias_vector(node), shape_of(node).product)


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit all steps."""
    shape, option = shape_of(node), chosen(node)
    state = shape.batch * shape.hidden
    sizes = (state, state, shape.batch, 3 * shape.hidden)
    arguments = [context.constant(array) for array in _constants(node, shape)]
    arguments += [context.flat(node.inputs[0]),
                  *(_given(context, node, place, size) for place, size in enumerate(sizes, 3))]
    kernel = _build(option.family, option.params, shape, context.isa)
    context.bind(node.outputs[0], context.call(kernel, arguments, (shape.steps + 2) * state))


def of_any_length(node: ir.Node, isa: Isa) -> tuple[Kernel, tuple[np.ndarray, ...]]:
    """The kernel of a planned node for any number of steps, and its constants, of which the peepholes are the last."""
    shape, option = shape_of(node), chosen(node)
    family = FAMILIES[option.family]
    peepholes = constant_vector(node, 6)
    kernel = recurrence.build_sized(family.build, option.params, shape, isa)
    last = np.zeros(3 * shape.hidden, np.float32) if peepholes is None else peepholes
    return kernel, (*_constants(node, shape), last)


def _constants(node: ir.Node, shape: Recurrence) -> list[np.ndarray]:
    """The arrays of every product of a step, each with its bias."""
    option, weight, bias = chosen(node), weight_array(node), bias_vector(node)
    arrays, first = list[np.ndarray](), 0
    for params in recurrence.params_of(option.params, shape):
        end = first + params.shape.outputs
        packed = FAMILIES[option.family].recipe(params).pack(weight[first:end])
        arrays += [*packed.values(), np.ascontiguousarray(bias[first:end])]
        first = end
    return arrays


def _given(context: LoweringContext, node: ir.Node, place: int, size: int) -> relax.Expr:
    """An optional input, flat; zeros where it is absent."""
    value = optional(node, place)
    if value is not None:
        return context.flat(value)
    return context.constant(np.zeros(size, np.int32 if place == LENGTHS else np.float32))


@functools.lru_cache(maxsize=64)
def _build(family: str, params: Hashable, shape: Recurrence, isa: Isa) -> Kernel:
    """The kernel; layers with equal parameters share the object, and so the compiled code."""
    return recurrence.build(FAMILIES[family].build, params, shape, isa)
