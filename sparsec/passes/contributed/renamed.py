"""Operators that onnxruntime had before ONNX, or has with channels last, as ONNX's of opset 20."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import constant
from sparsec.passes.contributed.body import Body

WINDOW = ("auto_pad", "ceil_mode", "dilations", "group", "kernel_shape", "output_padding", "pads", "storage_order",
          "strides")
MODES = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
"""The names of interpolations, by those of before opset 20."""


def same(b: Body, operator: str, *names: str) -> None:
    """ONNX's operator of the same inputs, with the attributes named."""
    attributes = {name: b.node.attributes[name].value for name in names if name in b.node.attributes}
    b.result(0, b.put(operator, *b.node.inputs, **attributes))


def expand_dims(b: Body) -> None:
    """X with a dimension of one where a constant axis says."""
    b.result(0, b.unsqueeze(b.needed(0), int(_known(b, 1, "axis").reshape(()))))


def grid_sample(b: Body) -> None:
    """GridSample, whose modes have ONNX's newer names."""
    mode = b.node.attributes.get_string("mode", "bilinear") or ""
    if mode not in MODES:
        raise b.refused(f"its mode is '{mode}'")
    b.result(0, b.put("GridSample", b.needed(0), b.needed(1), mode=MODES[mode],
                      align_corners=b.integer("align_corners"),
                      padding_mode=b.node.attributes.get_string("padding_mode", "zeros")))


def nhwc_max_pool(b: Body) -> None:
    """MaxPool of images whose channels are last."""
    attributes = {name: b.node.attributes[name].value for name in WINDOW if name in b.node.attributes}
    y = b.put("MaxPool", b.put("Transpose", b.needed(0), perm=[0, 3, 1, 2]), **attributes)
    b.result(0, b.put("Transpose", y, perm=[0, 2, 3, 1]))


def padded_conv_transpose(b: Body) -> None:
    """ConvTranspose whose pads are a constant input."""
    attributes = {name: b.node.attributes[name].value for name in WINDOW if name in b.node.attributes}
    if b.input(2) is not None:
        attributes["pads"] = _known(b, 2, "pads").astype(np.int64).reshape(-1).tolist()
    inputs = [b.needed(0), b.needed(1), *((bias,) if (bias := b.input(3)) is not None else ())]
    b.result(0, b.put("ConvTranspose", *inputs, **attributes))


def distances(b: Body) -> None:
    """The distance of every row of A (rows, features) from every row of B."""
    metric = b.node.attributes.get_string("metric", "sqeuclidean")
    if metric not in ("euclidean", "sqeuclidean"):
        raise b.refused(f"its metric is '{metric}'")
    difference = b.put("Sub", b.unsqueeze(b.needed(0), 1), b.unsqueeze(b.needed(1), 0))
    y = b.put("ReduceSum", b.put("Mul", difference, difference), b.integers(2), keepdims=0)
    b.result(0, b.put("Sqrt", y) if metric == "euclidean" else y)


def _known(b: Body, index: int, what: str) -> np.ndarray:
    """A constant input."""
    array = constant(b.input(index))
    if array is None:
        raise b.refused(f"its {what} is computed")
    return array


def pad(b: Body) -> None:
    """Pad, whose pads may be a matrix of one row."""
    mode = b.node.attributes.get_string("mode", "constant")
    pads = b.put("Reshape", b.needed(1), b.integers(-1))
    value = b.input(2)
    inputs: list[ir.Value] = [b.needed(0), pads, *(() if value is None else (b.put("Squeeze", value),))]
    b.result(0, b.put("Pad", *inputs, mode=mode))


WRITERS: dict[str, Callable[[Body], None]] = {
    "ExpandDims": expand_dims, "GridSample": grid_sample, "NhwcMaxPool": nhwc_max_pool, "CDist": distances, "Pad": pad,
    "ConvTransposeWithDynamicPads": padded_conv_transpose, "Range": partial(same, operator="Range"),
    "GatherND": partial(same, operator="GatherND"),
}
"""By operator of com.microsoft."""
