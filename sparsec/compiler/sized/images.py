"""Networks on images and volumes of any size, or sequences of any length: channels last, and pixels become rows.

A convolution is a product of the windows of its image, as rows, with its weight as a matrix; windows are copied for as
many rows at once as the product's kernel takes (`Im2col`; Chellapilla et al. 2006). So layers with weights, and what is
element-wise between them, are rows as in other networks (`rows`), and the weight is stored once for all sizes. Pools,
depth-wise convolutions and resizes read their windows in a kernel of their own (`kernels.cpu.tensors.sized_windows`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.compiler.sized.image_change import (
    RANKS,
    Attribute,
    Change,
    Pack,
    channels_last,
    has_open_sides,
    windows_of,
)
from sparsec.compiler.sized.image_convolutions import convolution, transposed
from sparsec.compiler.sized.rows import ELEMENTWISE
from sparsec.graph.constants import constant, constant_shape
from sparsec.graph.nodes import operand, optional
from sparsec.graph.sized import SIZED_DOMAIN
from sparsec.passes.rewrite import take_over


def rows_of_images(graph: ir.Graph, symbols: Symbols, pack: Pack) -> int:
    """Rewrite a graph with convolutions of any size, in place; returns how many nodes are channels last now."""
    if not any(node.op_type == "Conv" and has_open_sides(symbols.shape(node.inputs[0])) for node in graph):
        return 0
    changed = 0
    for node in list(graph):
        shape = symbols.shape(node.outputs[0]) if node.outputs else None
        form = FORMS.get(node.op_type) if not node.domain and shape is not None and len(node.outputs) == 1 else None
        if form is not None and shape is not None and (len(shape) in RANKS or node.op_type == "Transpose"):
            changed += form(Change(graph, symbols, node, shape, pack))
    return changed


def _depth_to_space(c: Change) -> bool:
    """Channels of the mode CRD are (channels, block) and put in the order of DCR first."""
    x, block = operand(c.node, 0), c.node.attributes.get_int("blocksize", 1)
    if not has_open_sides(c.symbols.shape(x)) or x.dtype not in (None, ir.DataType.FLOAT):
        return False
    order = c.order(x)
    last, image = c.last(x, order), tuple(c.symbols.shapes[x][axis] for axis in order)
    channels, axes = image[-1].number, list(order[1:-1])
    if channels is None:
        return False
    crd = c.node.attributes.get_string("mode", "DCR") == "CRD"
    own = np.arange(channels)
    blocks = own.reshape(-1, block, block).transpose(1, 2, 0) if crd else own.reshape(block, block, -1)
    places = (blocks if axes == sorted(axes) else blocks.transpose(1, 0, 2)).reshape(-1)
    if (places != own).any():
        last = c.add("Gather", [last, c.constant("channels", places)], {"axis": len(order) - 1}, image)
    return c.finish(c.add("PixelShuffle", [last], {"blocks": [block, block]}, c.ordered(order), domain=SIZED_DOMAIN),
                    order)


def _pool(c: Change) -> bool:
    x, kernel = operand(c.node, 0), c.node.attributes.get_ints("kernel_shape", ())
    integers = {name: c.node.attributes.get_int(name, 0) or 0 for name in ("count_include_pad", "ceil_mode")}
    floats = x.dtype in (None, ir.DataType.FLOAT)
    if not has_open_sides(c.symbols.shape(x)) or not floats or all(integers.values()) or not all(
            size.known for size in c.shape):
        return False
    order = c.order(x)
    windows = {**windows_of(c.node, order, kernel), **integers}
    return c.finish(c.add(c.node.op_type, [c.last(x, order)], windows, c.ordered(order), domain=SIZED_DOMAIN), order)


def _global_mean(c: Change) -> bool:
    x = operand(c.node, 0)
    order, function = c.order(x), c.node.op_type.removeprefix("Global").removesuffix("Pool")
    axes = c.constant("axes", np.arange(1, len(order) - 1))
    kind = {"Average": "ReduceMean", "Max": "ReduceMax"}[function]
    return c.finish(c.add(kind, [c.last(x, order), axes], {"keepdims": 1}, c.ordered(order)), order)


def _resize(c: Change) -> bool:
    """By nearest, linear or cubic neighbours."""
    x, given = operand(c.node, 0), c.node.attributes

    def get(name: str, default: str) -> str:
        return given.get_string(name, default) or default

    scales, sizes = constant(optional(c.node, 2)), optional(c.node, 3)
    image, antialias = c.symbols.shape(x), given.get_int("antialias", 0)
    if get("mode", "nearest") not in ("nearest", "linear", "cubic") or antialias or (
            "axes" in given or x.dtype not in (None, ir.DataType.FLOAT)) or image is None or (
            given.get_int("exclude_outside", 0)) or (
            get("coordinate_transformation_mode", "half_pixel") not in COORDINATES) or image[:2] != c.shape[:2]:
        return False
    if scales is None or not scales.size:
        scales = np.zeros(len(image), np.float32)
        if sizes is None:
            return False
    order = c.order(x)
    own: dict[str, Attribute] = {
        "axes": list(order[1:-1]), "scales": [float(scales[axis]) for axis in order[1:-1]],
        "mode": get("mode", "nearest"), "nearest_mode": get("nearest_mode", "round_prefer_floor"),
        "coordinate_transformation_mode": get("coordinate_transformation_mode", "half_pixel"),
        "cubic_coeff_a": float(given.get_float("cubic_coeff_a", -0.75) or 0.0)}
    inputs = [c.last(x, order), *([sizes] if sizes is not None else [])]
    return c.finish(c.add("Resize", inputs, own, c.ordered(order), domain=SIZED_DOMAIN), order)


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
"""How a resize finds pixels, of the ways that have a kernel."""


def _concat(c: Change) -> bool:
    if c.node.attributes.get_int("axis", 0) % len(c.shape) != 1:
        return False
    made = [channels_last(value) for value in c.node.inputs if value is not None]
    orders = {each[1] for each in made if each is not None}
    if len(orders) != 1 or None in made:
        return False
    order = orders.pop()
    return c.finish(c.add("Concat", [each[0] for each in made if each is not None], {"axis": len(order) - 1},
                          c.ordered(order)), order)


def _elementwise(c: Change) -> bool:
    """Operands are channels last already, or constants that are the same for all pixels."""
    values = [value for value in c.node.inputs if value is not None]
    orders = {made[1] for value in values if (made := channels_last(value)) is not None}
    if len(orders) != 1:
        return False
    order, inputs = orders.pop(), list[ir.Value | None]()
    for value in c.node.inputs:
        made, shape = (None, None) if value is None else (channels_last(value), constant_shape(value))
        if value is None or made is not None:
            inputs.append(None if made is None else made[0])
        elif shape is None or any(size != 1 for axis, size in enumerate(reversed(shape)) if axis != len(order) - 2):
            return False
        elif math.prod(shape) == 1:
            inputs.append(value if len(shape) <= 1 else c.constant("single", np.array(constant(value)).reshape(())))
        else:
            inputs.append(c.constant("channels", np.array(constant(value)).reshape(-1)))
    node = ir.Node("", c.node.op_type, inputs, list(c.node.attributes.values()), num_outputs=1, name=c.node.name)
    return c.finish(c.entered(node, c.ordered(order)), order)


def _codes(c: Change) -> bool:
    """Rounding to codes of one scale, and back."""
    x = operand(c.node, 0)
    begins = x.is_graph_input() and has_open_sides(c.symbols.shape(x))
    if (channels_last(x) is None and not begins) or any(
            each is not None and constant_shape(each) not in ((), (1,)) for each in c.node.inputs[1:]):
        return False
    order = c.order(x)
    last = c.last(x, order)
    last.type = x.type
    node = ir.Node("", c.node.op_type, [last, *c.node.inputs[1:]], [], num_outputs=1, name=c.node.name)
    return c.finish(c.entered(node, c.ordered(order)), order)


def _batch_norm(c: Change) -> bool:
    vectors = [constant(value) for value in c.node.inputs[1:]]
    made = channels_last(operand(c.node, 0))
    if made is None or any(each is None for each in vectors):
        return False
    scale, bias, mean, variance = (np.asarray(each, np.float64) for each in vectors)
    factor = scale / np.sqrt(variance + c.node.attributes.get_float("epsilon", 1e-5))
    shape = c.ordered(made[1])
    out = c.add("Mul", [made[0], c.constant("factor", factor.astype(np.float32))], {}, shape)
    out = c.add("Add", [out, c.constant("offset", (bias - mean * factor).astype(np.float32))], {}, shape)
    return c.finish(out, made[1])


def _transpose(c: Change) -> bool:
    """Turning a result back and on again is turning it once, or not at all."""
    source = channels_last(operand(c.node, 0))
    if source is None:
        return False
    order = source[1]
    perm = [order.index(axis) for axis in c.node.attributes.get_ints("perm", ()) or range(len(order))[::-1]]
    if perm == list(range(len(perm))) and not c.node.outputs[0].is_graph_output():
        c.node.outputs[0].replace_all_uses_with(source[0])
        c.graph.remove(c.node, safe=True)
        return True
    turned = c.add("Transpose", [source[0]], {"perm": perm}, c.shape)
    take_over(turned, c.node.outputs[0])
    c.graph.remove(c.node, safe=True)
    return True


CODES = ("QuantizeLinear", "DequantizeLinear")

FORMS: dict[str, Callable[[Change], bool]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise), **dict.fromkeys(CODES, _codes), "Conv": convolution,
    "ConvTranspose": transposed, "MaxPool": _pool,
    "AveragePool": _pool, "GlobalAveragePool": _global_mean, "GlobalMaxPool": _global_mean, "Resize": _resize,
    "DepthToSpace": _depth_to_space, "Concat": _concat, "BatchNormalization": _batch_norm, "Transpose": _transpose}
"""By operator, what writes a node channels last where that can be."""
