"""Resize and Upsample: axis by axis, elements picked or weighted by tables that follow from the scale.

Scales and regions may arrive at run time; the output's extents are static, and with them the tables' sizes. Coordinates
are computed in float64, as ONNX's reference does.
"""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import (
    Indices,
    Operand,
    Operator,
    choose,
    clamp,
    compute,
    item,
    operand,
    opset_of,
)
from sparsec.errors import UnsupportedOperatorError
from sparsec.kernels.emit.tir import Expr


@dataclass(frozen=True)
class Axis:
    """One axis to resample: its place in the tensor and in `scales` and `roi`, its extents, its least scale."""

    axis: int
    position: int
    positions: int
    length: int
    output: int

    @property
    def ratio(self) -> float:
        """Output per input; the scale is not below it."""
        return self.output / self.length


@dataclass(frozen=True)
class Mode:
    """The attributes of Resize."""

    method: str
    coordinates: str
    nearest: str
    cubic: float
    exclude: bool
    extrapolation: float
    antialias: bool


def resize(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Resize of every opset, and Upsample."""
    x, shape, dims = context.tensor(node.inputs[0]), context.shape(node.outputs[0]), context.shape(node.inputs[0])
    older = opset_of(node) < 11 or node.op_type == "Upsample"
    inputs = [*node.inputs, None, None, None]
    roi, scales = (None, inputs[1]) if older else inputs[1:3]
    if older and "scales" in node.attributes:
        factors: Any = list(node.attributes.get_floats("scales") or ())
    else:
        factors = operand(context, scales) if scales is not None and context.shape(scales) != (0,) else None
    mode = _mode(node, older=older)
    named = [axis % len(dims) for axis in node.attributes.get_ints("axes", ()) or range(len(dims))]
    axes = [Axis(axis, position, len(named), dims[axis], shape[axis]) for position, axis in enumerate(named)]
    if factors is None:
        factors = _factors_of_sizes(node, axes, context.array([*node.inputs, None, None, None][3]))
    for axis in axes:
        if axis.length != axis.output or mode.coordinates == "tf_crop_and_resize" or _scaled(factors, axis):
            x = _resample(context, x, axis, mode, factors, operand(context, roi))
    return [x]


def _mode(node: ir.Node, *, older: bool) -> Mode:
    attributes = node.attributes
    method = attributes.get_string("mode", "nearest") or "nearest"
    mode = Mode(
        method.removeprefix("bi"), "asymmetric" if older else attributes.get_string(
            "coordinate_transformation_mode", "half_pixel") or "half_pixel",
        "floor" if older else attributes.get_string("nearest_mode", "round_prefer_floor") or "round_prefer_floor",
        attributes.get_float("cubic_coeff_a", -0.75) or 0.0, bool(attributes.get_int("exclude_outside", 0)),
        attributes.get_float("extrapolation_value", 0.0) or 0.0, bool(attributes.get_int("antialias", 0)))
    if mode.method not in ("nearest", "linear", "cubic") or mode.coordinates not in COORDINATES:
        raise UnsupportedOperatorError(f"the mode '{mode.method}' with '{mode.coordinates}' is unknown")
    return mode


def _factors_of_sizes(node: ir.Node, axes: list[Axis], sizes: np.ndarray | None) -> list[float]:
    """The scales that the output's extents tell; under a policy on the aspect ratio one scale holds for all axes.

    It is the least or largest of those that the sizes ask for, and where they are not known one that leads to the
    output's extents.
    """
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return [axis.ratio for axis in axes]
    if sizes is not None:
        asked = [float(size) / axis.length for size, axis in zip(sizes.reshape(-1), axes, strict=True)]
        return [min(asked) if policy == "not_larger" else max(asked)] * len(axes)
    for candidate in axes:
        if all(math.floor(candidate.ratio * axis.length + 0.5) == axis.output for axis in axes):
            return [candidate.ratio] * len(axes)
    raise UnsupportedOperatorError("no single scale leads to the output's shape")


def _scaled(factors: Operand, axis: Axis) -> bool:
    """Whether the axis has another scale than 1, as far as is known now."""
    return not isinstance(factors, list) or factors[axis.position] != 1


def _resample(context: LoweringContext, x: relax.Expr, axis: Axis, mode: Mode, scales: Operand,
              roi: Expr) -> relax.Expr:
    """The tensor with one axis resampled."""
    dims = [int(dim) for dim in x.ty.shape]
    shape = [*dims[:axis.axis], axis.output, *dims[axis.axis + 1:]]
    count = 1 if mode.method == "nearest" else _taps(axis, mode)[1]

    def source(i: Indices, scales: Operand, roi: Expr) -> Expr:
        at = COORDINATES[mode.coordinates](i[0].astype("float64"), axis, item(scales[axis.position], "float64"), roi)
        index = (_nearest(at, mode.nearest) if mode.method == "nearest"
                 else _base(at) + i[1].astype("int64") + _taps(axis, mode)[0])
        return clamp(index, tirx.const(0, "int64"), tirx.const(axis.length - 1, "int64"))

    def weight(i: Indices, scales: Operand, roi: Expr) -> Expr:
        scale = item(scales[axis.position], "float64")
        at = COORDINATES[mode.coordinates](i[0].astype("float64"), axis, scale, roi)
        weights = [_weight(at, tap, axis, mode, scale) for tap in range(count)]
        total = functools.reduce(operator.add, weights) if mode.antialias or mode.exclude else tirx.const(1, "float64")
        chosen = weights[-1]
        for tap in range(count - 1):
            chosen = tirx.Select(i[1] == tap, weights[tap], chosen)
        return (chosen / total).astype(str(x.ty.dtype))

    def outside(i: Indices, scales: Operand, roi: Expr) -> Expr:
        at = COORDINATES[mode.coordinates](i[0].astype("float64"), axis, item(scales[axis.position], "float64"), roi)
        return tirx.any(at < 0, at > axis.length - 1)

    sources = compute(context, "sources", (axis.output, count), source, scales, roi)
    weighted = mode.method != "nearest"
    weights = compute(context, "weights", (axis.output, count), weight, scales, roi) if weighted else None
    crop = mode.coordinates == "tf_crop_and_resize"
    beyond = compute(context, "beyond", (axis.output,), outside, scales, roi) if crop else None

    def element(i: Indices, x: Operand, sources: Operand, weights: Operand, beyond: Operand) -> Expr:
        o = i[axis.axis]
        values = [x[(*i[:axis.axis], sources[o, tap], *i[axis.axis + 1:])] for tap in range(count)]
        value = values[0] if weights is None else functools.reduce(
            operator.add, (v * weights[o, tap] for tap, v in enumerate(values)))
        return value if beyond is None else choose(beyond[o], tirx.const(mode.extrapolation, x.dtype), value)

    return compute(context, "resample", shape, element, x, sources, weights, beyond)


def _base(at: Expr) -> Expr:
    """The pixel to the left of a coordinate, not at it."""
    return tirx.ceil(at).astype("int64") - 1


def _nearest(at: Expr, how: str) -> Expr:
    """The nearest pixel."""
    rounded = {"round_prefer_floor": lambda: tirx.ceil(at - 0.5), "round_prefer_ceil": lambda: tirx.floor(at + 0.5),
               "floor": lambda: tirx.floor(at), "ceil": lambda: tirx.ceil(at)}
    return rounded[how]().astype("int64")


def _taps(axis: Axis, mode: Mode) -> tuple[int, int]:
    """The first pixel, relative to the one on the left, and how many pixels carry a weight."""
    reach = 1 if mode.method == "linear" else 2
    first = math.floor(-reach / (min(axis.ratio, 1.0) if mode.antialias else 1.0)) + 1
    return first, 2 - 2 * first


def _weight(at: Expr, tap: int, axis: Axis, mode: Mode, scale: Expr) -> Expr:
    """The weight of a tap: a triangle or Keys' cubic, widened against aliasing."""
    position = _base(at) + tap + _taps(axis, mode)[0]
    distance = tirx.abs(position.astype("float64") - at)
    if mode.antialias:
        distance = distance * tirx.Select(scale < 1.0, scale, tirx.const(1.0, "float64"))
    zero, a = tirx.const(0.0, "float64"), mode.cubic
    if mode.method == "linear":
        value = tirx.Select(distance < 1.0, 1.0 - distance, zero)
    else:
        near = ((a + 2) * distance - (a + 3)) * distance * distance + 1.0
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        value = tirx.Select(distance <= 1.0, near, tirx.Select(distance < 2.0, far, zero))
    return tirx.Select(tirx.all(position >= 0, position < axis.length), value, zero) if mode.exclude else value


def _spread(o: Expr, span: Expr, width: Expr, single: Expr) -> Expr:
    """Coordinate o of `width` spread evenly over a span; `single` if there is only one."""
    if isinstance(width, tirx.FloatImm):
        return single if width.value == 1 else o * span / (width - 1.0)
    return tirx.Select(width == 1.0, single, o * span / (width - 1.0))


def _align_corners(o: Expr, axis: Axis, scale: Expr, _: Expr) -> Expr:
    return _spread(o, axis.length - 1, scale * axis.length, tirx.const(0.0, "float64"))


def _crop(o: Expr, axis: Axis, _: Expr, roi: Operand) -> Expr:
    start, end = (item(roi[axis.position + k * axis.positions], "float64") for k in (0, 1))
    span = (end - start) * (axis.length - 1)
    width = tirx.const(float(axis.output), "float64")  # as the text of ONNX and onnxruntime have it
    return _spread(o, span, width, span / 2.0) + start * (axis.length - 1)


def _half_pixel(o: Expr, _axis: Axis, scale: Expr, _roi: Expr) -> Expr:
    return (o + 0.5) / scale - 0.5


COORDINATES = {
    "align_corners": _align_corners,
    "asymmetric": lambda o, _axis, scale, _roi: o / scale,
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": lambda o, axis, scale, roi: (
        axis.length / 2 * (1.0 - axis.output / (scale * axis.length)) + _half_pixel(o, axis, scale, roi)),
    "pytorch_half_pixel": lambda o, axis, scale, roi: tirx.Select(
        scale * axis.length == 1.0, tirx.const(-0.5, "float64"), _half_pixel(o, axis, scale, roi)),
    "tf_crop_and_resize": _crop,
}

OPERATORS: dict[str, Operator] = {"Resize": resize, "Upsample": resize}
