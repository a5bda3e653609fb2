"""Constant values: reading them, and adding one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir

from sparsec.graph.large import Change, derived
from sparsec.graph.nodes import RANDOM, optional


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer, or None for any other value."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def constant_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of an initializer, which is not read for it, or None for any other value."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return tuple(value.const_value.shape.numpy())


def scalar(value: ir.Value | None) -> float | None:
    """The number held by an initializer of one element, or None."""
    shape = constant_shape(value)
    array = constant(value) if shape is not None and math.prod(shape) == 1 else None
    return None if array is None else float(array.item())


def draws(node: ir.Node) -> bool:
    """Whether a node of ONNX's draws random numbers, as Dropout does while a model is trained."""
    if node.domain or node.op_type != "Dropout":
        return not node.domain and node.op_type in RANDOM
    training = optional(node, 2)
    known = constant(training)
    return training is not None and (known is None or bool(known.any()))


def add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add an initializer under `name`, or a name derived from it where that is taken."""
    value = constant_value(_free(graph, name), array)
    graph.register_initializer(value)
    return value


def add_derived(graph: ir.Graph, name: str, source: ir.Value, change: Change, shape: tuple[int, ...], *,
                shared: bool = False) -> ir.Value:
    """Add an initializer of a shape that a function makes of another's array; it is read when it is asked for.

    Where `shared`, all graphs that have the other's tensor get the same of what equal functions make of it.
    """
    assert source.const_value is not None
    free = _free(graph, name)
    made = source.const_value.meta.setdefault("sparsec.derived", {}) if shared else {}
    tensor = made.get((change, shape))
    if tensor is None:
        tensor = made[change, shape] = derived(source.const_value, change, shape, name=free)
    value = ir.Value(name=free, const_value=tensor, shape=ir.Shape(shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def _free(graph: ir.Graph, name: str) -> str:
    """A name, or one derived from it where that is taken."""
    names = itertools.chain([name], (f"{name}.{i}" for i in itertools.count(1)))
    return next(candidate for candidate in names if candidate not in graph.initializers)


def constant_value(name: str, array: np.ndarray) -> ir.Value:
    """A constant that no graph has yet."""
    return ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name),
                    shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
