"""Outputs into the caller's arrays, and onnxruntime's `IOBinding`, whose calls name arrays once and run often."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.errors import InputError, UsageError
from sparsec.machine.memory import element_type
from sparsec.runtime.device import DeviceArray
from sparsec.runtime.signature import dtype_of

_HOST = ("cpu", "cuda_pinned")


@dataclass(frozen=True)
class BoundValue:
    """An output of a binding, as onnxruntime's `OrtValue` shows it."""

    array: np.ndarray

    def numpy(self) -> np.ndarray:
        """The array itself."""
        return self.array

    def shape(self) -> list[int]:
        """Its sizes."""
        return list(self.array.shape)

    def data_ptr(self) -> int:
        """The address of its first element."""
        return self.array.ctypes.data

    def element_type(self) -> np.dtype[Any]:
        """Its element type."""
        return self.array.dtype


class IOBinding:
    """The inputs and outputs of `InferenceSession.run_with_iobinding`: all in arrays, or all on the session's GPU.

    Args:
        inputs: the names of the session's.
        outputs: likewise.
        gpu: whether the session runs on a GPU, so that "cuda" is a device to bind on.

    Attributes:
        feeds: the bound inputs.
        wanted: the bound outputs, in the order of their binding.
        out: those of them that have memory of the caller's.
        on_device: the inputs that are bound on the GPU; a tensor with `__dlpack__`, or memory at an address.
        out_on_device: the memory of outputs there: the caller's, or that of the last run.

    """

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str], gpu: int | None = None) -> None:
        self._inputs, self._outputs, self._gpu = inputs, outputs, gpu
        self.on_device: dict[str, Any] = {}
        self.out_on_device: dict[str, Any] = {}
        self.feeds: dict[str, np.ndarray] = {}
        self.wanted: list[str] = []
        self.out: dict[str, np.ndarray] = {}
        self._results: list[np.ndarray] = []
        self._kept: dict[str, Any] = {}

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        """Read an input from an array, whose contents may change between runs."""
        self.feeds[_known(name, self._inputs, "input")] = array

    def bind_input(self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int],
                   buffer_ptr: int) -> None:
        """Read an input from memory at an address, which must stay.

        Raises:
            InputError: it is on another GPU than the session.

        """
        if self._is_here(f"input '{name}'", device_type, device_id):
            self.on_device[_known(name, self._inputs, "input")] = _at(name, element_type, shape, buffer_ptr)
            return
        self.bind_cpu_input(name, _over(name, device_type, element_type, shape, buffer_ptr))

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        """Read an input from the memory of an `OrtValue`, or of a tensor with `__dlpack__`, which the binding keeps."""
        if self._gpu is not None and not hasattr(value, "data_type") and hasattr(value, "__dlpack__"):
            self.on_device[_known(name, self._inputs, "input")] = value
            return
        self.bind_cpu_input(name, _of_value(name, value))
        self._kept[name] = value

    def bind_output(self, name: str, device_type: str = "cpu", device_id: int = 0, element_type: Any = None,
                    shape: Sequence[int] | None = None, buffer_ptr: int | None = None) -> None:
        """Ask for an output, written to memory at an address where one is given, else to new memory.

        On "cuda", new memory is asked for in the first run and used again.

        Raises:
            InputError: it is asked for on another GPU than the session's.

        """
        if self._is_here(f"output '{name}'", device_type, device_id):
            self._want(name)
            self.out_on_device.pop(name, None)
            if buffer_ptr is not None:
                self.out_on_device[name] = _at(name, element_type, shape or (), buffer_ptr)
            return
        if buffer_ptr is not None:
            self.bind_cpu_output(name, _over(name, device_type, element_type, shape, buffer_ptr))
        else:
            _require_host(name, device_type)
            self._want(name)
            self.out.pop(name, None)

    def bind_cpu_output(self, name: str, array: np.ndarray) -> None:
        """Write an output into an array of its shape and element type."""
        self._want(name)
        self.out[name] = array

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        """Write an output into the memory of an `OrtValue`, which the binding keeps."""
        self.bind_cpu_output(name, _of_value(name, value))
        self._kept[name] = value

    def clear_binding_inputs(self) -> None:
        """Forget the inputs."""
        self.feeds.clear()
        self.on_device.clear()

    def clear_binding_outputs(self) -> None:
        """Forget the outputs."""
        self.wanted.clear()
        self.out.clear()
        self.out_on_device.clear()
        self._results = []

    def synchronize_inputs(self) -> None:
        """Wait for nothing: inputs are where they are read."""

    def synchronize_outputs(self) -> None:
        """Wait for nothing: a run ends when its outputs are written."""

    def get_outputs(self) -> list[BoundValue]:
        """The outputs of the last run, in the order of their binding."""
        return [BoundValue(array) for array in self._results]

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        """The outputs of the last run, in the order of their binding; bound memory is not copied again."""
        return list(self._results)

    def accept(self, results: list[np.ndarray]) -> None:
        """Take the outputs of a run."""
        self._results = results

    def accept_device(self, results: list[Any]) -> None:
        """Take the outputs of a run on the GPU, whose memory the next run uses again."""
        self._results = results
        self.out_on_device = dict(zip(self.wanted, results, strict=True))

    def get_device_outputs(self) -> list[Any]:
        """The outputs of the last run on the GPU, in the order of their binding, as tensors with `__dlpack__`."""
        return list(self._results)

    def _is_here(self, what: str, device_type: str, device_id: int) -> bool:
        """Whether a device is the session's GPU; raises InputError where it is another one."""
        if self._gpu is None or device_type != "cuda":
            return False
        if device_id != self._gpu:
            raise InputError(f"{what} is bound on cuda:{device_id} and the session runs on cuda:{self._gpu}; "
                             "bind it there")
        return True

    def _want(self, name: str) -> None:
        if _known(name, self._outputs, "output") not in self.wanted:
            self.wanted.append(name)


