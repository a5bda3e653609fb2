"""Sums, differences, products and means of codes whose result is quantised again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_constant
from sparsec.graph.nodes import node_name
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.quantized import dequantization
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.integers.result import become, result_of
from sparsec.passes.lift import spelled_geometry

MOST_TAPS = 64
"""Of a window that is summed as a convolution, whose kernel writes them all out."""
FUNCTIONS = {"Add": "add", "Sub": "sub", "Mul": "mul"}


def binary(node: ir.Node) -> str | None:
    """Turns Add, Sub or Mul into sparsec::QBinary, or says why not."""
    a, b = (dequantization(value) for value in node.inputs)
    result = result_of(node)
    if a is None or b is None:
        return f"its {'first' if a is None else 'second'} operand is not quantised to 8 bits with one constant scale"
    if result.attributes["y_type"] == "float32":
        return "its result is not quantised to 8 bits with one constant scale"
    attributes = {"function": FUNCTIONS[node.op_type], "a_scale": a.scale, "a_zero_point": a.zero_point,
                  "b_scale": b.scale, "b_zero_point": b.zero_point, **result.attributes}
    become(node, result, ir.node("QBinary", [a.codes, b.codes], attributes, domain=DOMAIN,
                                 name=node_name(node)))
    return None


def mean(node: ir.Node) -> str | None:
    """Turns AveragePool, GlobalAveragePool or a mean over pixels into sparsec::QAveragePool, or says why not.

    Windows that all average as many elements become a sparsec::QConv.
    """
    x, shape = dequantization(node.inputs[0]), static_shape(node.inputs[0])
    if x is None or shape is None:
        return "its input is not quantised to 8 bits with one constant scale"
    if len(shape) not in (3, 4) or 0 in shape:
        return f"its input has rank {len(shape)}, not 3 or 4, or no elements"
    window = _window(node, shape)
    if isinstance(window, str):
        return window
    result = result_of(node)
    attributes = {**window, "x_scale": x.scale, "x_zero_point": x.zero_point, **result.attributes}
    if result.attributes["y_type"] != "float32" and _is_sum(window, shape):
        become(node, result, _summed(node, x.codes, shape[1], attributes))
        return None
    new = ir.node("QAveragePool", [x.codes], attributes, domain=DOMAIN, name=node_name(node))
    wanted = static_shape(node.outputs[0])
    become(node, result, new)
    if node.op_type == "ReduceMean" and wanted is not None and len(wanted) != len(shape):
        _reshape(new, shape, wanted)
    return None


def _is_sum(window: dict[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether windows, smaller than the image, all average as many elements."""
    kernel = window["kernel_shape"]
    alike = not any(window.get("pads", ())) or window["count_include_pad"]
    return alike and len(shape) == 4 and shape[1] > 1 and tuple(kernel) != shape[2:] and math.prod(kernel) <= MOST_TAPS


def _summed(node: ir.Node, codes: ir.Value, channels: int, attributes: dict[str, Any]) -> ir.Node:
    """The means of windows as a depthwise convolution by ones, which has kernels: exact sums times one factor."""
    graph, name = node.graph, node_name(node)
    assert graph is not None
    given = {key: value for key, value in attributes.items() if key not in ("kernel_shape", "count_include_pad")}
    kernel = attributes["kernel_shape"]
    ones = add_constant(graph, f"{name}.ones", np.ones((channels, 1, *kernel), np.int8))
    share = add_constant(graph, f"{name}.share", np.full(channels, 1 / math.prod(kernel), np.float32))
    return ir.node("QConv", [codes, ones, share], {**given, "group": channels}, domain=DOMAIN, name=name)


def _window(node: ir.Node, shape: tuple[int, ...]) -> dict[str, Any] | str:
    """The window's attributes, or why they cannot be told."""
    rank = len(shape) - 2
    if node.op_type == "GlobalAveragePool":
        return {"kernel_shape": list(shape[2:])}
    if node.op_type == "ReduceMean":
        given = node.attributes.get_ints("axes", None)
        if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
            value = node.inputs[1].const_value
            given = None if value is None else [int(axis) for axis in value.numpy().reshape(-1)]
        axes = None if given is None else sorted(axis % len(shape) for axis in given)
        return {"kernel_shape": list(shape[2:])} if axes == list(range(2, len(shape))) else "its axes are not pixels"
    kernel = list(node.attributes.get_ints("kernel_shape", ()))
    if any(each != 1 for each in node.attributes.get_ints("dilations", [1] * rank)):
        return "its window is dilated"
    geometry = spelled_geometry(node, (1, 1, *kernel), shape)
    ends = [(shape[2 + i] + geometry["pads"][i] + geometry["pads"][i + rank] - kernel[i]) % geometry["strides"][i]
            for i in range(rank)]
    if node.attributes.get_int("ceil_mode", 0) and any(ends):
        return "its windows reach beyond the image"
    return {"kernel_shape": kernel, "strides": geometry["strides"], "pads": geometry["pads"],
            "count_include_pad": node.attributes.get_int("count_include_pad", 0)}


def _reshape(new: ir.Node, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """The pooled image without its spatial dimensions, as a mean that keeps none has it."""
    graph, old = new.graph, new.outputs[0]
    assert graph is not None
    reshape = ir.node("Reshape", [None, add_constant(graph, f"{new.name}.shape", np.array(wanted, np.int64))],
                      name=f"{new.name}.reshape")
    new.append(reshape)
    rewrite.take_over(reshape.outputs[0], old)
    reshape.replace_input_with(0, old)
    old.name = f"{new.name}.image"
    old.shape = ir.Shape((*shape[:2], *[1] * (len(shape) - 2)))
    old.type = reshape.outputs[0].type


RULES = {**dict.fromkeys(FUNCTIONS, binary), "AveragePool": mean, "GlobalAveragePool": mean, "ReduceMean": mean}
"""By operator, as `layers.RULES`."""
