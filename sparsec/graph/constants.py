"""Constant values: reading them, and adding one."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer, or None for any other value."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number held by an initializer of one element, or None."""
    array = constant(value)
    return float(array.item()) if array is not None and array.size == 1 else None


def add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add an initializer under `name`, or a name derived from it where that is taken."""
    names = itertools.chain([name], (f"{name}.{i}" for i in itertools.count(1)))
    free = next(candidate for candidate in names if candidate not in graph.initializers)
    value = constant_value(free, array)
    graph.register_initializer(value)
    return value


def constant_value(name: str, array: np.ndarray) -> ir.Value:
    """A constant that no graph has yet."""
    return ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name),
                    shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
