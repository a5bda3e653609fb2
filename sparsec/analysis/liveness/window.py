"""Sliding windows: which input positions each output position reads, and convolution of facts over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.facts import Array, Dims, Mask, dims
from sparsec.graph.nodes import operand

EVERY: tuple[Any, ...] = (slice(None),) * 3  # batch, groups, channels of a group
LARGEST = 1 << 27  # bytes that the taps of one axis may take
Taps = list[Mask]  # by spatial axis: [k, p, q] says that output position p reads input position q through tap k


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    return list(node.attributes.get_ints(name, list(default)))


def _begin(node: ir.Node, axis: int, rank: int, total: int) -> int:
    """The padding before the first position; `total` is what `auto_pad` has to distribute."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return _ints(node, "pads", [0] * (2 * rank))[axis]
    if mode == "VALID":
        return 0
    return total // 2 if mode == "SAME_UPPER" else total - total // 2


def _axis_taps(kernel: int, stride: int, dilation: int, begin: int, size: tuple[int, int]) -> Mask:
    """The taps of one axis for (outputs, inputs) positions."""
    outputs, inputs = size
    read = np.arange(outputs) * stride - begin + np.arange(kernel)[:, None] * dilation
    reads: Mask = np.equal(read[:, :, None], np.arange(inputs))
    return reads


def too_many(kernel: Sequence[int | None], source: Dims, target: Dims) -> str | None:
    """Why the taps of a window are not worth listing, or None."""
    most = max((k * p * q for k, p, q in zip(kernel, source, target, strict=False) if k and p and q), default=0)
    return f"its windows have {most} pairs of positions along an axis" if most > LARGEST else None


def taps(node: ir.Node, kernel: Sequence[int], source: Dims, target: Dims) -> Taps:
    """The taps of a convolution or pooling over the spatial axes; a symbolic axis counts as one position."""
    rank = len(kernel)
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    result = []
    for axis, (k, s, d, inputs, outputs) in enumerate(zip(kernel, strides, dilations, source, target, strict=True)):
        if inputs is None or outputs is None:
            result.append(np.ones((k, 1, 1), bool))
        else:
            total = max((outputs - 1) * s + (k - 1) * d + 1 - inputs, 0)
            result.append(_axis_taps(k, s, d, _begin(node, axis, rank, total), (outputs, inputs)))
    return result


def transposed_taps(node: ir.Node, kernel: Sequence[int], source: Dims, target: Dims) -> Taps:
    """The taps of a transposed convolution."""
    rank = len(kernel)
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    extra = _ints(node, "output_padding", [0] * rank)
    explicit = "output_shape" in node.attributes
    result = []
    for axis, (k, s, d, inputs, outputs) in enumerate(zip(kernel, strides, dilations, source, target, strict=True)):
        if inputs is None or outputs is None:
            result.append(np.ones((k, 1, 1), bool))
            continue
        total = s * (inputs - 1) + extra[axis] + (k - 1) * d + 1 - outputs
        upper = node.attributes.get_string("auto_pad", "NOTSET") == "SAME_UPPER"
        begin = _begin(node, axis, rank, total) if not explicit else total // 2 if upper else total - total // 2
        result.append(_axis_taps(k, s, d, begin, (inputs, outputs)).swapaxes(1, 2))
    return result


def backwards(windows: Taps) -> Taps:
    """The same taps seen from the input positions."""
    return [tap.swapaxes(1, 2) for tap in windows]


def reads_padding(windows: Taps) -> bool:
    """Some output position misses a tap, because it lies in the padding."""
    return not all(tap.any(axis=2).all() for tap in windows)


def may_read_padding(node: ir.Node) -> bool:
    """Some output position may read padding and nothing tells which: a spatial axis is symbolic."""
    sizes = [*dims(operand(node, 0))[2:], *dims(node.outputs[0])[2:]]
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    padded = node.op_type == "ConvTranspose" or any(_ints(node, "pads", [])) or mode not in ("NOTSET", "VALID")
    return None in sizes and (padded or bool(node.attributes.get_int("ceil_mode", 0)))


@dataclass(frozen=True)
class Runs:
    """Consecutive equal positions of an axis: the run of every position, and the first position of every run."""

    of: Array
    first: Array


def _runs(fact: Array, axis: int, length: int) -> Runs:
    """The runs of an axis of the given length, along which the fact may not vary."""
    if fact.shape[axis] == 1:
        return Runs(np.zeros(length, np.int64), np.zeros(1, np.int64))
    rows = np.moveaxis(fact, axis, 0).reshape(length, -1)
    starts = np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])
    return Runs(np.cumsum(starts) - 1, np.flatnonzero(starts))


