"""Networks on images and volumes of any size, or sequences of any length: channels last, and pixels become rows.

A convolution is a product of the windows of its image, as rows, with its weight as a matrix; windows are copied for as
many rows at once as the product's kernel takes (`Im2col`; Chellapilla et al. 2006). So layers with weights, and what is
element-wise between them, are rows as in other networks (`rows`), and the weight is stored once for all sizes. Pools,
depth-wise convolutions and resizes read their windows in a kernel of their own (`kernels.cpu.tensors.sized_windows`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.compiler.sized.codes import source_of
from sparsec.compiler.sized.rows import ELEMENTWISE
from sparsec.compiler.sized.simplify import empty_like
from sparsec.graph.constants import add_constant, constant, constant_shape
from sparsec.graph.nodes import is_depthwise, node_name, operand, optional
from sparsec.graph.quantized import Codes, dequantized
from sparsec.graph.sized import IM2COL, IM2COL_CODES, SIZED_DOMAIN, WINOGRAD
from sparsec.passes.rewrite import take_over

RANKS = (3, 4, 5)
"""Dimensions of sequences, images and volumes with channels."""
LARGEST = 1 << 26
"""Elements of the weight of a convolution of groups that is written with its zeros."""


Pack = Callable[[str, np.ndarray], tuple[int, np.ndarray] | None]
"""A layer's name and its weight (outputs, channels, 3, 3) to what `graph.sized.WINOGRAD` takes; None for rows."""


def rows_of_images(graph: ir.Graph, symbols: Symbols, pack: Pack) -> int:
    """Rewrite a graph with convolutions of any size, in place; returns how many nodes are channels last now."""
    if not any(node.op_type == "Conv" and _has_open_sides(symbols.shape(node.inputs[0])) for node in graph):
        return 0
    changed = 0
    for node in list(graph):
        shape = symbols.shape(node.outputs[0]) if node.outputs else None
        form = FORMS.get(node.op_type) if not node.domain and shape is not None and len(node.outputs) == 1 else None
        if form is not None and shape is not None and (len(shape) in RANKS or node.op_type == "Transpose"):
            changed += form(_Change(graph, symbols, node, shape, pack))
    return changed


def _has_open_sides(shape: Shape | None) -> bool:
    return shape is not None and len(shape) in RANKS and any(size.number is None for size in shape[2:])


Attribute = int | float | str | Sequence[int] | Sequence[float]


@dataclass(frozen=True)
class _Change:
    """A node that is rewritten, the shape of its result, channels first, and what `rows_of_images` is given."""

    graph: ir.Graph
    symbols: Symbols
    node: ir.Node
    shape: Shape
    pack: Pack

    def order(self, value: ir.Value) -> tuple[int, ...]:
        """The order of a value's dimensions, channels last: the one that it has been computed in, or a new one.

        Sides that only the run tells are the last in front of the channels, so that all in front of these are rows.
        """
        made = _turned(value)
        if made is not None:
            return made[1]
        shape = self.symbols.shapes[value]
        axes = sorted(range(2, len(shape)), key=lambda axis: (shape[axis].number is None, axis))
        return 0, *axes, 1

    def last(self, value: ir.Value, order: tuple[int, ...]) -> ir.Value:
        """A value with its dimensions in an order."""
        made = _turned(value)
        if made is not None and made[1] == order:
            return made[0]
        return self.add("Transpose", [value], {"perm": order}, [self.symbols.shapes[value][axis] for axis in order])

    def add(self, kind: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Attribute],
            shape: Sequence[Size], *, domain: str = "", name: str | None = None) -> ir.Value:
        """A node in front of the one that is rewritten."""
        return self.entered(ir.node(kind, inputs, attributes, domain=domain, name=name), shape)

    def entered(self, made: ir.Node, shape: Sequence[Size]) -> ir.Value:
        """The result of a node that is put in front of the one that is rewritten."""
        out = made.outputs[0]
        out.name = f"{node_name(self.node)}.{made.op_type}{len(self.symbols.shapes)}"
        out.type, self.symbols.shapes[out] = self.node.outputs[0].type, tuple(shape)
        self.graph.insert_before(self.node, made)
        return out

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A constant of the graph."""
        made = add_constant(self.graph, f"{node_name(self.node)}.{name}", array)
        self.symbols.shapes[made] = tuple(map(Size.of, array.shape))
        return made

    def finish(self, value: ir.Value, order: tuple[int, ...]) -> bool:
        """The result, channels last, takes the node's place; those who read it channels first get it turned."""
        old = self.node.outputs[0]
        back = [order.index(axis) for axis in range(len(order))]
        turned = self.add("Transpose", [value], {"perm": back}, self.shape)
        take_over(turned, old)
        self.graph.remove(self.node, safe=True)
        return True

    def ordered(self, order: tuple[int, ...]) -> Shape:
        """The shape of the result in an order."""
        return tuple(self.shape[axis] for axis in order)


