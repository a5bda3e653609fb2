"""Products with small integers, exact in every dtype, on the emulator; what they should be comes from numpy."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from sparsec.errors import FormatError
from sparsec.kernels.cuda.codes import Codes, encode
from sparsec.kernels.cuda.params import Gather, MmaParams, Tile, Window
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.emulator import emulate, launches

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "int8": np.int8, "float32": np.float32,
          "uint8": np.uint8, "e4m3": ml_dtypes.float8_e4m3fn}
ACTIVATIONS = {"none": lambda y: y, "relu": lambda y: np.maximum(y, 0)}
SCALE = 0.5
CODES = {"uint8": Codes("uint8", 1.5, 120), "int8": Codes("int8", 0.75, -3), "e4m3": Codes("e4m3", 1.25)}

SMALL = Tile(64, 32, 64, (2, 1), 3)
SMALL_TILES = (SMALL, Tile(64, 64, 64, (4, 1), 3), Tile(64, 32, 128, (2, 1), 3), Tile(32, 4, 256, (16, 1), 2),
               Tile(32, 8, 512, (1, 8), 4))
"""Of which every family takes one for every product that it computes."""
FINISH = Epilogue("relu", residual=True)


def convolution(m, images, window, **more):
    depth = window.kernel[0] * window.kernel[1] * window.image[2]
    return MmaParams(m, images * window.output[0] * window.output[1], depth, SMALL, window=window, **more)


PRODUCTS = {
    "aligned": MmaParams(128, 64, 128, SMALL),
    "tails in m, n and k": MmaParams(100, 72, 136, SMALL, epilogue=FINISH),
    "odd outputs and columns": MmaParams(65, 35, 76, SMALL, epilogue=FINISH),
    "one token": MmaParams(130, 1, 260, SMALL),
    "one of everything": MmaParams(1, 1, 4, SMALL),
    "more stages than memory": MmaParams(64, 13, 392, SMALL),
    "a group of rows of tiles": MmaParams(64 * 11, 24, 64, SMALL),
    "few tokens, many features": MmaParams(50, 5, 3208, SMALL, dtype="bfloat16", out="float32", epilogue=FINISH),
    "blocks with tails": MmaParams(100, 72, 144, SMALL, epilogue=FINISH),
    "float32 results": MmaParams(70, 30, 100, SMALL, out="float32"),
    "bfloat16": MmaParams(100, 36, 140, SMALL, dtype="bfloat16", out="bfloat16", epilogue=FINISH),
    "bytes": MmaParams(100, 36, 320, SMALL, dtype="int8", epilogue=FINISH),
    "bytes with tails": MmaParams(33, 5, 324, SMALL, dtype="int8", out="float32"),
    "shares of K": MmaParams(100, 36, 324, SMALL, split_k=2, epilogue=FINISH),
    "uneven shares": MmaParams(100, 36, 300, SMALL, split_k=3, out="float32"),
    "shares of bytes": MmaParams(64, 32, 512, SMALL, dtype="int8", split_k=4),
    "a cluster": MmaParams(100, 36, 324, SMALL, split_k=2, cluster=True, epilogue=FINISH),
    "a cluster of uneven shares": MmaParams(72, 44, 300, SMALL, split_k=3, cluster=True, out="float32"),
    "a cluster of bytes": MmaParams(65, 35, 512, SMALL, dtype="int8", split_k=4, cluster=True),
    "gathered pairs": MmaParams(100, 36, 100, SMALL, gather=Gather(132, 2)),
    "gathered elements": MmaParams(40, 10, 100, SMALL, gather=Gather(68)),
    "gathered runs of bytes": MmaParams(40, 10, 96, SMALL, dtype="int8", gather=Gather(160, 4)),
    "3x3": convolution(40, 1, Window((5, 6, 16), (3, 3), (5, 6), pads=(1, 1)), epilogue=FINISH),
    "batch, stride and dilation": convolution(
        33, 3, Window((9, 8, 8), (3, 2), (4, 3), strides=(2, 3), dilations=(1, 2), pads=(1, 0))),
    "1x1 with stride": convolution(64, 2, Window((7, 7, 64), (1, 1), (4, 4), strides=(2, 2))),
    "four channels": convolution(32, 2, Window((6, 6, 4), (5, 5), (3, 3), strides=(2, 2), pads=(2, 2))),
    "unpadded image of two channels": convolution(32, 1, Window((6, 6, 2), (2, 2), (5, 5))),
    "convolution in shares": convolution(40, 1, Window((4, 4, 32), (3, 3), (4, 4), pads=(1, 1)), split_k=3,
                                         dtype="bfloat16"),
    "convolution of bytes": convolution(40, 1, Window((4, 4, 32), (3, 3), (4, 4), pads=(1, 1)), dtype="int8"),
    "permuted channels": replace(convolution(40, 1, Window((4, 4, 16), (3, 3), (4, 4), pads=(1, 1))),
                                 gather=Gather(100, 2)),
}

needs_compiler = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")


def fitted(family, p):
    """The product with a tile that the family takes; skips the test, with the reason, where there is none."""
    offers = [replace(p, tile=tile) for tile in SMALL_TILES]
    taken = next((offer for offer in offers if family.refuses(offer) is None), None)
    if taken is None:
        pytest.skip(family.refuses(offers[0]))
    return taken


def two_of_four(rng, shape):
    """A random 2:4 mask; some groups hold fewer than two non-zeros."""
    rows, columns = shape
    rank = np.argsort(rng.random((rows, columns // 4, 4)), axis=2).argsort(axis=2)
    kept = rank < rng.choice([0, 1, 2], (rows, columns // 4, 1), p=[0.1, 0.1, 0.8])
    return kept.reshape(shape)


PATTERNS = {
    "2:4": two_of_four,
    "dense": lambda rng, shape: np.ones(shape, bool),
    "half": lambda rng, shape: rng.random(shape) < 0.5,
    "few": lambda rng, shape: rng.random(shape) < 0.15,
    "empty": lambda rng, shape: np.zeros(shape, bool),
    "a block": lambda rng, shape: np.logical_and.outer(np.arange(shape[0]) // 16 == 1, np.arange(shape[1]) < 33),
}
"""Where weights are not zero."""


def weight_index(rng, p, pattern):
    """A weight (m, depth) of small integers."""
    values = rng.integers(1, 5, (p.m, p.depth)) * rng.choice([-1, 1], (p.m, p.depth))
    return (values * PATTERNS[pattern](rng, values.shape)).astype(DTYPES[p.dtype])


def packed(family, p, weight):
    """A family's parameters and packed arrays; FormatError where it cannot store the weight."""
    params = family.params(weight, p)
    return params, family.recipe(params).pack(stored(weight))


