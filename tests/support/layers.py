"""Layers that every kernel family is tested on, by their class: shapes, sparsity patterns, epilogues and threads."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from sparsec.graph.layout import PaddedFlat, PhasePlanes, Tiled
from sparsec.graph.operators.conv import windows
from sparsec.graph.operators.epilogue import ACTIVATIONS, apply
from sparsec.graph.operators.products import finish
from sparsec.kernels.cpu.codes.finish import Finish, Quantized
from sparsec.kernels.cpu.codes.layer import CodesProduct
from sparsec.kernels.cpu.codes.rows import RowsOfCodes, RowsProduct
from sparsec.kernels.cpu.codes.rows_image import ImageRows
from sparsec.kernels.cpu.images.padded import blank, padded_rows, pixels
from sparsec.kernels.cpu.images.stem import StemProduct
from sparsec.kernels.cpu.layer import CpuProduct
from sparsec.kernels.cpu.products.layer import StencilProduct, pixel_mask
from sparsec.kernels.cpu.products.stencil import convolution, linear, strided_convolution
from sparsec.kernels.cpu.rows.layer import RowProduct
from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.ranges import Ranges

FEW_PIXELS = 24


@dataclass(frozen=True)
class Case:
    """A layer with activations, flat as its kernels take them, and in numpy.

    Attributes:
        columns: what the product sees, (inner, n).
        finished: from products (outputs, n) to the expected output, flat; NaN stands for anything.

    """

    layer: CpuProduct
    inputs: tuple[np.ndarray, ...]
    columns: np.ndarray
    finished: Callable[[np.ndarray], np.ndarray]


def random(size, seed=1):
    return np.random.default_rng(seed).standard_normal(size, np.float32)


def weight(outputs, inner, pattern):
    """A weight of a sparsity pattern: a density, or a name."""
    rng = np.random.default_rng(0)
    if pattern == "2:4":
        kept = np.resize([True, False, False, True], inner)
    elif pattern == "4x1":
        kept = np.repeat(rng.random((-(-outputs // 4), inner)) < 0.2, 4, axis=0)[:outputs]
    elif pattern == "skewed":  # some rows have far more non-zeros than others
        kept = rng.random((outputs, inner)) < 0.2 * rng.uniform(0, 2, (outputs, 1)) ** 2
    else:
        kept = rng.random((outputs, inner)) < pattern
    return np.where(kept, rng.standard_normal((outputs, inner)), 0).astype(np.float32)


def rows(lanes, outputs, inputs, batch, pattern, activation, residual):
    shape = Matvec(outputs, inputs, batch, activation, 0.2, 0.5, residual)
    x, extra, bias = random((batch, inputs)), random((batch, outputs), 2), random(outputs, 3)

    def finished(products):
        return apply(products.T, bias, extra if residual else None, activation, 0.2, 0.5).ravel()

    layer = RowProduct(weight(outputs, inputs, pattern), bias, shape)
    return Case(layer, (x.ravel(), extra.ravel())[:1 + residual], x.T, finished)


def tiles(lanes, layout, outputs, pattern, activation, residual):
    return over(linear(layout, outputs, lanes), None, pattern, activation, residual)


def images(lanes, size, kernel, stride, pattern, activation, residual):
    """A convolution of (batch, channels, height, width) to as large images of other channels."""
    batch, channels, outputs, height, width = size
    target = PaddedFlat(batch, outputs, height, width, 2, width + 2, lanes)
    if stride == 1:
        source = PaddedFlat(batch, channels, height, width, 2, width + 2, lanes)
        stencil = convolution(source, target, (kernel, kernel), (1, 1), (kernel // 2, kernel // 2))
    else:
        source = None
        stencil = strided_convolution(PhasePlanes(channels, (kernel, kernel), (stride, stride), (1, 1), (1, 1), target))
    return over(stencil, target, pattern, activation, residual, source)


def grouped(lanes, size, group, pattern, activation, residual):
    """A 3 x 3 convolution in groups, whose weight is zero beside the blocks on its diagonal."""
    case = images(lanes, size, 3, 1, pattern, activation, residual)
    rows, columns = (np.arange(length) * group // length for length in case.layer.weight.shape)
    blocks = np.where(rows[:, None] == columns, case.layer.weight, 0)
    return replace(case, layer=replace(case.layer, weight=blocks, groups=group))


def places(s):
    """What a stencil says, see its module: where X is read, (inner, n), and Y written, (outputs, n)."""
    pixel, segment = np.arange(s.vectors * s.lanes), np.arange(s.segments)[:, None]
    offsets = np.arange(s.channels)[:, None] * s.x_channel_stride + np.asarray(s.taps)
    return (offsets.reshape(-1, 1) + (s.x_origin + segment * s.x_segment_stride + pixel).ravel(),
            np.arange(s.outputs)[:, None] * s.y_row_stride
            + (s.y_origin + segment * s.y_segment_stride + pixel).ravel())


def placed(s, target, values, junk):
    """Y with its values, and what stands for zero between the pixels of an image, but not behind its last channel."""
    y = np.full(s.y_size, junk if s.masked else np.nan, np.float32)
    y[s.outputs * s.y_row_stride:] = np.nan
    y[places(s)[1]] = np.where(pixel_mask(target) != 0, values, junk) if s.masked else values
    return y


def over(s, target, pattern, activation, residual, source=None):
    """Any X of the right size, whatever it is an image of, with zeros between the pixels of a `source`."""
    x, extra, bias = random(s.x_size), random(s.y_size, 2), random(s.outputs, 3)
    if source is not None:
        inside = np.zeros(s.x_size, bool)
        pixels(inside, padded_rows(source))[...] = True
        x[~inside] = 0
    reads, writes = places(s)

    def finished(products):
        added = extra[writes] if residual else None
        return placed(s, target, apply(products, bias[:, None], added, activation, 0.2, 0.5), 0)

    span = np.linspace(4, 6, s.channels, dtype=np.float32)
    layer = StencilProduct(weight(s.outputs, s.inner, pattern), bias, s, Epilogue(activation, 0.2, 0.5, residual),
                           target, Ranges(-span, span) if activation == "relu" else None)
    return Case(layer, (x, extra)[:1 + residual], x[reads], finished)


def codes(lanes, layout, outputs, pattern, y_type, residual):
    """A product of codes with numbers of its own for every output, to codes or float32."""
    image = isinstance(layout, PaddedFlat)
    layout = replace(layout, lanes=4 * lanes, row_stride=layout.width + layout.pad) if image else layout
    target = replace(layout, channels=outputs, padding=9) if image else None
    s = convolution(layout, target, (3, 3), (1, 1), (1, 1)) if image else linear(layout, outputs, 4 * lanes)
    rng = np.random.default_rng(4)
    x, extra = (rng.integers(0, 256, size, np.uint8) for size in (s.x_size, s.y_size))
    small = ImageRows(layout, target, (3, 3), (1, 1), (1, 1), (1, 1), 11) if image else None
    if image:
        inside = pixels(x, padded_rows(layout)).copy()
        x[:] = 11
        pixels(x, padded_rows(layout))[...] = inside
    integers = np.rint(40 * weight(outputs, s.inner, pattern)).clip(-128, 127).astype(np.int8)
    scales = rng.uniform(0.5, 1.5, outputs).astype(np.float32) / np.float32(400 * np.sqrt(s.inner))
    begins, addends = rng.integers(-9000, 9000, outputs), random(outputs, 3)
    real = y_type == "float32"
    numbers = Quantized(scales, begins, integers.sum(axis=1, dtype=np.int64), addends, 9, 3, 240, 100, 0, 255, 7, 0.5,
                        0.25)
    attributes = {"y_type": y_type, "y_scale": 1.0, "y_zero_point": 9, "low": 3, "high": 240, "p_scale": 0.5,
                  "p_type": "uint8", "p_zero_point": 100, "p_low": 0, "p_high": 255, "r_scale": 0.25, "r_zero_point": 7,
                  "activation": "relu", "alpha": 0.0, "beta": 0.0}
    extra = random(s.y_size, 2) if real else extra
    reads, writes = places(s)

    def finished(products):
        factor = scales * np.float32(0.5) if residual and not real else scales
        y = finish(products + begins[:, None], factor[:, None], addends[:, None], extra[writes] if residual else None,
                   attributes)
        return placed(s, target, y, 0 if real else 9)

    after = Finish(real, residual, clamped=True, activation="relu" if real else "none")
    layer = CodesProduct(integers, begins, s, after, numbers, target,
                         small if image and len(small.pixels) <= FEW_PIXELS else None)
    return Case(layer, (x, extra)[:1 + residual], x[reads], finished)


def rows_of_codes(lanes, outputs, inputs, batch, pattern, result, residual):
    """A few rows of codes, to codes or float32."""
    rng = np.random.default_rng(5)
    signed, real = result == "int8", result == "float32"
    dtype = np.int8 if signed else np.uint8
    low = -128 if signed else 0
    x, extra = (rng.integers(low, low + 256, size).astype(dtype) for size in ((batch, inputs), (batch, outputs)))
    integers = np.rint(40 * weight(outputs, inputs, pattern)).clip(-128, 127).astype(np.int8)
    scales = rng.uniform(0.5, 1.5, outputs).astype(np.float32) / np.float32(400 * np.sqrt(inputs))
    begins, addends = rng.integers(-9000, 9000, outputs), random(outputs, 3)
    numbers = Quantized(scales, begins, integers.sum(axis=1, dtype=np.int64), addends, 9 - low, 3 - low, 100 - low,
                        50 - low, 0, 255, 7 - low, 0.5, 0.25)
    attributes = {"y_type": result, "y_scale": 1.0, "y_zero_point": 9, "low": 3, "high": 100, "p_scale": 0.5,
                  "p_type": result, "p_zero_point": 50, "p_low": -128, "p_high": 255, "r_scale": 0.25,
                  "r_zero_point": 7, "activation": "none", "alpha": 0.0, "beta": 0.0}
    extra = random((batch, outputs), 2) if real else extra

    def finished(products):
        factor = scales * np.float32(0.5) if residual and not real else scales
        y = finish(products.T + begins, factor, addends, extra if residual else None, attributes)
        return y.astype(np.float32).ravel()

    shape = RowsOfCodes(batch, inputs, outputs, Finish(real, residual, clamped=True), signed, result, lanes)
    return Case(RowsProduct(integers, begins, shape, numbers), (x.ravel(), extra.ravel())[:1 + residual],
                x.T.astype(np.int64) - low, finished)


def plain(lanes, shape, outputs, kernel, stride, activation):
    """A convolution of plain images."""
    size = [(extent + 2 - kernel) // stride + 1 for extent in shape[2:]]
    target = PaddedFlat(shape[0], outputs, *size, 1, size[1] + 1, lanes)
    bias, x = random(outputs, 3), random(shape)
    seen = windows(x, (kernel, kernel), (stride, stride), (1, 1, 1, 1), (1, 1))  # batch, channel, y, x, ky, kx
    columns = np.transpose(seen, (1, 4, 5, 0, 2, 3)).reshape(shape[1] * kernel * kernel, -1)

    def finished(products):
        y = blank(target)
        values = apply(products, bias[:, None], None, activation, 0.2, 0.5)
        pixels(y, padded_rows(target))[...] = values.reshape(outputs, shape[0], *size).swapaxes(0, 1)
        return y

    layer = StemProduct(weight(outputs, len(columns), 1.0), bias, shape, target, (kernel, kernel), (stride, stride),
                        (1, 1), Epilogue(activation, 0.2, 0.5))
    return Case(layer, (x.ravel(),), columns, finished)


CASES = {
    RowProduct: [(rows, *each, activation, residual) for (*each, residual), activation in zip([
        (1, 1, 1, 1.0, False), (16, 32, 1, 0.5, False), (37, 5, 2, 0.3, True), (330, 300, 1, 0.05, False),
        (48, 70, 19, 1.0, True), (40, 64, 11, 0.1, False), (48, 100, 1, 0.0, True), (150, 40, 7, "skewed", False),
        (64, 64, 8, "2:4", True), (61, 130, 1, "skewed", True), (20, 24, 4, "4x1", False)], ACTIVATIONS, strict=True)],
    StencilProduct: [(make, *each, activation, residual) for (make, *each, residual), activation in zip([
        (images, (2, 7, 48, 4, 6), 3, 1, 1.0, True), (images, (1, 9, 12, 5, 11), 3, 1, 0.3, False),
        (tiles, Tiled(2, 61, 37, 32), 26, 0.2, True), (images, (2, 20, 16, 6, 9), 1, 1, "4x1", False),
        (tiles, Tiled(1, 64, 90, 64), 24, "skewed", True), (images, (1, 5, 8, 7, 9), 3, 2, 0.2, False),
        (tiles, Tiled(1, 32, 40, 32), 300, 0.1, False), (grouped, (2, 6, 21, 4, 6), 3, 1.0, True),
        (images, (1, 5, 32, 10, 6), 3, 1, 1.0, True),  # sums in bands of two rows
        (images, (1, 3, 10, 3, 41), 3, 1, 1.0, True),  # rows of more than one vector
        (tiles, Tiled(1, 40, 30, 64), 24, 0.2, True),  # a tile with fewer tokens
        (images, (1, 6, 20, 5, 14), 3, 1, 0.3, True),  # rows of whole vectors
        (images, (1, 40, 24, 4, 4), 3, 1, 0.2, False),  # pixels of one vector in two, as in the next two
        (images, (2, 9, 12, 2, 2), 3, 1, "skewed", False), (images, (1, 5, 8, 2, 2), 3, 2, "4x1", False),
        (images, (1, 6, 11, 5, 16), 3, 1, 0.3, False)],  # rows of whole vectors, no room for what taps read beside
        cycle(["relu", "none", "gelu_erf", "clip", "silu"]), strict=False)],
    CodesProduct: [(codes, *each) for each in [
        (PaddedFlat(1, 6, 5, 9, 1, 10, 4), 12, 0.3, "uint8", False), (Tiled(2, 64, 21, 64), 8, 0.2, "uint8", True),
        (Tiled(1, 128, 30, 128), 26, "skewed", "float32", True), (Tiled(1, 64, 40, 64), 20, "4x1", "uint8", False),
        (PaddedFlat(2, 5, 4, 6, 1, 7, 4), 8, 1.0, "uint8", True),
        (PaddedFlat(1, 40, 3, 5, 1, 6, 4), 70, 0.2, "uint8", True),
        (PaddedFlat(2, 37, 4, 6, 1, 7, 4), 80, 1.0, "uint8", True),
        (PaddedFlat(1, 9, 6, 7, 1, 8, 4), 48, 1.0, "uint8", False)]],
    RowsProduct: [(rows_of_codes, *each) for each in [
        (70, 150, 1, 0.2, "uint8", False), (64, 33, 3, "skewed", "int8", True), (9, 300, 2, 1.0, "float32", True)]],
    StemProduct: [(plain, (1, 3, 18, 46), 9, 7, 2, "relu"), (plain, (2, 4, 9, 32), 7, 3, 1, "hard_swish")],
}
"""By class: what makes a case of the lanes of a vector."""
