"""Tensors that callers have on the GPU that a session runs on: by DLPack, as PyTorch, CuPy and JAX share them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.backends.program import TensorSpec
from sparsec.errors import InputError
from sparsec.machine.memory import CPU, CUDA, Recorded, element_type

_DEVICES = {CPU: "cpu", CUDA: "cuda", 3: "cuda_host", 10: "rocm", 13: "cuda_managed"}
"""DLPack's device types by name."""


@dataclass(frozen=True)
class DeviceArray:
    """Memory on a GPU, in C order.

    Attributes:
        address: of its first element.
        dtype, shape: of the array there.
        owner: what keeps it, None where the caller does; of a session's own results a tensor with `__dlpack__`.

    """

    address: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    owner: Any = None


def shared(what: str, value: Any, device: int) -> DeviceArray:
    """The memory of a tensor with `__dlpack__` on the GPU of that number.

    Args:
        what: how errors call it.
        value: the tensor, or a `DeviceArray`.
        device: the session's.

    Raises:
        InputError: it has none, lies elsewhere, or in another order than C's.

    """
    if isinstance(value, DeviceArray):
        return value
    if not hasattr(value, "__dlpack__") or not hasattr(value, "__dlpack_device__"):
        raise InputError(f"{what} is {type(value).__name__}; give a tensor that has __dlpack__, such as PyTorch's")
    kind, number = (int(each) for each in value.__dlpack_device__())
    if (kind, number) != (CUDA, device):
        raise InputError(f"{what} is on {_DEVICES.get(kind, f'a device of type {kind}')}:{number} and the session runs "
                         f"on cuda:{device}; move it there, or give arrays to `run`")
    import tvm_ffi

    tensor = tvm_ffi.from_dlpack(value)
    shape = tuple(int(size) for size in tensor.shape)
    if math.prod(shape) and tuple(int(stride) for stride in tensor.strides) != _strides(shape):
        raise InputError(f"{what} has its elements in another order than C's; give a contiguous copy")
    return DeviceArray(int(tensor.data_ptr()), element_type(str(tensor.dtype)), shape, tensor)


def fitting(what: str, value: Any, spec: TensorSpec, device: int) -> DeviceArray:
    """As `shared`, of the shape and element type that a signature has.

    Raises:
        InputError: it has others.

    """
    found = shared(what, value, device)
    if found.dtype != element_type(spec.dtype) or found.shape != spec.shape:
        raise InputError(f"{what} is {spec.dtype} of shape {spec.shape}; given: {found.dtype.name} of shape "
                         f"{found.shape}")
    return found


def allocate(spec: TensorSpec, device: int) -> DeviceArray:
    """New memory for an output."""
    import tvm_ffi

    make = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    tensor = make(tvm_ffi.Shape(spec.shape), tvm_ffi.dtype(spec.dtype), tvm_ffi.Device(CUDA, device), None)
    return DeviceArray(int(tensor.data_ptr()), element_type(spec.dtype), spec.shape, tensor)


def run(recorded: Recorded, specs: tuple[Sequence[TensorSpec], Sequence[TensorSpec]], feeds: Mapping[str, Any],
        wanted: Sequence[int], out: Mapping[str, Any], stream: int) -> list[DeviceArray]:
    """Run a recorded program on tensors of its GPU; the outputs asked for, there."""
    inputs, outputs = specs
    sources = [fitting(f"input '{spec.name}'", feeds[spec.name], spec, recorded.device) for spec in inputs]
    targets = {index: fitting(f"output '{outputs[index].name}'", out[outputs[index].name], outputs[index],
                              recorded.device) if outputs[index].name in out
               else allocate(outputs[index], recorded.device) for index in wanted}
    recorded.run_between([each.address for each in sources],
                         {index: each.address for index, each in targets.items()}, stream=stream)
    return [targets[index] for index in wanted]


def shapes(specs: Sequence[TensorSpec], feeds: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """The shapes of tensors for inputs, in order, as far as there are such."""
    return tuple(tuple(int(size) for size in getattr(feeds[spec.name], "shape", ())) for spec in specs
                 if spec.name in feeds)


def known(out: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """Tensors for outputs, if they belong to outputs that are asked for.

    Raises:
        InputError: one does not.

    """
    for name in out:
        if name not in names:
            raise InputError(f"out has a tensor for {name!r}; the outputs asked for are {', '.join(map(repr, names))}")
    return out


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Those of C's order, in elements."""
    return tuple(math.prod(shape[axis + 1:]) for axis in range(len(shape)))