def telling_weight(family, p):
    """A weight with few non-zeros anywhere, or else one that is 2:4."""
    for pattern in ("few", "2:4"):
        weight = weight_index(np.random.default_rng(1), p, pattern)
        try:
            packed(family, p, weight)
        except FormatError:
            continue
        return weight
    raise AssertionError(f"{family.name} stores no 2:4 weight")


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
    """A random X, and the matrix (n, k) that W multiplies."""
    if p.window:
        shape = p.n // np.prod(p.window.output), *p.window.image
        image = rng.integers(0 if p.x else -3, 4, shape).astype(DTYPES[p.x or p.dtype])
        return image, windows(image, p.window)
    x = rng.integers(0 if p.x else -3, 250 if p.x else 4, (p.n, p.k)).astype(DTYPES[p.x or p.dtype])
    return x, x


def operands(p, arrays, rng, weight, gather=None):
    """The kernel's inputs by name and the exact Y."""
    x, features = columns_of(rng, p)
    inputs = dict(arrays)
    if p.gather:
        inputs["gather"] = gather_of(rng, p) if gather is None else gather
        features = features[:, inputs["gather"]]
    y = features.astype(np.float64) @ weight.astype(np.float64).T
    if p.dtype == "int8":
        offset = rng.integers(-9, 10, p.m).astype(np.int32)
        y += offset
    if p.scaled:
        inputs["scale"] = np.full(p.m, SCALE, np.float32)
        y *= SCALE
    if p.dtype == "int8":
        inputs["offset"] = offset
    inputs["bias"] = rng.integers(-9, 10, p.m).astype(np.float32)
    y += inputs["bias"]
    if p.coded:
        inputs["codes"] = CODES[p.coded].numbers
    inputs["x"] = stored(x).ravel()
    if p.epilogue.residual:
        residual = rng.integers(-5, 6, y.shape).astype(DTYPES[p.out])
        inputs["residual"] = residual.ravel()
        y += residual.astype(np.float64)
    result = ACTIVATIONS[p.epilogue.activation](y).astype(np.float32)
    return inputs, (result.astype(DTYPES[p.out]) if not p.coded else encode(result, CODES[p.coded])).ravel()


def stored(array):
    """An array as buffers hold it, numbers of e4m3 as bytes."""
    return array.view(np.uint8) if array.dtype == DTYPES["e4m3"] else array


def run(p, family, weight=None, *, seeds=(0,), mutate=None, repack=None, pipeline="tirx", gather=None, **fields):
    """The largest share of wrong elements of Y over the seeds, and the launches' statistics.

    `mutate` changes the generated source, `repack` the packed arrays, `fields` the family's parameters.
    """
    weight = telling_weight(family, p) if weight is None else weight
    params, arrays = packed(family, p, weight)
    params = replace(params, **fields)
    program = launches.lower(family.build(params, ()), pipeline)
    source = mutate(program.source) if mutate else program.source
    assert mutate is None or source != program.source, "the mutation changes nothing"
    library = launches.compiled(source)
    inputs, expected = operands(p, repack(arrays) if repack else arrays, np.random.default_rng(0), weight, gather)
    wrong = 0.0
    for seed in seeds:
        given = dict(inputs)
        if p.leaves_partial:
            kind = np.uint32 if p.dtype == "int8" else np.float32
            given["partial"] = np.full(p.split_k * p.outputs, np.nan, np.float32).view(kind)
        given["y"] = np.full(p.outputs, 99).astype(DTYPES[p.y_type])
        assert [(n, (a.size, str(a.dtype))) for n, a in given.items()] == list(family.arguments(params).items())
        statistics = program.run(list(given.values()), seed, library)
        wrong = max(wrong, float(np.mean(given["y"] != expected)))
    return wrong, statistics


def is_caught(p, family, weight=None, **how):
    """Whether the emulator refuses a run or its numbers are wrong."""
    try:
        return run(p, family, weight, **how)[0] > 0
    except emulate.EmulationError:
        return True