def checked(out: Mapping[str, np.ndarray], names: Sequence[str]) -> Mapping[str, np.ndarray]:
    """Arrays for outputs, if they are that and writable, and belong to outputs that are asked for.

    Raises:
        InputError: one is not.

    """
    if not isinstance(out, Mapping):
        raise UsageError(f"out is {type(out).__name__}; give a dict of arrays by the names of outputs")
    for name, array in out.items():
        if name not in names:
            raise InputError(f"out has an array for {name!r}; the outputs asked for are {', '.join(map(repr, names))}")
        if not isinstance(array, np.ndarray) or not array.flags.writeable:
            raise InputError(f"output '{name}' cannot be written into what out has for it; give a writable array")
    return out


def deliver(results: Sequence[np.ndarray], names: Sequence[str], out: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The results, those that have an array in `out` written to it; none is if one does not fit.

    Raises:
        InputError: an array has another shape or element type than its output.

    """
    for name, result in zip(names, results, strict=True):
        array = out.get(name, result)
        if array.shape != result.shape or array.dtype != result.dtype:
            raise InputError(f"output '{name}' is {result.dtype.name} of shape {result.shape}; out has "
                             f"{_named(array.dtype)} of shape {array.shape}")
    for name, result in zip(names, results, strict=True):
        if name in out:
            out[name][...] = result
    return [out.get(name, result) for name, result in zip(names, results, strict=True)]


def _named(dtype: np.dtype[Any]) -> str:
    """An element type's name, with the order of its bytes where that is not the machine's."""
    return dtype.name if dtype.isnative else f"{dtype.name} of foreign byte order"


def _known(name: str, names: Sequence[str], what: str) -> str:
    if name not in names:
        raise InputError(f"the model has no {what} {name!r}; it has {', '.join(map(repr, names)) or 'none'}")
    return name


def _at(name: str, kind: Any, shape: Sequence[int], address: int) -> DeviceArray:
    """Memory on the GPU at an address."""
    return DeviceArray(address, _dtype(name, kind), tuple(shape))


def _dtype(name: str, kind: Any) -> np.dtype[Any]:
    """Numpy's element type of one that a caller names."""
    try:
        return element_type(kind) if isinstance(kind, str) else np.dtype(kind)
    except (AttributeError, TypeError) as error:
        raise UsageError(f"'{name}' is bound with element_type {kind!r}; give numpy's, such as np.float32") from error


def _require_host(name: str, device_type: str) -> None:
    if device_type not in _HOST:
        raise UsageError(f"'{name}' is bound on device '{device_type}'; bind it on 'cpu', where sessions take and give "
                         "arrays")


def _over(name: str, device_type: str, kind: Any, shape: Sequence[int] | None, address: int) -> np.ndarray:
    """The array at an address."""
    _require_host(name, device_type)
    if kind is None or shape is None:
        raise UsageError(f"'{name}' is bound to an address; give its element_type and shape, too")
    dtype = _dtype(name, kind)
    memory = (ctypes.c_uint8 * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return np.frombuffer(memoryview(memory), np.uint8).view(dtype).reshape(tuple(shape))


def _of_value(name: str, value: Any) -> np.ndarray:
    """The array in the memory of an `OrtValue`, or of another object's array that `numpy()` gives."""
    if not hasattr(value, "data_type"):
        if not isinstance(value, np.ndarray) and not hasattr(value, "numpy"):
            raise UsageError(f"'{name}' is bound to {type(value).__name__}; give an OrtValue or an array")
        array: np.ndarray = value if isinstance(value, np.ndarray) else value.numpy()
        return array
    return _over(name, value.device_name(), dtype_of(value.data_type()), value.shape(), value.data_ptr())