def _turned(value: ir.Value) -> tuple[ir.Value, tuple[int, ...]] | None:
    """What a value is, channels last, and in which order of its dimensions."""
    node = value.producer()
    if node is None or node.op_type != "Transpose" or node.domain or len(value.shape or node.outputs) < 2:
        return None
    back = node.attributes.get_ints("perm", ())
    order = tuple(back.index(axis) for axis in range(len(back))) if back else ()
    return (operand(node, 0), order) if order[:1] == (0,) and order[-1:] == (1,) and len(order) in RANKS else None


def _windows(node: ir.Node, order: tuple[int, ...], kernel: Sequence[int]) -> dict[str, Attribute]:
    """The attributes of a node's windows, by axis in an order of dimensions."""
    rank, axes = len(kernel), [axis - 2 for axis in order[1:-1]]
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    pads = list(node.attributes.get_ints("pads", ()) if mode == "NOTSET" else ()) or [0] * 2 * rank
    found = {name: list(node.attributes.get_ints(name, ()) or [1] * rank) for name in ("strides", "dilations")}
    return {"kernel_shape": [kernel[axis] for axis in axes],
            **{name: [each[axis] for axis in axes] for name, each in found.items()},
            "pads": [pads[axis + side] for side in (0, rank) for axis in axes], "auto_pad": mode}


def _conv(c: _Change) -> bool:
    x, weight, bias = operand(c.node, 0), _numbers(c.node.inputs[1]), _numbers(optional(c.node, 2))
    if weight is None or (optional(c.node, 2) is not None and bias is None) or weight.dtype != np.float32:
        return False
    codes, group = dequantized(c.node.inputs[1]), c.node.attributes.get_int("group", 1) or 1
    order = c.order(x)
    windows = _windows(c.node, order, weight.shape[2:])
    shape, last = c.ordered(order), c.last(x, order)
    if codes is None and group == 1 and weight.shape[2:] == (3, 3) and windows["strides"] == [1, 1]:
        turned = np.ascontiguousarray(weight.transpose(0, 1, *order[1:-1]))
        if (packed := c.pack(node_name(c.node), turned)) is not None:
            return _winograd(c, last, windows, packed, np.zeros(len(weight), np.float32) if bias is None else bias)
    weight = weight.transpose(*order[1:-1], 1, 0)  # pixels of a window, channels, outputs
    if is_depthwise(c.node):
        taps = weight.reshape(-1, weight.shape[-1])
        more = np.zeros(taps.shape[1], np.float32) if bias is None else bias
        own = c.constant("taps", np.concatenate([taps.reshape(-1), more]))
        return c.finish(c.add("DepthwiseConv", [last, own], windows, shape, domain=SIZED_DOMAIN, name=c.node.name),
                        order)
    if group > 1:
        if group * weight.size > LARGEST:
            return False
        weight = _with_zeros(weight, group)
    matrix = weight.reshape(-1, weight.shape[-1])
    if codes is None or group > 1 or codes.axis not in (0, -1):
        last = last if _is_pixel(windows) else c.add(
            "Im2col", [last], windows, (*shape[:-1], Size.of(len(matrix))), domain=SIZED_DOMAIN)
        factor = c.constant("matrix", np.ascontiguousarray(matrix))
    else:
        last = last if _is_pixel(windows) else _windows_of_codes(c, last, windows, (*shape[:-1], Size.of(len(matrix))))
        factor = _dequantized_matrix(c, codes, order)
    out = c.add("MatMul", [last, factor], {}, shape, name=c.node.name)
    if bias is not None:
        out = c.add("Add", [out, c.constant("bias", bias)], {}, shape)
    return c.finish(out, order)


def _winograd(c: _Change, last: ir.Value, windows: Mapping[str, Attribute], packed: tuple[int, np.ndarray],
              bias: np.ndarray) -> bool:
    order, (vectors, values) = c.order(operand(c.node, 0)), packed
    own = c.constant("points", np.concatenate([values, bias]))
    given = {**windows, "vectors": vectors, "outputs": len(bias)}
    return c.finish(c.add(WINOGRAD, [last, own], given, c.ordered(order), domain=SIZED_DOMAIN, name=c.node.name), order)


