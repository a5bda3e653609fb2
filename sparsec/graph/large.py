"""Constants of large models: read when they are asked for, one at a time, and never kept.

Weights in external files of more than `LARGE_BYTES` in all stay there. What passes make of one follows from it again
whenever it is read (`derived`), or lies in a temporary file (`replacing`). So a graph takes little memory, however
large its weights are, as long as nobody holds their arrays.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import onnx_ir as ir

from sparsec import files
from sparsec.errors import ToolchainError
from sparsec.graph.annotations import Annotation

LARGE_BYTES = 256 << 20
"""Bytes of weights in external files from which on they are read one by one."""
SMALL_BYTES = 1 << 16
"""Bytes of a constant up to which it is kept in memory in any case."""

EXTERNAL = Annotation[int]("external")
"""At which offset of an external file a value's tensor lay, where it lay in one."""

SEGMENT_BYTES = 256 << 20
_ALIGNMENT = 64
_NONZEROS = "sparsec.nonzeros"
_NOTHING = np.zeros(0)
_TILED_BYTES, _TILE = 1 << 20, (256, 16)  # a cache line of the result, and whole lines of what is read
_WRITTEN_BYTES = 1 << 26  # at once, as systems allow up to 2 GiB

Change = Callable[[np.ndarray], np.ndarray]


def is_large(tensor: ir.TensorProtocol | None) -> bool:
    """Whether a tensor is read whenever it is asked for."""
    return isinstance(tensor, ir.LazyTensor)


def streams(graph: ir.Graph) -> bool:
    """Whether a graph has weights that are read one by one."""
    return any(is_large(value.const_value) for value in graph.initializers.values())


def in_file(tensor: ir.ExternalTensor, path: Path) -> ir.LazyTensor:
    """A tensor of an external file, which has been checked."""
    dtype, shape = tensor.dtype, tuple(tensor.shape.numpy())
    return _lazy(functools.partial(_mapped, path, dtype.numpy(), shape, tensor.offset or 0), dtype, shape, tensor.name)


def computed(read: Callable[[], np.ndarray], dtype: ir.DataType, shape: tuple[int, ...], name: str) -> ir.LazyTensor:
    """A tensor whose array a function makes whenever it is read."""
    return _lazy(functools.partial(_changed, None, lambda _: read()), dtype, shape, name)


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> np.ndarray:
    """An array of a file, whose pages are given back with it."""
    with files.open_regular(path) as file:
        return np.asarray(np.memmap(file, dtype, "r", offset, shape))


def derived(tensor: ir.TensorProtocol, change: Change, shape: tuple[int, ...], dtype: ir.DataType | None = None,
            name: str | None = None) -> ir.TensorProtocol:
    """The tensor that a function makes of another's array: at once, or whenever it is read where that one is large."""
    if not is_large(tensor):
        return ir.tensor(in_order(change(tensor.numpy())).reshape(shape), name=name or tensor.name)
    read = functools.partial(_changed, cast("Hashable", tensor), change)
    return _lazy(read, dtype or tensor.dtype, shape, name or tensor.name)


def replacing(old: ir.TensorProtocol | None, array: np.ndarray, name: str | None) -> ir.TensorProtocol:
    """The tensor of an array that takes the place of another: in a temporary file where that one is large."""
    array = np.ascontiguousarray(array)
    if not is_large(old) or array.nbytes <= SMALL_BYTES:
        return ir.tensor(array, name=name)
    kept = stored(array)
    return _lazy(lambda: kept, ir.DataType.from_numpy(array.dtype), array.shape, name)


def _lazy(read: Callable[[], np.ndarray], dtype: ir.DataType, shape: tuple[int, ...], name: str | None,
          ) -> ir.LazyTensor:
    return ir.LazyTensor(lambda: ir.Tensor(read(), dtype=dtype), dtype, ir.Shape(shape), name=name)


@dataclass(frozen=True)
class Nonzeros:
    """Where a matrix is not zero: how many elements, and which rows and columns have any."""

    count: int
    rows: np.ndarray
    columns: np.ndarray


