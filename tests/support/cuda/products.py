"""Products with small integers, exact in every dtype, on the emulator; what they should be comes from numpy."""

from dataclasses import replace
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from sparsec.kernels.cuda import mma_dense, mma_sp
from sparsec.kernels.cuda.params import Gather, MmaParams, Tile, Window
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.emulator import emulate, launches

FAMILIES = {"sparse": mma_sp, "dense": mma_dense}
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "int8": np.int8, "float32": np.float32}
ACTIVATIONS = {"none": lambda y: y, "relu": lambda y: np.maximum(y, 0)}
SCALE = 0.5

needs_compiler = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")


def two_of_four(rng, rows, columns, dtype=np.float16):
    """A random 2:4 matrix; some groups hold fewer than two non-zeros."""
    groups = rng.integers(1, 5, (rows, columns // 4, 4)) * rng.choice([-1, 1], (rows, columns // 4, 4))
    rank = np.argsort(rng.random(groups.shape), axis=2).argsort(axis=2)
    kept = rank < rng.choice([0, 1, 2], (rows, columns // 4, 1), p=[0.1, 0.1, 0.8])
    return (groups * kept).reshape(rows, columns).astype(dtype)


def gather_of(rng, p):
    """A random gather of the runs that `p` promises."""
    runs = rng.integers(0, p.k // p.gather.run, p.gather.length // p.gather.run)
    return (runs[:, None] * p.gather.run + np.arange(p.gather.run)).ravel().astype(np.int32)


def windows(image, w):
    """What the convolution sees at every pixel, (columns, features)."""
    (height, width, channels), (rows, columns) = w.image, w.output
    padded = np.zeros((len(image), height + 4 * w.pads[0] + 8, width + 4 * w.pads[1] + 8, channels), image.dtype)
    padded[:, w.pads[0]:w.pads[0] + height, w.pads[1]:w.pads[1] + width] = image
    taps = [padded[:, y * w.dilations[0]:, x * w.dilations[1]:][:, ::w.strides[0], ::w.strides[1]][:, :rows, :columns]
            for y in range(w.kernel[0]) for x in range(w.kernel[1])]
    return np.stack(taps, axis=3).reshape(-1, len(taps) * channels)


def columns_of(rng, p):
    """A random X and the matrix that W multiplies, (batch, k, n) or (n, k)."""
    if p.window:
        image = rng.integers(-3, 4, (p.n // np.prod(p.window.output), *p.window.image)).astype(DTYPES[p.dtype])
        return image, windows(image, p.window)
    x = rng.integers(-3, 4, (p.batch, p.k, p.n) if p.layout == "kn" else (p.n, p.k)).astype(DTYPES[p.dtype])
    return x, x


def operands(p, family, rng, weight=None):
    """The kernel's inputs by name and the exact Y."""
    weight = two_of_four(rng, p.m, p.depth, DTYPES[p.dtype]) if weight is None else weight
    x, columns = columns_of(rng, p)
    inputs = family.pack(weight, p)
    features = columns.astype(np.float64)
    if p.gather:
        inputs["gather"] = gather_of(rng, p)
        features = features[:, inputs["gather"]]
    wide = weight.astype(np.float64)
    y = wide @ features if p.layout == "kn" else features @ wide.T
    if p.dtype == "int8":
        inputs["scale"] = np.full(p.m, SCALE, np.float32)
        y *= SCALE
    inputs["bias"] = rng.integers(-9, 10, p.m).astype(np.float32)
    y += inputs["bias"][:, None] if p.layout == "kn" else inputs["bias"]
    inputs["x"] = x.ravel()
    if p.epilogue.residual:
        residual = rng.integers(-5, 6, y.shape).astype(DTYPES[p.out])
        inputs["residual"] = residual.ravel()
        y += residual.astype(np.float64)
    return inputs, ACTIVATIONS[p.epilogue.activation](y).astype(np.float32).astype(DTYPES[p.out]).ravel()


def run(p, family, seeds=(0,), mutate=None, pipeline="tirx", weight=None):
    """The largest share of wrong elements of Y over the seeds, and the launches' statistics."""
    program = launches.lower(family.build(p), pipeline)
    library = launches.compiled(mutate(program.source) if mutate else program.source)
    inputs, expected = operands(p, family, np.random.default_rng(0), weight)
    wrong = 0.0
    for seed in seeds:
        arrays = dict(inputs)
        if p.split_k > 1:
            arrays["partial"] = np.full(p.split_k * p.outputs, np.nan, np.float32)
        arrays["y"] = np.full(p.outputs, 99).astype(DTYPES[p.out])
        assert {n: (a.size, str(a.dtype)) for n, a in arrays.items()} == family.arguments(p)
        assert list(arrays) == list(family.arguments(p))
        statistics = program.run(list(arrays.values()), seed, library)
        wrong = max(wrong, float(np.mean(arrays["y"] != expected)))
    return wrong, statistics


def counted(module, params):
    """A family whose parameters count the weight, as `run` takes families."""
    return SimpleNamespace(pack=lambda weight, _: module.pack(weight, params), build=lambda _: module.build(params),
                           arguments=lambda _: module.arguments(params))


def is_caught(p, family, **how):
    """Whether the emulator refuses a run or its numbers are wrong."""
    try:
        return run(p, family, **how)[0] > 0
    except emulate.EmulationError:
        return True


SMALL = Tile(64, 32, 64, (2, 1), 3)


def convolution(m, images, window, tile=SMALL, **more):
    depth = window.kernel[0] * window.kernel[1] * window.image[2]
    return MmaParams(m, images * window.output[0] * window.output[1], depth, tile, window=window, **more)


CONVOLUTIONS = {
    "3x3": convolution(
        40, 1, Window((5, 6, 16), (3, 3), (5, 6), pads=(1, 1)), epilogue=Epilogue("relu", residual=True)),
    "batch, stride and dilation": convolution(
        33, 3, Window((9, 8, 8), (3, 2), (4, 3), strides=(2, 3), dilations=(1, 2), pads=(1, 0))),
    "1x1 with stride": convolution(64, 2, Window((7, 7, 64), (1, 1), (4, 4), strides=(2, 2))),
    "four channels": convolution(32, 2, Window((6, 6, 4), (5, 5), (3, 3), strides=(2, 2), pads=(2, 2))),
    "unpadded image of two channels": convolution(32, 1, Window((6, 6, 2), (2, 2), (5, 5))),
    "shares of K": convolution(40, 1, Window((4, 4, 32), (3, 3), (4, 4), pads=(1, 1)), split_k=3, dtype="bfloat16"),
    "bytes": convolution(40, 1, Window((4, 4, 32), (3, 3), (4, 4), pads=(1, 1)), Tile(64, 32, 128, (2, 1), 2),
                         dtype="int8"),
    "permuted channels": replace(convolution(40, 1, Window((4, 4, 16), (3, 3), (4, 4), pads=(1, 1))),
                                 gather=Gather(100, 2)),
}