def _numbers(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant, which may be stored as codes."""
    codes = dequantized(value)
    return constant(value) if codes is None else codes.values()


def _dequantized_matrix(c: _Change, codes: Codes, order: tuple[int, ...]) -> ir.Value:
    """A weight that is stored as codes, of one scale or one by output, as a matrix of such."""
    matrix = codes.codes.transpose(*order[1:-1], 1, 0).reshape(-1, len(codes.codes))
    several = codes.axis == 0
    scale, zero = (np.broadcast_to(each, (len(codes.codes), *[1] * (codes.codes.ndim - 1))).reshape(-1) if several
                   else np.asarray(each).reshape(()) for each in (codes.scale, codes.zero_point))
    inputs = [c.constant("codes", np.ascontiguousarray(matrix)), c.constant("scale", np.ascontiguousarray(scale)),
              c.constant("zero", np.ascontiguousarray(zero.astype(codes.codes.dtype)))]
    return c.add("DequantizeLinear", inputs, {"axis": 1} if several else {}, tuple(map(Size.of, matrix.shape)))


def _windows_of_codes(c: _Change, last: ir.Value, windows: Mapping[str, Attribute], shape: Shape) -> ir.Value:
    """The windows of an image that stands for codes: these are copied, and stand for the same behind that."""
    source = source_of(last)
    if source is None:
        return c.add(IM2COL, [last], windows, shape, domain=SIZED_DOMAIN)
    codes, parameters = operand(source, 0), source.inputs[1:]
    if last is not source.outputs[0]:
        moved = c.add("QuantizeLinear", [last, *parameters], {}, c.symbols.shapes[last])
        moved.type, codes = codes.type, moved
    zero = constant(optional(source, 2))
    own = c.constant("padding", np.zeros(1, empty_like(codes)) if zero is None else zero.reshape(1))
    copied = c.add(IM2COL_CODES, [codes, own], windows, shape, domain=SIZED_DOMAIN)
    copied.type = codes.type
    return c.add("DequantizeLinear", [copied, *parameters], {}, shape)


def _is_pixel(windows: Mapping[str, Attribute]) -> bool:
    """Whether every window is the pixel of its own place."""
    numbers = {name: np.asarray(windows[name]) for name in ("kernel_shape", "strides", "pads")}
    return bool((numbers["kernel_shape"] == 1).all() and (numbers["strides"] == 1).all() and not numbers["pads"].any())


def _with_zeros(weight: np.ndarray, group: int) -> np.ndarray:
    """The weight (pixels …, channels of a group, outputs) with the zeros between groups."""
    channels, outputs = weight.shape[-2], weight.shape[-1] // group
    whole = np.zeros((*weight.shape[:-2], group * channels, group * outputs), weight.dtype)
    for index in range(group):
        own, made = (slice(index * count, (index + 1) * count) for count in (channels, outputs))
        whole[..., own, made] = weight[..., made]
    return whole


def _transposed(c: _Change) -> bool:
    """Where windows do not overlap, a product for every pixel of a window."""
    weight, bias = constant(c.node.inputs[1]), constant(optional(c.node, 2))
    if weight is None or (optional(c.node, 2) is not None and bias is None) or weight.dtype != np.float32:
        return False
    rank, x = weight.ndim - 2, operand(c.node, 0)
    windows = {name: list(c.node.attributes.get_ints(name, ()) or ()) for name in (
        "strides", "dilations", "pads", "output_padding", "output_shape")}
    if (windows["strides"] or [1] * rank) != list(weight.shape[2:]) or c.node.attributes.get_int("group", 1) != 1 or (
            any(each != 1 for each in windows["dilations"])) or windows["output_shape"] or any(
            (*windows["pads"], *windows["output_padding"])):
        return False
    order = c.order(x)
    image = tuple(c.symbols.shapes[x][axis] for axis in order)
    axes = order[1:-1]
    matrix = weight.transpose(0, *axes, 1).reshape(len(weight), -1)
    made = (*image[:-1], Size.of(matrix.shape[1]))
    out = c.add("MatMul", [c.last(x, order), c.constant("matrix", np.ascontiguousarray(matrix))], {}, made,
                name=c.node.name)
    if bias is not None:
        out = c.add("Add", [out, c.constant("bias", np.tile(bias, math.prod(weight.shape[2:])))], {}, made)
    taps = [weight.shape[axis] for axis in axes]
    return c.finish(c.add("PixelShuffle", [out], {"blocks": taps}, c.ordered(order), domain=SIZED_DOMAIN), order)


def _depth_to_space(c: _Change) -> bool:
    """Channels of the mode CRD are (channels, block) and put in the order of DCR first."""
    x, block = operand(c.node, 0), c.node.attributes.get_int("blocksize", 1)
    if not _has_open_sides(c.symbols.shape(x)) or x.dtype not in (None, ir.DataType.FLOAT):
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


def _pool(c: _Change) -> bool:
    x, kernel = operand(c.node, 0), c.node.attributes.get_ints("kernel_shape", ())
    integers = {name: c.node.attributes.get_int(name, 0) or 0 for name in ("count_include_pad", "ceil_mode")}
    floats = x.dtype in (None, ir.DataType.FLOAT)
    if not _has_open_sides(c.symbols.shape(x)) or not floats or all(integers.values()) or not all(
            size.known for size in c.shape):
        return False
    order = c.order(x)
    windows = {**_windows(c.node, order, kernel), **integers}
    return c.finish(c.add(c.node.op_type, [c.last(x, order)], windows, c.ordered(order), domain=SIZED_DOMAIN), order)


def _global_mean(c: _Change) -> bool:
    x = operand(c.node, 0)
    order, function = c.order(x), c.node.op_type.removeprefix("Global").removesuffix("Pool")
    axes = c.constant("axes", np.arange(1, len(order) - 1))
    kind = {"Average": "ReduceMean", "Max": "ReduceMax"}[function]
    return c.finish(c.add(kind, [c.last(x, order), axes], {"keepdims": 1}, c.ordered(order)), order)


def _resize(c: _Change) -> bool:
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


def _concat(c: _Change) -> bool:
    if c.node.attributes.get_int("axis", 0) % len(c.shape) != 1:
        return False
    made = [_turned(value) for value in c.node.inputs if value is not None]
    orders = {each[1] for each in made if each is not None}
    if len(orders) != 1 or None in made:
        return False
    order = orders.pop()
    return c.finish(c.add("Concat", [each[0] for each in made if each is not None], {"axis": len(order) - 1},
                          c.ordered(order)), order)


def _elementwise(c: _Change) -> bool:
    """Operands are channels last already, or constants that are the same for all pixels."""
    values = [value for value in c.node.inputs if value is not None]
    orders = {made[1] for value in values if (made := _turned(value)) is not None}
    if len(orders) != 1:
        return False
    order, inputs = orders.pop(), list[ir.Value | None]()
    for value in c.node.inputs:
        made, shape = (None, None) if value is None else (_turned(value), constant_shape(value))
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


def _codes(c: _Change) -> bool:
    """Rounding to codes of one scale, and back."""
    x = operand(c.node, 0)
    begins = x.is_graph_input() and _has_open_sides(c.symbols.shape(x))
    if (_turned(x) is None and not begins) or any(
            each is not None and constant_shape(each) not in ((), (1,)) for each in c.node.inputs[1:]):
        return False
    order = c.order(x)
    last = c.last(x, order)
    last.type = x.type
    node = ir.Node("", c.node.op_type, [last, *c.node.inputs[1:]], [], num_outputs=1, name=c.node.name)
    return c.finish(c.entered(node, c.ordered(order)), order)


def _batch_norm(c: _Change) -> bool:
    vectors = [constant(value) for value in c.node.inputs[1:]]
    made = _turned(operand(c.node, 0))
    if made is None or any(each is None for each in vectors):
        return False
    scale, bias, mean, variance = (np.asarray(each, np.float64) for each in vectors)
    factor = scale / np.sqrt(variance + c.node.attributes.get_float("epsilon", 1e-5))
    shape = c.ordered(made[1])
    out = c.add("Mul", [made[0], c.constant("factor", factor.astype(np.float32))], {}, shape)
    out = c.add("Add", [out, c.constant("offset", (bias - mean * factor).astype(np.float32))], {}, shape)
    return c.finish(out, made[1])


def _transpose(c: _Change) -> bool:
    """Turning a result back and on again is turning it once, or not at all."""
    source = _turned(operand(c.node, 0))
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

FORMS: dict[str, Callable[[_Change], bool]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise), **dict.fromkeys(CODES, _codes), "Conv": _conv,
    "ConvTranspose": _transposed, "MaxPool": _pool,
    "AveragePool": _pool, "GlobalAveragePool": _global_mean, "GlobalMaxPool": _global_mean, "Resize": _resize,
    "DepthToSpace": _depth_to_space, "Concat": _concat, "BatchNormalization": _batch_norm, "Transpose": _transpose}
"""By operator, what writes a node channels last where that can be."""