def nonzeros(tensor: ir.TensorProtocol) -> Nonzeros:
    """Where the matrix of a large tensor is not zero; it is read for this once."""
    if _NONZEROS not in tensor.meta:
        present = tensor.numpy() != 0
        tensor.meta[_NONZEROS] = Nonzeros(int(np.count_nonzero(present)), present.any(axis=1), present.any(axis=0))
    found: Nonzeros = tensor.meta[_NONZEROS]
    return found


def count_nonzero(tensor: ir.TensorProtocol | None) -> int:
    """How many elements of a tensor are not zero."""
    if tensor is None:
        return 0
    large_matrix = is_large(tensor) and len(tensor.shape) == 2
    return nonzeros(tensor).count if large_matrix else int(np.count_nonzero(tensor.numpy()))


@functools.lru_cache(maxsize=1)
def _changed(tensor: Any, change: Change) -> np.ndarray:
    """The array that was computed last is often asked for again."""
    array = in_order(change(_NOTHING if tensor is None else tensor.numpy()))
    array.flags.writeable = False
    return array


def in_order(array: np.ndarray) -> np.ndarray:
    """The array in C order; large transposed matrices are copied tile by tile, in a third of numpy's time."""
    if array.ndim != 2 or array.flags.c_contiguous or array.nbytes < _TILED_BYTES:
        return np.ascontiguousarray(array)
    result = np.empty(array.shape, array.dtype)
    rows, columns = _TILE
    for row in range(0, array.shape[0], rows):
        for column in range(0, array.shape[1], columns):
            tile = slice(row, row + rows), slice(column, column + columns)
            result[tile] = array[tile]
    return result


def forget() -> None:
    """Give back the array that was computed last."""
    _changed.cache_clear()


class Stored(np.ndarray):
    """An array in a temporary file, mapped; `key` is the same for equal arrays of one type and shape."""

    key: bytes = b""


class _Segment(mmap.mmap):
    """A temporary file that arrays are written to, and the memory that it is mapped into; it ends with the last."""

    file: IO[bytes]
    used = 0

    @classmethod
    def of(cls, size: int) -> _Segment:
        """An empty one."""
        file = tempfile.TemporaryFile(prefix="sparsec-")  # noqa: SIM115 - it is closed with its segment
        file.truncate(size)
        segment = cls(file.fileno(), size, access=mmap.ACCESS_COPY)
        segment.file = file
        return segment


_open: weakref.ReferenceType[_Segment] | None = None
_known: weakref.WeakValueDictionary[bytes, Stored] = weakref.WeakValueDictionary()


def stored(array: np.ndarray) -> Stored:
    """A copy of an array in a temporary file, the same one for equal arrays; its pages are read as they are used.

    Raises:
        ToolchainError: there is no room for temporary files.

    """
    key = key_of(array)
    found = array if isinstance(array, Stored) and array.key else _known.get(key)
    if found is None:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        found = np.frombuffer(_written(data), array.dtype).reshape(array.shape).view(Stored)
        found.key = key
        _known[key] = found
    return found


def key_of(array: np.ndarray) -> bytes:
    """What equal arrays of one type and shape have in common: a hash of all that."""
    if isinstance(array, Stored) and array.key:
        return array.key
    digest = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _written(data: memoryview) -> memoryview:
    """Where bytes lie in a temporary file's memory; they get there by the file, so that no page of them is taken."""
    global _open  # noqa: PLW0603 - the segment that has room
    segment = None if _open is None else _open()
    try:
        if segment is None or segment.used + len(data) > len(segment):
            segment = _Segment.of(max(len(data), SEGMENT_BYTES))
            _open = weakref.ref(segment)
        start, at = segment.used, 0
        while at < len(data):
            at += os.pwrite(segment.file.fileno(), data[at:at + _WRITTEN_BYTES], start + at)
    except OSError as error:
        raise ToolchainError(f"temporary files cannot be written ({error.strerror}), and a model of this size needs "
                             "them; make room, or set TMPDIR to a folder with more") from error
    segment.used = start + len(data) + -len(data) % _ALIGNMENT
    return memoryview(segment)[start:start + len(data)]
