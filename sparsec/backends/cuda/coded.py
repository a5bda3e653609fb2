"""Codes of 8 bits between products: where the model or samples give them, and which kernel makes them.

A product whose result is only quantised, by the model or for products that read the same codes of it, makes the codes
itself. Elsewhere a kernel makes them of what is stored, once for all that read them.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.cuda.context import CudaContext, dtype_of
from sparsec.backends.relax.importer.node import Indices, compute
from sparsec.cost.plan import CHOICE
from sparsec.graph.annotations import HALF
from sparsec.graph.nodes import on_the_left, operand
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.quantized import dequantization, quantization
from sparsec.kernels.cuda import encoding
from sparsec.kernels.cuda.codes import Codes, of_range
from sparsec.kernels.cuda.families import FAMILIES
from sparsec.kernels.emit.tir import Expr
from sparsec.kernels.ranges import RANGES

LAYERS = ("MatMul", "Conv")


def given(node: ir.Node) -> Codes | None:
    """The codes that a layer's input is dequantised from, None where the model does not say them as constants."""
    found = dequantization(node.inputs[0])
    if found is None or found.codes.const_value is not None:
        return None
    return Codes(found.dtype, found.scale, found.zero_point)


def ranges(node: ir.Node) -> tuple[float, float] | None:
    """The least and the largest number of a layer's input in samples."""
    found = RANGES.get(node)
    return None if found is None else (float(found.least.min()), float(found.largest.max()))


def read(node: ir.Node) -> Codes | None:
    """The codes that the kernel of a planned layer reads, None where it reads floats."""
    choice = CHOICE.get(node)
    dtype = "" if choice is None else FAMILIES[choice.winner.option.family].dtype
    if not dtype:
        return None
    found = ranges(node)
    if (codes := given(node)) is not None:
        return codes
    assert found is not None  # it was offered
    return of_range(*found, dtype, padded=is_padded(node))


def is_padded(node: ir.Node) -> bool:
    """Whether a convolution reads zeros around its image."""
    return node.op_type == "Conv" and any(node.attributes.get_ints("pads", ()))


def is_written(node: ir.Node) -> bool:
    """Whether the input of a layer comes from another, and only layers read it, so that the other makes the codes."""
    value = operand(node, 0)
    maker = value.producer()
    users = [use.node for use in value.uses()]
    return maker is not None and _makes(maker) and _stays(value) and all(_takes(user, maker) for user in users)


def written(node: ir.Node) -> tuple[ir.Value, Codes] | None:
    """What a planned layer computes in place of its floats: the codes of a value, None where it gives floats."""
    value, choice = node.outputs[0], CHOICE.get(node)
    if not _makes(node) or not _stays(value) or choice is None or FAMILIES[choice.winner.option.family].library:
        return None
    users = [use.node for use in value.uses()]
    if len(users) == 1 and (found := quantization(users[0], "QuantizeLinear")) is not None:
        scale, zero_point, dtype = found
        return users[0].outputs[0], Codes(dtype, scale, zero_point)
    codes = {read(user) if _takes(user, node) else None for user in users}
    only = codes.pop() if len(codes) == 1 else None
    return None if only is None else (value, only)


def _is_layer(node: ir.Node | None) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type in LAYERS


def _makes(node: ir.Node) -> bool:
    """Whether a node is a product that may compute codes."""
    return _is_layer(node) and node.attributes.get_int("group", 1) == 1 and not on_the_left(node)


def _takes(user: ir.Node, maker: ir.Node) -> bool:
    """Whether a layer reads what another computes as its activations alone, in the order in which it lies."""
    return _is_layer(user) and user.op_type == maker.op_type and _first_only(user, maker.outputs[0])


def _first_only(user: ir.Node, value: ir.Value) -> bool:
    """Whether a layer reads a value as its activations, and as nothing else."""
    return user.inputs[0] is value and value not in user.inputs[1:] and not on_the_left(user)


def _stays(value: ir.Value) -> bool:
    """Whether a value is neither returned nor handed from one stage of a model to another."""
    return not value.is_graph_output() and HALF.get(value) is None and bool(value.uses())


def place(context: CudaContext, node: ir.Node, *, image: bool) -> relax.Expr:
    """The codes that a planned layer reads, in the shape of its input; an image's channels come last."""
    value, codes = operand(node, 0), read(node)
    assert codes is not None
    source = dequantization(value)
    if source is not None and given(node) is not None and source.codes in context.env:
        return _in_order(context, source.codes, image=image)
    key = value, codes, image
    if key not in context.coded:
        floats = context.image(value) if image else context.stored(value, context.shape(value))
        context.coded[key] = _encode(context, floats, codes)
    return context.coded[key]


def _in_order(context: CudaContext, codes: ir.Value, *, image: bool) -> relax.Expr:
    """Codes that are bound, or an image of them with its channels last."""
    shape = context.shape(codes)
    if not image:
        return context.tensor(codes)
    batch, channels, *spatial = shape
    if codes in context.channels_last:
        return context.reshaped(context.env[codes], (batch, *spatial, channels))
    return context.bb.emit(relax.op.permute_dims(context.tensor(codes), [0, *range(2, len(shape)), 1]))


def _encode(context: CudaContext, floats: relax.Expr, codes: Codes) -> relax.Expr:
    """The codes of floats, by a kernel."""
    shape = tuple(int(dim) for dim in floats.ty.shape)
    size = math.prod(shape)
    kernel = encoding.build(size, dtype_of(floats), codes.dtype)
    made = context.launch(kernel, [context.reshaped(floats, (size,)), context.constant(codes.numbers)],
                          [(size, codes.stored)], "codes")
    return context.reshaped(made, shape)


def bind(context: CudaContext, node: ir.Node, result: relax.Expr, *, image: bool) -> bool:
    """Record what a layer has computed, where that is codes; False where it is floats."""
    found = written(node)
    if found is None:
        return False
    value, codes = found
    if value is node.outputs[0]:
        context.coded[value, codes, image] = result
    elif image:
        context.bind_image(value, result)
    else:
        context.bind(value, result)
    return True


def lower_quantize(context: CudaContext, node: ir.Node) -> bool:
    """A QuantizeLinear of what is codes already, or by one scale; False for others."""
    value, found = node.inputs[0], quantization(node, "QuantizeLinear")
    if node.outputs[0] in context.env:
        return True
    if value is None or found is None or value.dtype != ir.DataType.FLOAT or value.const_value is not None:
        return False
    scale, zero_point, dtype = found
    info = np.iinfo(dtype)

    def element(i: Indices, x: te.Tensor) -> Expr:
        moved = tirx.nearbyint(x[i] / tirx.const(scale, "float32")) + tirx.const(zero_point, "float32")
        least, largest = (tirx.const(each, "float32") for each in (info.min, info.max))
        inside = tirx.Select(moved > least, tirx.Select(moved < largest, moved, largest), least)  # of NaN the least
        return inside.astype("int32").astype(dtype)

    context.bind(node.outputs[0], compute(context, "quantize", context.shape(value), element, context.tensor(value)))
    return True


def lower_dequantize(context: CudaContext, node: ir.Node) -> bool:
    """A DequantizeLinear of what only layers read, as codes; False for one that computes floats."""
    value = node.outputs[0]
    return node.inputs[0] in context.env and _stays(value) and all(
        _is_layer(use.node) and _first_only(use.node, value) and read(use.node) is not None for use in value.uses())
