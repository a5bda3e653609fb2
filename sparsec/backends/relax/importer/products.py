"""MatMul and Gemm of activations, and the convolutions that sparsec's own operators leave, as batched products."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.indexing import checked_indices
from sparsec.backends.relax.importer.node import Indices, Operand, Operator, are_float, compute, takes
from sparsec.backends.relax.importer.windows import Window, window_of
from sparsec.graph.nodes import optional
from sparsec.kernels.emit.tir import Expr
from sparsec.kernels.tensors import BatchMatmul

op = relax.op
Shape = tuple[int, ...]
MATRICES_RANK = 3


def product(context: LoweringContext, a: relax.Expr, a_shape: Shape, b: relax.Expr, b_shape: Shape) -> relax.Expr:
    """Numpy's a @ b for flat tensors of at least two dimensions each, as a flat tensor."""
    shape = BatchMatmul.of_shapes(a_shape, b_shape)
    return context.run(shape, [a, b], math.prod(shape.batch) * shape.rows * shape.columns)


def matmul(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """MatMul, vectors included; a sum over nothing is 0."""
    if 0 in context.shape(node.inputs[0]):
        return [_zeros(context, node)]
    if not takes(context, BatchMatmul, *node.inputs):
        return None
    a, b = (context.shape(value) for value in node.inputs)
    chosen = [_chosen(context, value) for value in node.inputs if value is not None]
    shape = BatchMatmul.of_shapes((1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b,
                                  (chosen[0].matrices, chosen[1].matrices))
    buffers = [*chosen[0].buffers, *chosen[1].buffers]
    return [context.run(shape, buffers, math.prod(context.shape(node.outputs[0])))]


@dataclass(frozen=True)
class _Operand:
    """The buffers that hold a product's operand: its matrices, and which of so many are chosen where they are."""

    buffers: tuple[relax.Expr, ...]
    matrices: int = 0


def _chosen(context: LoweringContext, value: ir.Value) -> _Operand:
    """An operand; matrices that a Gather chooses, as experts of a mixture, are read where they lie."""
    gather = value.producer()
    if gather is None or gather.op_type not in {"Gather", "GatherND"} or gather.domain:
        return _Operand((context.flat(value),))
    source, indices = gather.inputs
    shape, places = context.shape(source), context.shape(indices)
    first = (gather.attributes.get_int("axis", 0) == 0 if gather.op_type == "Gather"
             else gather.attributes.get_int("batch_dims", 0) == 0 and places[-1:] == (1,))
    if len(shape) != MATRICES_RANK or not first or not are_float(context, source):
        return _Operand((context.flat(value),))
    positions = op.reshape(checked_indices(context, gather, indices, shape[:1]), (math.prod(places),))
    return _Operand((context.flat(source), context.bb.emit(positions)), shape[0])


def gemm(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """Gemm: alpha * op(A) op(B) + beta * C."""
    if 0 in context.shape(node.inputs[0]):
        return [_plus_third(context, node, _zeros(context, node))]
    if not takes(context, BatchMatmul, *node.inputs):
        return None
    shape = context.shape(node.outputs[0])
    flats, shapes = [], []
    for value, transposed in zip(node.inputs[:2], ("transA", "transB"), strict=True):
        dims = context.shape(value)
        turned = bool(node.attributes.get_int(transposed, 0))
        flats.append(_permuted(context, value, dims, (1, 0)) if turned else context.flat(value))
        shapes.append(dims[::-1] if turned else dims)
    y = op.reshape(product(context, flats[0], shapes[0], flats[1], shapes[1]), shape)
    alpha = node.attributes.get_float("alpha", 1.0)
    y = y if alpha == 1 else op.multiply(y, relax.const(alpha, "float32"))
    return [_plus_third(context, node, y)]


def _zeros(context: LoweringContext, node: ir.Node) -> relax.Expr:
    """Zeros of the output's shape and type."""
    return op.zeros(context.shape(node.outputs[0]), context.dtype(node.outputs[0]))


def _plus_third(context: LoweringContext, node: ir.Node, y: relax.Expr) -> relax.Expr:
    """Gemm's product plus beta * C."""
    if optional(node, 2) is None:
        return y
    c, beta = context.tensor(optional(node, 2)), node.attributes.get_float("beta", 1.0)
    return op.add(y, c if beta == 1 else op.multiply(c, relax.const(beta, context.dtype(optional(node, 2)))))


def conv(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """Conv of any rank: the weights times the windows, laid out as columns."""
    x, w = (context.shape(value) for value in node.inputs[:2])
    groups = node.attributes.get_int("group", 1) or 1
    if not takes(context, BatchMatmul, *node.inputs, *node.outputs) or w[1] == 1 < x[1]:
        return None  # depthwise: too little reuse for a product
    shape, window = context.shape(node.outputs[0]), window_of(context, node, w[2:])
    inner, pixels = math.prod(w[1:]), math.prod(shape[2:])
    columns = _columns(context, node.inputs[0], shape, window)
    y = product(context, context.flat(node.inputs[1]), (1, groups, w[0] // groups, inner), columns,
                (x[0], groups, inner, pixels))
    return [add_bias(context, op.reshape(y, shape), optional(node, 2))]


def _columns(context: LoweringContext, value: ir.Value | None, shape: Shape, window: Window) -> relax.Expr:
    """The windows of an image as a flat tensor (batch, channels, kernel..., output...)."""
    x, rank = context.shape(value), len(window.kernel)
    if math.prod(window.kernel) == 1 and set(window.strides) == {1} and not any(window.before) and x[2:] == shape[2:]:
        return context.flat(value)

    def padded(i: Indices, image: Operand) -> Expr:
        at = [p - b for p, b in zip(i[2:], window.before, strict=True)]
        inside = [c for p, dim in zip(at, x[2:], strict=True) for c in (p >= 0, p < dim)]
        return tirx.if_then_else(tirx.all(*inside), image[(i[0], i[1], *at)], tirx.const(0, "float32"))

    def element(i: Indices, image: Operand) -> Expr:
        at = [o * s + k * d for k, o, s, d in zip(
            i[2:2 + rank], i[2 + rank:], window.strides, window.dilations, strict=True)]
        return image[(i[0], i[1], *at)]

    reach = [(o - 1) * s + (k - 1) * d + 1 for o, k, s, d in zip(
        shape[2:], window.kernel, window.strides, window.dilations, strict=True)]
    image = compute(context, "pad", (*x[:2], *reach), padded, context.tensor(value))
    size = (*x[:2], *window.kernel, *shape[2:])
    columns = compute(context, "windows", size, element, image)
    return context.bb.emit(op.reshape(columns, (math.prod(size),)))


def conv_transpose(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """ConvTranspose of any rank: the transposed weights times the pixels, added up where the windows overlap."""
    x, w = (context.shape(value) for value in node.inputs[:2])
    if not takes(context, BatchMatmul, *node.inputs, *node.outputs):
        return None
    groups, shape, rank = node.attributes.get_int("group", 1) or 1, context.shape(node.outputs[0]), len(x) - 2
    window, pixels, inner = _transposed_window(node, x, w, shape), math.prod(x[2:]), x[1] // groups
    axes = (0, 2, *range(3, 3 + rank), 1)  # groups, inputs, outputs, kernel: the inputs go last
    weight = _permuted(context, node.inputs[1], (groups, inner, *w[1:]), axes)
    products = product(context, weight, (1, groups, math.prod(w[1:]), inner), context.flat(node.inputs[0]),
                       (x[0], groups, inner, pixels))
    columns = context.bb.emit(op.reshape(products, (x[0], shape[1], *window.kernel, *x[2:])))
    return [add_bias(context, _overlap_add(context, columns, shape, x[2:], window), optional(node, 2))]


def _overlap_add(context: LoweringContext, columns: relax.Expr, shape: Shape, pixels: Shape,
                 window: Window) -> relax.Expr:
    """The image that columns (batch, channels, kernel..., pixels...) add up to, without what lies before it.

    Positions are (quotient, remainder) by the stride: an index modulo a power of two is miscompiled by LLVM 22's
    vectoriser.
    """
    rank = len(pixels)
    quotients = [-(-(b + o) // s) for b, o, s in zip(window.before, shape[2:], window.strides, strict=True)]
    taps = [te.reduce_axis((0, -(-k // s) if d == 1 else k), name=f"tap{axis}") for axis, (k, s, d) in enumerate(
        zip(window.kernel, window.strides, window.dilations, strict=True))]

    def element(i: Indices, columns: Operand) -> Expr:
        sources, kernels, valid = [], [], []
        for axis, tap in enumerate(taps):
            s, d, quotient, remainder = window.strides[axis], window.dilations[axis], i[2 + 2 * axis], i[3 + 2 * axis]
            kernel = remainder + tap * s if d == 1 else tap  # the taps that fall on a pixel, or all of them
            source = quotient - tap if d == 1 else quotient + tirx.floordiv(remainder - tap * d, s)
            valid += [kernel < window.kernel[axis], source >= 0, source < pixels[axis]]
            valid += [] if d == 1 else [tirx.floormod(remainder - tap * d, s) == 0]
            sources.append(source)
            kernels.append(kernel)
        value = columns[(i[0], i[1], *kernels, *sources)]
        return te.sum(tirx.if_then_else(tirx.all(*valid), value, tirx.const(0, "float32")), axis=taps)

    split = [extent for pair in zip(quotients, window.strides, strict=True) for extent in pair]
    image = compute(context, "overlap_add", (*shape[:2], *split), element, columns)
    whole = [q * s for q, s in zip(quotients, window.strides, strict=True)]
    image = context.bb.emit(op.reshape(image, (*shape[:2], *whole)))
    if tuple(whole) == shape[2:]:
        return image
    ends = [b + o for b, o in zip(window.before, shape[2:], strict=True)]
    return op.strided_slice(image, list(range(2, 2 + rank)), list(window.before), ends)


def _transposed_window(node: ir.Node, x: Shape, w: Shape, shape: Shape) -> Window:
    """The window of a ConvTranspose node; `before` is what is cut from the front of the full result."""
    attributes, kernel, ones = node.attributes, w[2:], (1,) * (len(w) - 2)
    strides = tuple(attributes.get_ints("strides", ones) or ones)
    dilations = tuple(attributes.get_ints("dilations", ones) or ones)
    mode, given = attributes.get_string("auto_pad", "NOTSET"), attributes.get_ints("output_shape", None)
    if mode == "NOTSET" and given is None:
        before = tuple(attributes.get_ints("pads", ()) or (0,) * 2 * len(kernel))[:len(kernel)]
    else:
        extra = attributes.get_ints("output_padding", ()) or (0,) * len(kernel)
        total = [s * (i - 1) + e + (k - 1) * d + 1 - o
                 for i, o, k, s, d, e in zip(x[2:], shape[2:], kernel, strides, dilations, extra, strict=True)]
        total = [0] * len(kernel) if mode == "VALID" else [max(t, 0) for t in total]
        before = tuple(t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total)
    return Window(tuple(kernel), strides, dilations, before)


def _permuted(context: LoweringContext, value: ir.Value | None, dims: Shape, axes: tuple[int, ...]) -> relax.Expr:
    """A value, seen with these dimensions, with its axes permuted, flat; constants are permuted now."""
    array = context.array(value)
    if array is not None:
        return context.constant(np.ascontiguousarray(array.reshape(dims).transpose(axes)).reshape(-1))
    permuted = op.permute_dims(context.bb.emit(op.reshape(context.tensor(value), dims)), list(axes))
    return context.bb.emit(op.reshape(context.bb.emit(permuted), (math.prod(dims),)))


def add_bias(context: LoweringContext, y: relax.Expr, bias: ir.Value | None) -> relax.Expr:
    """The result plus the bias of its channels, if there is one."""
    if bias is None:
        return y
    spatial = len(context.bb.normalize(y).ty.shape) - 2
    return op.add(y, op.reshape(context.tensor(bias), (1, -1, *[1] * spatial)))


OPERATORS: dict[str, Operator] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
}
