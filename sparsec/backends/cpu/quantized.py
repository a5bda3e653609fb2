"""Lowering of the operators on quantised tensors over the layouts of images and tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.cpu.calls import KernelCall, call, emit
from sparsec.backends.cpu.codes import attribute, bounds_of, finish_of
from sparsec.backends.cpu.windows import block_diagonal, read, stencil_of
from sparsec.backends.relax.context import LoweringContext, Range
from sparsec.backends.relax.importer import integers as importer
from sparsec.backends.relax.weights import chosen, spatial, window
from sparsec.graph.codes import (
    FEW_ROWS,
    byte_parts,
    centred_weight,
    constant_residual,
    joins_residual,
    offset_of,
    padding_code,
    weight_fits,
)
from sparsec.graph.layout import PaddedFlat, Plain, Tiled, image_of, layout_of
from sparsec.graph.nodes import is_depthwise, operand, optional
from sparsec.graph.operators import integers, products
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cpu.codes import depthwise, elementwise, mean
from sparsec.kernels.cpu.codes.layer import CodesProduct
from sparsec.kernels.cpu.codes.rows import RowsOfCodes, RowsProduct
from sparsec.kernels.cpu.codes.rows_image import ImageRows
from sparsec.kernels.cpu.codes.walk import Tiling
from sparsec.kernels.cpu.products.stencil import Stencil, linear
from sparsec.kernels.emit.codes import FOUR
from sparsec.kernels.emit.isa import Isa

FEW_PIXELS = 64  # that may be rows: an image of 8 x 8


def in_layout(node: ir.Node) -> bool:
    """Whether the layout pass gave the node a kernel on codes."""
    return any(not isinstance(layout_of(value), Plain) for value in (node.inputs[0], node.outputs[0]))


def _stencil(node: ir.Node, lanes: int) -> Stencil:
    source = layout_of(node.inputs[0])
    if isinstance(source, Tiled):
        return linear(source, (static_shape(node.inputs[1]) or (0,))[0], lanes)
    return stencil_of(node)


def _matrices(node: ir.Node) -> list[np.ndarray]:
    """Matrices of int8 (outputs, channels * taps) that add up to the weight; groups become blocks on the diagonal."""
    weight = centred_weight(node)
    assert weight is not None  # the layout pass takes constant weights only
    group = 1 if is_depthwise(node) else node.attributes.get_int("group", 1)
    return [np.ascontiguousarray(block_diagonal(part, group)) for part in byte_parts(weight)]


def has_few_rows(node: ir.Node) -> bool:
    """Whether a QMatMul has so few rows that they stay row-major, and a kernel for them."""
    shape = static_shape(node.inputs[0]) or ()
    residual = optional(node, products.RESIDUAL)
    alike = joins_residual(node) and (residual is None or residual.const_value is not None
                                      or residual.dtype == node.outputs[0].dtype)
    return (node.op_type == "QMatMul" and not in_layout(node) and 0 < math.prod(shape[:-1]) <= FEW_ROWS and alike
            and weight_fits(node))


def _rows_of(node: ir.Node, isa: Isa) -> RowsProduct:
    """The layer as a product of a few rows."""
    parts, shape = _matrices(node), static_shape(node.inputs[0]) or ()
    weight = np.concatenate(parts, axis=1)
    finish, numbers = finish_of(node, weight)
    result = "float32" if finish.real else attribute(node, "y_type", "uint8")
    signed = operand(node, 0).dtype == ir.DataType.INT8
    return RowsProduct(weight, numbers.begins, RowsOfCodes(
        math.prod(shape[:-1]), shape[-1], len(weight), finish, signed, result, isa.lanes, isa.threads, len(parts)),
                       numbers)


def layer_of(node: ir.Node, isa: Isa) -> CodesProduct | RowsProduct | None:
    """A QConv or QMatMul, None where it has one kernel or is written out in ONNX's operators."""
    if has_few_rows(node):
        return _rows_of(node, isa)
    if not in_layout(node) or (node.op_type == "QConv" and is_depthwise(node)):
        return None
    return _product_of(node, isa)


def _product_of(node: ir.Node, isa: Isa) -> CodesProduct:
    """The layer as a product of codes over its layouts."""
    parts, stencil = _matrices(node), _stencil(node, FOUR * isa.lanes)
    taps, outputs = len(stencil.taps), len(parts[0])
    weight = np.stack([part.reshape(outputs, -1, taps) for part in parts], axis=2).reshape(outputs, -1)
    stencil = replace(stencil, taps=stencil.taps * len(parts))
    finish, numbers = finish_of(node, weight)
    target = layout_of(node.outputs[0])
    return CodesProduct(weight, numbers.begins, stencil, finish, numbers,
                        target if isinstance(target, PaddedFlat) else None,
                        _small_image(node) if len(parts) == 1 else None)


def _small_image(node: ir.Node) -> ImageRows | None:
    """A convolution of stride 1 with so few pixels that they may be rows of their own."""
    source, target = layout_of(node.inputs[0]), layout_of(node.outputs[0])
    small = isinstance(target, PaddedFlat) and target.batch * target.height * target.width <= FEW_PIXELS
    if not small or not isinstance(source, PaddedFlat) or is_depthwise(node) or spatial(node, "strides", 1) != (1, 1):
        return None
    kernel, begins = window(node)
    assert isinstance(target, PaddedFlat)
    return ImageRows(source, target, kernel, (1, 1), spatial(node, "dilations", 1), begins, padding_code(node))