def _representatives(fact: Array, lengths: Sequence[int]) -> tuple[Array, list[Runs]]:
    """One position of every run, and the runs of all spatial axes."""
    runs = [_runs(fact, axis, length) for axis, length in enumerate(lengths, start=3)]
    for axis, run in enumerate(runs, start=3):
        fact = fact.take(run.first, axis)
    return fact, runs


def _reads(window: Mask, runs: Runs) -> Array:
    """[tap, output]: the run of the input position that is read, -1 in the padding."""
    return np.where(window.any(axis=2), runs.of[window.argmax(axis=2)], -1)


def _distinct(reads: Array) -> tuple[Array, Array]:
    """The columns that differ, and which of them each one is; neighbours that are alike are compared in one pass."""
    starts = np.ones(reads.shape[1], bool)
    starts[1:] = (reads[:, 1:] != reads[:, :-1]).any(axis=0)
    distinct, inverse = np.unique(reads[:, starts], axis=1, return_inverse=True)
    return distinct, inverse.reshape(-1)[np.cumsum(starts) - 1]


def correlate(x: Array, weight: Array, windows: Taps) -> Array:
    """The convolution of x (batch, groups, inputs, *positions) with weight (groups, outputs, inputs, *taps).

    A spatial axis of x may have length 1 where x is the same at all positions; so may the result's then. Positions that
    see the same are computed once.
    """
    batch, groups, inputs = x.shape[:3]
    x, runs = _representatives(x, [axis.shape[2] for axis in windows])
    reads, copies = [], []
    for axis, run in zip(windows, runs, strict=True):
        distinct, inverse = _distinct(_reads(axis, run))
        reads.append(distinct)
        copies.append(inverse)
    result = np.zeros((batch, groups, weight.shape[1], *(read.shape[1] for read in reads)), x.dtype)
    matrices = np.ascontiguousarray(np.moveaxis(weight.reshape(*weight.shape[:3], math.prod(weight.shape[3:])), -1, 0))
    for tap, matrix in zip(np.ndindex(*weight.shape[3:]), matrices, strict=True):
        written = np.ix_(*(np.flatnonzero(read[k] >= 0) for read, k in zip(reads, tap, strict=True)))
        source = np.ix_(*(read[k][read[k] >= 0] for read, k in zip(reads, tap, strict=True)))
        part = x[(*EVERY, *source)]
        product = matrix @ part.reshape(batch, groups, inputs, math.prod(part.shape[3:]))
        result[(*EVERY, *written)] += product.reshape(*product.shape[:3], *part.shape[3:])
    for index, copy in enumerate(copies, start=3):
        result = result.take(copy, index) if result.shape[index] > 1 else result
    return result


def connections(result: Mask, x: Mask, windows: Taps) -> Mask:
    """The weights (groups, outputs, inputs, *taps) that connect an element of x to an element of the result."""
    result, written = _representatives(result, [axis.shape[1] for axis in windows])
    x, read = _representatives(x, [axis.shape[2] for axis in windows])
    kernel = [axis.shape[0] for axis in windows]
    found = np.zeros((*result.shape[1:3], x.shape[2], *kernel), bool)
    for tap in np.ndindex(*kernel):
        pairs = [_pairs(axis[k], to, source) for axis, k, to, source in zip(windows, tap, written, read, strict=True)]
        found[(..., *tap)] = _meet(result[(*EVERY, *np.ix_(*(p[0] for p in pairs)))],
                                   x[(*EVERY, *np.ix_(*(p[1] for p in pairs)))])
    return found


def _pairs(window: Mask, written: Runs, read: Runs) -> Array:
    """The distinct pairs of runs, of the output and of the input, that a tap connects."""
    outputs, inputs = np.nonzero(window)
    return np.unique(np.stack([written.of[outputs], read.of[inputs]]), axis=1)


def _meet(result: Mask, x: Mask) -> Mask:
    """[group, output, input]: both hold in the same batch element and position."""
    batch = max(result.shape[0], x.shape[0])

    def places(mask: Mask) -> Array:
        full = np.moveaxis(np.broadcast_to(mask, (batch, *mask.shape[1:])), 0, 2)
        return full.reshape(*mask.shape[1:3], batch * math.prod(mask.shape[3:])).astype(np.float32)

    return places(result) @ places(x).swapaxes(1, 2) > 0
