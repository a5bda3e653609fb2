"""Fourier transforms as products with a constant matrix, and windows, which are constants."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import (
    Indices,
    Operand,
    Operator,
    clamp,
    compute,
    item,
    operand,
    opset_of,
    pick_axis,
    takes,
)
from sparsec.backends.relax.importer.products import product
from sparsec.errors import UnsupportedOperatorError
from sparsec.kernels.emit.tir import Expr
from sparsec.kernels.tensors import BatchMatmul

op = relax.op


def _matrix(length: int, parts: int, count: int, *, inverse: bool, onesided: bool) -> np.ndarray:
    """The transform of `length` samples of one or two parts, padded or cut to `count`, as a real matrix.

    Rows are (sample, part), columns (frequency, part); the inverse of a one-sided transform is real.
    """
    basis = np.eye(length * parts).reshape(length * parts, length, parts)
    signal = basis[..., 0] + 1j * basis[..., 1] if parts == 2 else basis[..., 0]
    if inverse and onesided:
        result = np.fft.irfft(signal, count, axis=1)[..., None]
    else:
        spectrum = (np.fft.ifft if inverse else np.fft.fft)(signal, count, axis=1)
        spectrum = spectrum[:, :count // 2 + 1] if onesided else spectrum
        result = np.stack([spectrum.real, spectrum.imag], axis=-1)
    return result.reshape(length * parts, -1).astype(np.float32)


def dft(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """DFT along an axis that may arrive at run time."""
    if not takes(context, BatchMatmul, node.inputs[0]):
        return None
    dims, shape = context.shape(node.inputs[0]), context.shape(node.outputs[0])
    inputs = [*node.inputs, None, None]
    if opset_of(node) < 20:
        axes = [(node.attributes.get_int("axis", 1) or 0) % len(dims)]
    elif inputs[2] is None:
        axes = [len(dims) - 2]
    else:
        known = context.array(inputs[2])
        axes = (list(range(len(dims) - 1)) if known is None else [int(known.reshape(())) % len(dims)])
    axes = [axis for axis in axes if all(d == s for i, (d, s) in enumerate(zip(dims[:-1], shape[:-1], strict=True))
                                         if i != axis)]
    inverse, onesided = (bool(node.attributes.get_int(name, 0)) for name in ("inverse", "onesided"))
    given = None if inputs[1] is None else context.array(inputs[1])
    if inputs[1] is not None and given is None:
        raise UnsupportedOperatorError("dft_length is not known at compile time")

    def along(axis: int) -> relax.Expr:
        default = 2 * (dims[axis] - 1) if inverse and onesided else dims[axis]
        count = default if given is None else int(given.reshape(()))
        matrix = _matrix(dims[axis], dims[-1], count, inverse=inverse, onesided=onesided)
        return _transform(context, context.tensor(node.inputs[0]), axis, matrix, shape)

    return [pick_axis(context, inputs[2], axes, len(dims), along)]


def _transform(context: LoweringContext, x: relax.Expr, axis: int, matrix: np.ndarray, shape: tuple[int, ...]
               ) -> relax.Expr:
    """X (..., samples at `axis`, ..., parts) times a matrix, as a tensor of shape (..., frequencies, ..., parts)."""
    rest = [i for i in range(len(shape)) if i not in (axis, len(shape) - 1)]
    order = [*rest, axis, len(shape) - 1]
    rows = context.bb.emit(op.reshape(context.bb.emit(op.permute_dims(x, order)), (-1,)))
    count = math.prod(shape[i] for i in rest)
    y = product(context, rows, (count, matrix.shape[0]), context.constant(matrix.reshape(-1)), matrix.shape)
    y = context.bb.emit(op.reshape(y, [shape[i] for i in order]))
    return op.permute_dims(y, [order.index(i) for i in range(len(shape))])


def stft(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """STFT; the step between frames may arrive at run time."""
    if not takes(context, BatchMatmul, node.inputs[0]):
        return None
    (batch, available, parts), shape = context.shape(node.inputs[0]), context.shape(node.outputs[0])
    _, step, window, length = [*node.inputs, None, None, None][:4]
    known = context.array(length)
    if window is None and known is None:
        raise UnsupportedOperatorError("frame_length is not known at compile time")
    samples = int(known.reshape(())) if known is not None else context.shape(window)[0]

    def element(i: Indices, x: Operand, step: Expr, window: Operand) -> Expr:
        value = x[i[0], clamp(i[1] * item(step, "int64") + i[2], 0, available - 1), i[3]]
        return value if window is None else value * window[i[2]]

    frames = compute(context, "frames", (batch, shape[1], samples, parts), element, context.tensor(node.inputs[0]),
                     operand(context, step), None if window is None else context.tensor(window))
    matrix = _matrix(samples, parts, samples, inverse=False, onesided=bool(node.attributes.get_int("onesided", 1)))
    return [_transform(context, frames, 2, matrix, shape)]


WINDOWS = {  # by the angle 2 pi n / N
    "BlackmanWindow": lambda angle: 0.42 - 0.5 * np.cos(angle) + 0.08 * np.cos(2 * angle),
    "HammingWindow": lambda angle: 25 / 46 - 21 / 46 * np.cos(angle),
    "HannWindow": lambda angle: 0.5 - 0.5 * np.cos(angle),
}


def window(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """BlackmanWindow, HammingWindow and HannWindow; the size is the output's."""
    (size,) = context.shape(node.outputs[0])
    period = size if node.attributes.get_int("periodic", 1) else max(size - 1, 1)
    values = WINDOWS[node.op_type](2 * np.pi * np.arange(size) / period)
    return [relax.const(values, context.dtype(node.outputs[0]))]


OPERATORS: dict[str, Operator] = {"DFT": dft, "STFT": stft, **dict.fromkeys(WINDOWS, window)}
