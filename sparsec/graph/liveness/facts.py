"""Facts about tensors, held as arrays that broadcast to the tensor.

A fact has the tensor's rank; along an axis it has the tensor's length, or length 1 where it is the same for all indices
(and where the dimension is symbolic). So the facts about the channels of an image are arrays of shape (1, C, 1, 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Dims = tuple[int | None, ...]  # None: symbolic
IR_VERSION = 10  # every supported onnxruntime reads it


@dataclass(frozen=True)
class Known:
    """Which elements of a tensor are the same for every input of the model, and their values.

    `mask` and `value` are facts of the tensor; `value` is 0 where `mask` is False.
    """

    mask: Mask
    value: Array

    @cached_property
    def zero(self) -> Mask:
        """Elements that are 0 for every input."""
        return ~self.nonzero

    @cached_property
    def nonzero(self) -> Mask:
        """Elements that some input makes different from 0, as far as is known."""
        return self.value != 0 if self.constant else ~self.mask | (self.value != 0)

    @cached_property
    def constant(self) -> bool:
        """No element depends on the input."""
        return bool(self.mask.all())


def unknown(value: ir.Value) -> Known:
    """Every element may depend on the input."""
    rank = len(value.shape) if value.shape is not None else 0
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    return Known(np.zeros((1,) * rank, bool), np.zeros((1,) * rank, dtype))


def known(mask: Mask, value: Array) -> Known:
    """`value` where `mask` holds, both made as small as they broadcast."""
    return Known(compact(mask), compact(np.where(mask, value, np.zeros((), value.dtype))))


def dims(value: ir.Value) -> Dims:
    """The value's dimensions; its rank must be known."""
    assert value.shape is not None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def compact(fact: Array) -> Array:
    """The fact with length 1 along every axis on which it does not vary."""
    for axis, length in enumerate(fact.shape):
        if length > 1:
            first = fact.take([0], axis)
            if (fact == first).all():
                fact = first
    return fact


def spread(fact: Array, axes: Iterable[int], shape: Dims) -> Array:
    """The fact at the tensor's full length along `axes` (symbolic ones stay 1)."""
    full = list(fact.shape)
    for axis in axes:
        full[axis] = shape[axis] if shape[axis] is not None else fact.shape[axis]
    return np.broadcast_to(fact, full)


def gathered(fact: Mask, shape: Dims) -> Mask:
    """The fact about an operand of the given shape, from one about the result of broadcasting it: any element of it."""
    extra = fact.ndim - len(shape)
    if extra:
        fact = fact.any(axis=tuple(range(extra)))
    single = tuple(axis for axis, dim in enumerate(shape) if dim == 1 and fact.shape[axis] > 1)
    return fact.any(axis=single, keepdims=True) if single else fact


def aligned(fact: Array, rank: int) -> Array:
    """The fact with leading axes of length 1 up to `rank`, as broadcasting adds them."""
    return fact.reshape((1,) * (rank - fact.ndim) + fact.shape)


def evaluate(node: ir.Node, inputs: Sequence[Array | None]) -> Array | None:
    """The node's first output on these inputs, by onnxruntime; None where that has no kernel for it."""
    import onnxruntime

    assert node.graph is not None
    feeds = {v.name: a for v, a in zip(node.inputs, inputs, strict=True) if v is not None and a is not None}
    typed = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
             for name, array in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=node.outputs[0].name)]
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in node.graph.opset_imports.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([ir.to_proto(node)], "node", typed, outputs),
                                   opset_imports=opsets, ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, feeds)[0])
    except Exception:  # noqa: BLE001 - its errors have no common base
        return None


def is_constant(value: ir.Value | None) -> bool:
    """An initializer that no caller of the model can override."""
    return value is not None and value.const_value is not None and value.is_initializer() and not value.is_graph_input()


def constant_of(value: ir.Value | None) -> Array | None:
    """The data of a constant, else None."""
    if value is None or value.const_value is None or not is_constant(value):
        return None
    return value.const_value.numpy()


def parameter(node: ir.Node, name: str, index: int | None = None) -> list[int] | int | float | None:
    """An operator's parameter: the attribute `name`, or the constant at input `index` of newer opsets, else None.

    A parameter computed in the graph is None too; `is_computed` tells.
    """
    if name in node.attributes:
        value: list[int] | int | float = node.attributes[name].value
        return list(value) if isinstance(value, Sequence) else value
    if index is None or index >= len(node.inputs):
        return None
    data = constant_of(node.inputs[index])
    return None if data is None else data.tolist()


def is_computed(node: ir.Node, *indices: int) -> bool:
    """One of these inputs is present and not a constant."""
    present = (node.inputs[i] for i in indices if i < len(node.inputs))
    return any(value is not None and not is_constant(value) for value in present)
