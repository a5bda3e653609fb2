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
from sparsec.runtime.sized.tensors import beside, inside

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
        computes: by operator the method that takes its steps.

    """

    computes: ClassVar[dict[str, str]] = {"Softmax": "_softmax", "LogSoftmax": "_softmax", "Gather": "_chosen_along",
                                          "GatherElements": "_chosen_each", "TopK": "_largest", "MatMul": "_product",
                                          **dict.fromkeys(("ArgMax", "ArgMin"), "_place")}

    def _is_computed(self, step: Mapping[str, Any]) -> bool:
        """Compute a step on the device, if it has kernels, the device has some of what it reads, and none is empty."""
        values = [self._values[name] for name in step["inputs"] if name]
        if "computed" not in step or not any(value.root is not None for value in values) or any(
                value.root is None and value.array is None for value in values):
            return False
        operator = step["op"]
        if not all(np.size(value.array) for value in (values[:1] if operator.startswith("Reduce") else values)):
            return False
        method = "_reduction" if operator.startswith("Reduce") else self.computes.get(operator, "_spread")
        getattr(self, method)(step, [Computed(name, tuple(given), made) for name, given, made in step["computed"]])
        return True

    # Steps

    def _spread(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> None:
        """An element-wise operator; what a Clip lacks is no operand."""
        names, (kernel,) = [name for name in step["inputs"] if name], kernels
        found = self._elementwise(kernel, [self._operand(name, dtype)
                                           for name, dtype in zip(names, kernel.given, strict=True)])
        self._enter(step["outputs"][0], found)

    def _reduction(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> None:
        """A reduction over constant axes; without any, over all or none, as the node says."""
        name, axes_of = (*step["inputs"], None)[:2]
        array = self._typed(name, kernels[0].given[0])
        gone = {int(axis) % array.ndim for axis in np.ravel([] if axes_of is None else self._values[axes_of].array)}
        if not gone and not step["attributes"].get("noop_with_empty_axes", 0):
            gone = set(range(array.ndim))
        found = self._reduced(kernels[0].operator, array, gone)
        if not step["attributes"].get("keepdims", 1):
            found = Value(found.array.squeeze(tuple(gone)), found.root)
        self._enter(step["outputs"][0], found)

    def _softmax(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> None:
        """The largest, exponentials of what lies below it, their sum, and their shares or the logarithms of these."""
        (name,), last = step["inputs"], kernels[-1]
        x = self._typed(name, kernels[0].given[0])
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

    def _chosen_along(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> None:
        """What several indices name along an axis."""
        name, index = step["inputs"]
        axis, x = step["attributes"].get("axis", 0), self._typed(name, kernels[0].given[0])
        indices = self._indices(index, kernels[0], x.shape[axis])
        axis %= x.ndim
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1:])
        self._enter(step["outputs"][0], self._taken(kernels[0], x, indices, axis, shape, each=False))

    def _chosen_each(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> None:
        """What an index of its own names for every element of the result."""
        name, index = step["inputs"]
        x, axis = self._typed(name, kernels[0].given[0]), step["attributes"].get("axis", 0)
        indices = self._indices(index, kernels[0], x.shape[axis])
        x, shape = beside(x, indices.shape, axis), indices.shape
        self._enter(step["outputs"][0], self._taken(kernels[0], x, indices, axis % x.ndim, shape, each=True))

    def _place(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> None:
        """Where the largest or the smallest element lies along an axis."""
        (name,), (kernel,), attributes = step["inputs"], kernels, step["attributes"]
        x = self._near(name, element_type(kernel.given[0]))
        axis = attributes.get("axis", 0) % x.ndim
        out = self._piece((*x.shape[:axis], 1, *x.shape[axis + 1:]), INDICES)
        self._between(kernel.name, [x, out.array],
                      [*_around(x, axis), step["op"] == "ArgMax", attributes.get("select_last_index", 0)])
        self._enter(step["outputs"][0], out if attributes.get("keepdims", 1) else Value(out.array.squeeze(axis),
                                                                                       out.root))

    def _largest(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> None:
        """The largest or the smallest elements along an axis, and where they lie."""
        (name, count), (kernel,), attributes = step["inputs"], kernels, step["attributes"]
        taken = int(np.ravel(self._steady(count))[0])
        x = self._near(name, element_type(kernel.given[0]))
        axis = attributes.get("axis", -1) % x.ndim
        if not 0 <= taken <= x.shape[axis]:
            raise ValueError(f"of {x.shape[axis]} elements {taken} are taken")
        shape = (*x.shape[:axis], taken, *x.shape[axis + 1:])
        if not taken:
            pieces = [Value(np.zeros(shape, dtype)) for dtype in (FLOAT, INDICES)]
        else:
            pieces = [self._piece(shape, dtype) for dtype in (x.dtype, INDICES)]
            self._between(kernel.name, [x, *(each.array for each in pieces)],
                          [*_around(x, axis), taken, attributes.get("largest", 1)])
        for output, value in zip(step["outputs"], pieces, strict=True):
            self._enter(output, value)

    def _product(self, step: Mapping[str, Any], kernels: Sequence[Computed]) -> None:
        """A product of computed matrices; a vector is a matrix of one row, or of one column."""
        (kernel,), copies = kernels, list[Value]()
        a, b = (self._typed(name, dtype) for name, dtype in zip(step["inputs"], kernel.given, strict=True))
        single = tuple(axis for axis, each in ((-2, a), (-1, b)) if each.ndim < MATRIX)
        a, b = a[None] if a.ndim < MATRIX else a, b[:, None] if b.ndim < MATRIX else b
        if a.shape[-1] != b.shape[-2]:
            raise ValueError(f"'{step['outputs'][0]}' is a product of the shapes {a.shape} and {b.shape}")
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (np.broadcast_to(each, (*lead, *each.shape[-2:])) for each in (a, b))
        if len(_batches(a, b)) > BATCHES:
            copies = [self._contiguous(Value(each)) for each in (a, b)]
            a, b = (each.array for each in copies)
        batches = _batches(a, b)
        rows, columns = a.shape[-2], b.shape[-1]
        made = element_type(kernel.made)
        padded = sum(self._plan.splitter.parts(math.prod((*lead, rows)))) - math.prod((*lead, rows))
        out = self._piece((*lead, rows, columns), made, padded * columns * made.itemsize)
        batches = [(1, 0, 0)] * (BATCHES - len(batches)) + batches
        self._between(kernel.name, [a, b, out.array], [
            rows, columns, a.shape[-1], *(dim[what] for what in range(3) for dim in batches),
            *(stride // each.itemsize for each in (a, b) for stride in each.strides[-2:])])
        self._enter(step["outputs"][0], Value(out.array.squeeze(single), out.root))
        for each in copies:
            self._forget(each)

    # Kernels

    def _typed(self, name: str, dtype: str) -> np.ndarray:
        """A value on the device, of an element type, in any order."""
        wanted = np.dtype(bool) if dtype == "bool" else element_type(dtype)
        if self._is_constant(name):
            return self._standing(name, wanted)
        value = self._there(name)
        if value.array.dtype != wanted:
            value = self._kept_copy(name, value, wanted)
        return np.asarray(value.array)

    def _operand(self, name: str, dtype: str) -> Operand:
        """A value of an element type; what follows from sizes is sent once."""
        value = self._values[name]
        if not value.fixed:
            return self._typed(name, dtype), None
        array = np.ascontiguousarray(value.array, np.dtype(bool) if dtype == "bool" else element_type(dtype))
        sent = _bytes(array)
        settled = self._resident(name, sent)[1] if self._is_constant(name) else self._settle(sent)
        return array.reshape(np.shape(value.array)), settled

    def _elementwise(self, kernel: Computed, operands: Sequence[Operand]) -> Value:
        """Call a kernel whose operands are spread over each other; in more dimensions than it has, copies of these."""
        shape, copies = np.broadcast_shapes(*(array.shape for array, _ in operands)), list[Value]()
        if len(_spread_dims([array for array, _ in operands])) > RANK:
            operands = [self._wide(operand, shape, copies) for operand in operands]
        arrays = [array for array, _ in operands]
        made = np.dtype(bool) if kernel.made == "bool" else element_type(kernel.made)
        rows = math.prod(shape[:-1])
        padded = sum(self._plan.splitter.parts(rows)) - rows
        out = self._piece(shape, made, padded * math.prod(shape[-1:]) * made.itemsize)
        dims = _spread_dims(arrays)
        dims = [(1,) + (0,) * len(arrays)] * (RANK - len(dims)) + dims
        tensors = [self._tensor(_bytes(array)) if tensor is None else tensor for array, tensor in operands]
        self._launch(kernel.name, [*tensors, self._tensor(_bytes(out.array))],
                      [dim[what] for what in range(1 + len(arrays)) for dim in dims])
        for each in copies:
            self._forget(each)
        return out

    def _wide(self, operand: Operand, shape: tuple[int, ...], copies: list[Value]) -> Operand:
        """An operand that has been spread, in C order; `copies` gets what the device has of it."""
        array, settled = np.broadcast_to(operand[0], shape), operand[1]
        if settled is not None:
            array = np.ascontiguousarray(array)
            return array, self._settle(_bytes(array))
        copies.append(self._contiguous(Value(array)))
        return copies[-1].array, None

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

    def _indices(self, name: str, kernel: Computed, size: int) -> np.ndarray:
        """Indices on the device; where the processor has them, it sees in every call that they lie inside."""
        value = self._values[name]
        if value.fixed:
            inside(value.array, size)
        elif value.root is None:
            self._do(lambda values: inside(values[name], size))
        return self._near(name, np.dtype(kernel.given[1]))

    def _taken(self, kernel: Computed, x: np.ndarray, indices: np.ndarray, axis: int, shape: tuple[int, ...], *,
               each: bool) -> Value:
        """Call the kernel of indices, on a copy of what is not in C order."""
        copy = None if x.flags.c_contiguous else self._contiguous(Value(x))
        out = self._piece(shape, x.dtype)
        table = _bits(x if copy is None else copy.array)
        self._between(kernel.name, [table, indices, _bits(out.array)],
                      [*_around(x, axis), indices.shape[axis] if each else indices.size, each])
        if copy is not None:
            self._forget(copy)
        return out


def _around(array: np.ndarray, axis: int) -> tuple[int, int, int]:
    """Elements in front of an axis, along it and behind it."""
    return math.prod(array.shape[:axis]), array.shape[axis], math.prod(array.shape[axis + 1:])


def _bytes(array: np.ndarray) -> np.ndarray:
    """Booleans as the bytes that kernels take."""
    return array.view(CODES) if array.dtype == bool else array


def _bits(array: np.ndarray) -> np.ndarray:
    """Elements as the unsigned numbers that are copied."""
    return array.view(f"uint{8 * array.itemsize}")


def _spread_dims(arrays: Sequence[np.ndarray]) -> Dims:
    """Of what arrays are spread to, the dimensions: the size, and the stride of each in elements."""
    spread = np.broadcast_arrays(*arrays)
    return _merged([(size, *(each.strides[axis] // each.itemsize for each in spread))
                    for axis, size in enumerate(spread[0].shape) if size > 1])


def _batches(a: np.ndarray, b: np.ndarray) -> Dims:
    """Of what lies in front of matrices, the dimensions: the size, and the stride of both in elements."""
    return _merged([(size, *(each.strides[axis] // each.itemsize for each in (a, b)))
                    for axis, size in enumerate(a.shape[:-2]) if size > 1])


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
