"""Normalisation of contiguous rows: Layer-, Instance-, Group- and RMSNormalization of tensors in ONNX's order."""

from __future__ import annotations

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.fold import each, fold_row
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel, load, splat, store
from sparsec.kernels.tensors import NormalizeParams


def reference(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, params: NormalizeParams) -> np.ndarray:
    """Y (rows, length), in float64."""
    p, rows = params, x.reshape(params.rows, params.length).astype(np.float64)
    if p.centred:
        rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + p.epsilon)
    index = np.arange(p.rows * p.length) // p.run % p.affine
    y = rows * scale[index].reshape(rows.shape)
    return np.asarray(y + bias[index].reshape(rows.shape) if p.centred else y)


def build(params: NormalizeParams, isa: Isa) -> Kernel:
    """The kernel: (x, scale, [bias]) -> y."""
    size = params.rows * params.length
    arguments = {"x": size, "scale": params.affine, **({"bias": params.affine} if params.centred else {}), "y": size}
    return kernel({name: (length, "float32") for name, length in arguments.items()},
                  lambda b: _emit(b, params, isa))


def _emit(b: Buffers, p: NormalizeParams, isa: Isa) -> None:
    """The mean, what it lacks, the variance, the result.

    Sums are rounded: what is left over of the mean of x - mean is subtracted, too, so that rows far from zero lose no
    precision.
    """
    with (T.serial if isa.threads == 1 else T.parallel)(0, p.rows) as row:
        def total(element: Expr) -> Expr:
            return fold_row(p.length, isa.lanes, 0.0, lambda a, c: a + c, lambda index, lanes: element(
                load(b["x"], row * p.length + index, lanes), lanes))

        average = T.float32(1 / p.length)
        rough = T.Bind(total(lambda x, _: x) * average) if p.centred else None
        rest = None if rough is None else T.Bind(total(lambda x, lanes: x - splat(rough, lanes)) * average)

        def centre(x: Expr, lanes: int) -> Expr:
            return x if rough is None else (x - splat(rough, lanes)) - splat(rest, lanes)

        squares = total(lambda x, lanes: centre(x, lanes) * centre(x, lanes))
        factor = T.Bind(T.float32(1) / T.sqrt(squares * T.float32(1 / p.length) + T.float32(p.epsilon)))

        def finish(at: Expr, lanes: int, scale: Expr, bias: Expr) -> None:
            value = centre(load(b["x"], at, lanes), lanes) * splat(factor, lanes) * scale
            store(b["y"], at, value if bias is None else value + bias)

        if p.channels:
            with T.serial(0, p.length // p.run) as segment:
                channel = T.Bind(T.floormod(row * (p.length // p.run) + segment, p.channels))
                start = row * p.length + segment * p.run
                each(p.run, isa.lanes, lambda index, lanes: finish(
                    start + index, lanes, splat(b["scale"][channel], lanes),
                    splat(b["bias"][channel], lanes) if p.centred else None))
        else:
            each(p.length, isa.lanes, lambda index, lanes: finish(
                row * p.length + index, lanes, load(b["scale"], index, lanes),
                load(b["bias"], index, lanes) if p.centred else None))