def lower_product(context: LoweringContext, node: ir.Node) -> None:
    """Emit a QConv or QMatMul."""
    if not in_layout(node) and not has_few_rows(node):
        importer.lower(context, node)
        return
    dynamic = [_scalar(context, node, place) for place in (products.X_SCALE, products.X_ZERO_POINT)
               if optional(node, products.X_SCALE) is not None]
    residual = None if constant_residual(node) is not None else optional(node, products.RESIDUAL)
    image = isinstance(layout_of(node.inputs[0]), PaddedFlat)
    x = read(context, node, padding_code(node)) if image else context.flat(node.inputs[0])
    inputs = [x, *dynamic, *([] if residual is None else [context.flat(residual)])]
    layer = layer_of(node, context.isa)
    kernel = _depthwise(node, context.isa) if layer is None else call(layer, chosen(node), context.isa)
    result = emit(context, kernel, inputs)
    if kernel.ends is not None:
        result, ends = (context.bb.emit(result[index]) for index in range(2))
        context.ranges[node.outputs[0]] = Range(ends, context.isa.threads, interleaved=True)
    context.bind(node.outputs[0], result)


def _scalar(context: LoweringContext, node: ir.Node, place: int) -> relax.Expr:
    value = optional(node, place)
    if value is None:
        return context.constant(np.full(1, offset_of(operand(node, 0).dtype), np.uint8))
    return context.flat(value)


def _depthwise(node: ir.Node, isa: Isa) -> KernelCall:
    layer = _product_of(node, isa)
    params = depthwise.DepthwiseParams(Tiling(layer.stencil, layer.finish, "direct", 1, layer.stencil.channels))
    constants = (*depthwise.pack(layer.weight, params).values(), *layer.constants)
    return KernelCall(depthwise.build(params, isa), constants, layer.inputs, layer.output)


def lower_binary(context: LoweringContext, node: ir.Node) -> None:
    """Emit a QBinary of two tensors that lie alike, or one and a code for each of its channels or features."""
    if not in_layout(node):
        importer.lower(context, node)
        return
    singles = [i for i in range(2) if isinstance(layout_of(node.inputs[i]), Plain)]
    function = attribute(node, "function", "add")
    a_scale, b_scale, y_scale = (attribute(node, f"{letter}_scale", 1.0) for letter in "aby")
    ratios = ((integers.units(np.float32(a_scale) * np.float32(b_scale), y_scale), 0.0) if function == "mul" else
              (integers.units(a_scale, y_scale), integers.units(b_scale, y_scale)))
    zero_a, zero_b = (attribute(node, f"{letter}_zero_point", 0)
                      + (0 if i in singles else offset_of(operand(node, i).dtype)) for i, letter in enumerate("ab"))
    zero_y, low, high = bounds_of(node, "y")
    constants = elementwise.pack((zero_a, zero_b, zero_y), (low, high), (float(ratios[0]), float(ratios[1])))
    _elementwise(context, node, _binary_params(context, node, function, singles), constants)


def _binary_params(context: LoweringContext, node: ir.Node, function: str,
                   singles: list[int]) -> elementwise.BinaryParams:
    target, lanes = _result_layout(node), FOUR * context.isa.lanes
    if not singles:
        return elementwise.BinaryParams(elementwise.rows_of(target, lanes), function)
    (index,) = singles
    dtype = "int8" if operand(node, index).dtype == ir.DataType.INT8 else "uint8"
    return elementwise.BinaryParams(elementwise.rows_of_channels(target, lanes), function, "ab"[index],
                                    math.prod(static_shape(node.inputs[index]) or ()), dtype)


def lower_lookup(context: LoweringContext, node: ir.Node) -> None:
    """Emit a Lookup of codes."""
    if not in_layout(node):
        importer.lower(context, node)
        return
    table = context.array(node.inputs[1])
    assert table is not None  # the operator takes constant tables only
    constants = [(table.astype(np.int16) + offset_of(node.outputs[0].dtype)).astype(np.uint8)]
    rows = elementwise.rows_of(_result_layout(node), FOUR * context.isa.lanes)
    _elementwise(context, node, elementwise.BinaryParams(rows, "lookup"), constants)


def _result_layout(node: ir.Node) -> PaddedFlat | Tiled:
    layout = layout_of(node.outputs[0])
    assert not isinstance(layout, Plain)  # `in_layout`
    return layout


def _elementwise(context: LoweringContext, node: ir.Node, params: elementwise.BinaryParams,
                 constants: list[np.ndarray]) -> None:
    target = _result_layout(node)
    values = node.inputs[:1] if params.function == "lookup" else node.inputs
    arguments = [*map(context.constant, [*constants, *elementwise.mask_arrays(target)]), *map(context.flat, values)]
    context.bind(node.outputs[0], context.call(elementwise.build(params, context.isa), arguments, target.size,
                                               dtype="uint8"))


def lower_average(context: LoweringContext, node: ir.Node) -> None:
    """Emit a QAveragePool of whole images."""
    if not in_layout(node):
        importer.lower(context, node)
        return
    source = image_of(node.inputs[0])
    pixels, y_type = math.prod((source.height, source.width)), attribute(node, "y_type", "uint8")
    real = y_type == "float32"
    unit = np.float32(1) if real else np.float32(attribute(node, "y_scale", 1.0))
    ratio = np.float32(attribute(node, "x_scale", 1.0)) / (np.float32(pixels) * unit)
    zero = attribute(node, "x_zero_point", 0) + offset_of(operand(node, 0).dtype)
    params = mean.MeanParams(source, y_type)
    constants = mean.pack(zero, (0, 0, 0) if real else bounds_of(node, "y"), float(ratio), pixels)
    result = context.call(mean.build(params, context.isa), [*map(context.constant, constants),
                                                            context.flat(node.inputs[0])], params.outputs, dtype=y_type)
    context.bind(node.outputs[0], result)
