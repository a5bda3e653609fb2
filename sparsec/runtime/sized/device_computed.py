"""Operators between stages that a device computes at any sizes: reductions, what is spread over each other, choices.

The plan tells of a step as `computed` what its kernels are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparsec.graph.sized import Computed
from sparsec.machine.memory import element_type
from sparsec.runtime.sized.device_between import CODES, Between
from sparsec.runtime.sized.device_recording import FLOAT, RANK
from sparsec.runtime.sized.held import Value

INDICES = np.dtype(np.int64)
THREADS, LANES = 256, 32
"""Of a block that reduces, and how many of them read side by side."""
KEPT, GONE = 3, 2
"""Dimensions that a reduction keeps and takes away, as `kernels.cuda.sized_reduce` has them."""
MATRIX, BATCHES = 2, 3
"""Dimensions of a matrix, and those in front that the kernel of products takes."""
BLOCKS, TURNS = 256, 8
"""Blocks that keep a device busy, and elements for each thread below which no further blocks share a result."""
Operand = tuple[np.ndarray, Any]
"""An array, and the tensor of the device that has its contents where it does not lie in the block."""
Dims = list[tuple[int, ...]]
"""Of dimensions the size and the strides in elements of one array or several."""


class Computing(Between):
    """A recording that calls these.

    Attributes:
        computes: by operator the method that takes its steps, and says whether it has.

    """

    computes: ClassVar[dict[str, str]] = {"Softmax": "_softmax", "LogSoftmax": "_softmax", "Gather": "_chosen_along",
                                          "GatherElements": "_chosen_each", "TopK": "_largest", "MatMul": "_product",
                                          **dict.fromkeys(("ArgMax", "ArgMin"), "_place")}

    def _is_computed(self, step: Mapping[str, Any]) -> bool:
        """Compute a step on the device, if the device has some of what it reads and a kernel takes its sizes."""
        values = [self._values[name] for name in step["inputs"] if name]
        if "computed" not in step or not any(value.root is not None for value in values) or any(
                value.root is None and value.array is None for value in values):
            return False
        if not all(np.size(value.array) for value in values):
            return False
        operator = step["op"]
        method = "_reduction" if operator.startswith("Reduce") else self.computes.get(operator, "_spread")
        return bool(getattr(self, method)(step, [Computed(name, tuple(given), made)
                                                 for name, given, made in step["computed"]]))

    # Steps

    def _spread(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> bool:
        """An element-wise operator; what a Clip lacks is no operand."""
        names, (kernel,) = [name for name in step["inputs"] if name], kernels
        if len(_spread_dims([self._values[name].array for name in names])) > RANK:
            return False
        found = self._elementwise(kernel, [self._operand(name, dtype)
                                           for name, dtype in zip(names, kernel.given, strict=True)])
        self._enter(step["outputs"][0], found)
        return True

    def _reduction(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> bool:
        """A reduction over constant axes."""
        name, axes_of = (*step["inputs"], None)[:2]
        axes = None if axes_of is None else self._values[axes_of]
        if axes is not None and not axes.fixed:
            return False
        array = self._typed(name, kernels[0].given[0])
        gone = range(array.ndim) if axes is None or not np.size(axes.array) else np.ravel(axes.array) % array.ndim
        if axes is not None and not np.size(axes.array) and step["attributes"].get("noop_with_empty_axes", 0):
            return False
        found = self._reduced(kernels[0].operator, array, set(map(int, gone)))
        if not step["attributes"].get("keepdims", 1):
            found = Value(found.array.squeeze(tuple(map(int, gone))), found.root)
        self._enter(step["outputs"][0], found)
        return True

    def _softmax(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> bool:
        """The largest, exponentials of what lies below it, their sum, and their shares or the logarithms of these."""
        (name,), last = step["inputs"], kernels[-1]
        x = self._typed(name, kernels[0].given[0])
        if len(_spread_dims([x])) > RANK:
            return False
        axis = {step["attributes"].get("axis", -1) % x.ndim}
        largest = self._reduced("ReduceMax", x, axis)
        below = next(each for each in kernels if each.operator in ("ExpSub", "Sub"))
        held = [largest, self._elementwise(below, [(x, None), (largest.array, None)])]
        exponentials = held[-1]
        if below.operator == "Sub":
            exponentials = self._elementwise(Computed("Exp", (FLOAT.name,), FLOAT.name), [(held[-1].array, None)])
            held.append(exponentials)
        held.append(self._reduced("ReduceSum", exponentials.array, axis))
        self._enter(step["outputs"][0], self._elementwise(last, [(held[1].array, None), (held[-1].array, None)]))
        for each in held:
            self._forget(each)
        return True

    def _chosen_along(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> bool:
        """What several indices name along an axis."""
        (name, index), (kernel,) = step["inputs"], kernels
        x, indices = self._values[name].array, self._values[index].array
        axis = step["attributes"].get("axis", 0) % x.ndim
        self._enter(step["outputs"][0], self._taken(kernel, name, index, axis,
                                                    (*x.shape[:axis], *indices.shape, *x.shape[axis + 1:]), each=False))
        return True

    def _chosen_each(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> bool:
        """What an index of its own names for every element."""
        (name, index), (kernel,) = step["inputs"], kernels
        x, indices = self._values[name].array, self._values[index].array
        axis = step["attributes"].get("axis", 0) % x.ndim
        if any(size != own for place, (size, own) in enumerate(zip(indices.shape, x.shape, strict=True))
               if place != axis):
            return False
        self._enter(step["outputs"][0], self._taken(kernel, name, index, axis, indices.shape, each=True))
        return True

    def _place(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> bool:
        """Where the largest or the smallest element lies along an axis."""
        (name,), (kernel,), attributes = step["inputs"], kernels, step["attributes"]
        x = self._near(name, element_type(kernel.given[0]))
        axis = attributes.get("axis", 0) % x.ndim
        out = self._piece((*x.shape[:axis], 1, *x.shape[axis + 1:]), INDICES)
        self._between(kernel.name, [x, out.array],
                      [*_around(x, axis), step["op"] == "ArgMax", attributes.get("select_last_index", 0)])
        self._enter(step["outputs"][0], out if attributes.get("keepdims", 1) else Value(out.array.squeeze(axis),
                                                                                       out.root))
        return True

    def _largest(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> bool:
        """The largest or the smallest elements along an axis, and where they lie."""
        (name, count), (kernel,), attributes = step["inputs"], kernels, step["attributes"]
        found, axis = self._values[name].array, attributes.get("axis", -1) % self._values[name].array.ndim
        if not self._values[count].fixed or not 1 <= int(np.ravel(self._values[count].array)[0]) <= found.shape[axis]:
            return False
        x, taken = self._near(name, element_type(kernel.given[0])), int(np.ravel(self._values[count].array)[0])
        pieces = [self._piece((*x.shape[:axis], taken, *x.shape[axis + 1:]), dtype) for dtype in (x.dtype, INDICES)]
        self._between(kernel.name, [x, *(each.array for each in pieces)],
                      [*_around(x, axis), taken, attributes.get("largest", 1)])
        for output, value in zip(step["outputs"], pieces, strict=True):
            self._enter(output, value)
        return True

    def _product(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> bool:
        """A product of computed matrices."""
        (kernel,) = kernels
        shapes = [np.shape(self._values[name].array) for name in step["inputs"]]
        if min(map(len, shapes)) < MATRIX or shapes[0][-1] != shapes[1][-2]:
            return False
        lead = np.broadcast_shapes(*(shape[:-2] for shape in shapes))
        a, b = (np.broadcast_to(array, (*lead, *array.shape[-2:])) for array in (
            self._typed(name, dtype) for name, dtype in zip(step["inputs"], kernel.given, strict=True)))
        batches = _merged([(size, *(each.strides[axis] // each.itemsize for each in (a, b)))
                           for axis, size in enumerate(lead) if size > 1])
        if len(batches) > BATCHES:
            return False
        rows, columns = a.shape[-2], b.shape[-1]
        made = element_type(kernel.made)
        padded = sum(self._plan.splitter.parts(math.prod((*lead, rows)))) - math.prod((*lead, rows))
        out = self._piece((*lead, rows, columns), made, padded * columns * made.itemsize)
        batches = [(1, 0, 0)] * (BATCHES - len(batches)) + batches
        self._between(kernel.name, [a, b, out.array], [
            rows, columns, a.shape[-1], *(dim[what] for what in range(3) for dim in batches),
            *(stride // each.itemsize for each in (a, b) for stride in each.strides[-2:])])
        self._enter(step["outputs"][0], out)
        return True

    # Kernels

    def _typed(self, name: str, dtype: str) -> np.ndarray:
        """A value on the device, of an element type, in any order."""
        value, wanted = self._there(name), np.dtype(bool) if dtype == "bool" else element_type(dtype)
        if value.array.dtype != wanted:
            value = self._kept_copy(name, value, wanted)
        return np.asarray(value.array)

    def _operand(self, name: str, dtype: str) -> Operand:
        """A value of an element type; what follows from sizes is sent once."""
        value = self._values[name]
        if not value.fixed:
            return self._typed(name, dtype), None
        array = np.ascontiguousarray(value.array, np.dtype(bool) if dtype == "bool" else element_type(dtype))
        return array.reshape(np.shape(value.array)), self._settle(_bytes(array))

    def _elementwise(self, kernel: Computed, operands: Sequence[Operand]) -> Value:
        """Call a kernel whose operands are spread over each other."""
        arrays = [array for array, _ in operands]
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        made = np.dtype(bool) if kernel.made == "bool" else element_type(kernel.made)
        rows = math.prod(shape[:-1])
        padded = sum(self._plan.splitter.parts(rows)) - rows
        out = self._piece(shape, made, padded * math.prod(shape[-1:]) * made.itemsize)
        dims = _spread_dims(arrays)
        dims = [(1,) + (0,) * len(arrays)] * (RANK - len(dims)) + dims
        tensors = [self._tensor(_bytes(array)) if tensor is None else tensor for array, tensor in operands]
        self._launch(kernel.name, [*tensors, self._tensor(_bytes(out.array))],
                      [dim[what] for what in range(1 + len(arrays)) for dim in dims])
        return out

    def _reduced(self, operator: str, array: np.ndarray, axes: set[int]) -> Value:
        """Reduce an array over axes, which stay with a size of 1."""
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(array.shape))
        kept, gone = _dims(array, set(range(array.ndim)) - axes), _dims(array, axes)
        copy = None
        if len(kept) > KEPT or len(gone) > GONE:
            order = (*(axis for axis in range(array.ndim) if axis not in axes), *sorted(axes))
            copy = self._contiguous(Value(array.transpose(order)))
            elements = math.prod(size for size, _ in gone)
            array, kept, gone = copy.array, [(math.prod(shape), elements)], [(elements, 1)]
        results, elements = math.prod(shape), math.prod(size for size, _ in gone)
        beside = bool(kept) and (not gone or kept[-1][1] <= gone[-1][1])
        lanes = min(LANES, 1 << (results - 1).bit_length()) if beside else 1
        blocks, turns = -(-results // lanes), THREADS // lanes
        shares = max(1, min(-(-elements // (turns * TURNS)), BLOCKS // blocks))
        share = -(-elements // shares)
        shares = -(-elements // share)
        out = self._piece(shape, FLOAT)
        told = self._piece((shares * results,), FLOAT) if shares > 1 else out
        self._between(Computed(operator, (array.dtype.name,), FLOAT.name).name, [array, told.array],
                      [*_columns(kept, KEPT), *_columns(gone, GONE), lanes, share, 1, shares == 1, elements])
        if shares > 1:
            self._between(Computed(operator, (FLOAT.name,), FLOAT.name).name, [told.array, out.array],
                          [*_columns([(results, 1)], KEPT), *_columns([(shares, results)], GONE),
                           min(LANES, 1 << (results - 1).bit_length()), shares, 0, 1, elements])
            self._forget(told)
        if copy is not None:
            self._forget(copy)
        return out

    def _taken(self, kernel: Computed, name: str, index: str, axis: int, shape: tuple[int, ...], *,
               each: bool) -> Value:
        """Call the kernel of indices."""
        x = self._near(name, self._values[name].array.dtype)
        indices = self._near(index, np.dtype(kernel.given[1]))
        out = self._piece(shape, x.dtype)
        taken = indices.shape[axis] if each else indices.size
        self._between(kernel.name, [x.view(kernel.made), indices, out.array.view(kernel.made)],
                      [*_around(x, axis), taken, each])
        return out


def _around(array: np.ndarray, axis: int) -> tuple[int, int, int]:
    """Elements in front of an axis, along it and behind it."""
    return math.prod(array.shape[:axis]), array.shape[axis], math.prod(array.shape[axis + 1:])


def _bytes(array: np.ndarray) -> np.ndarray:
    """Booleans as the bytes that kernels take."""
    return array.view(CODES) if array.dtype == bool else array


def _spread_dims(arrays: Sequence[np.ndarray]) -> Dims:
    """Of what arrays are spread to, the dimensions: the size, and the stride of each in elements."""
    spread = np.broadcast_arrays(*arrays)
    return _merged([(size, *(each.strides[axis] // each.itemsize for each in spread))
                    for axis, size in enumerate(spread[0].shape) if size > 1])


def _dims(array: np.ndarray, axes: set[int]) -> Dims:
    """Some dimensions of an array."""
    return _merged([(array.shape[axis], array.strides[axis] // array.itemsize)
                    for axis in sorted(axes) if array.shape[axis] > 1])


def _merged(dims: Dims) -> Dims:
    """Dimensions, of which neighbours that lie behind each other in all arrays are one."""
    merged: Dims = []
    for size, *strides in dims:
        if merged and merged[-1][1:] == tuple(size * stride for stride in strides):
            merged[-1] = (merged[-1][0] * size, *strides)
        else:
            merged.append((size, *strides))
    return merged


def _columns(dims: Dims, rank: int) -> list[int]:
    """Sizes, then strides, of so many dimensions."""
    padded = [(1, 0)] * (rank - len(dims)) + list(dims)
    return [dim[what] for what in range(2) for dim in padded]
