"""The steps that read windows of sequences, images and volumes, channels last.

See `kernels.cpu.tensors.sized_windows`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.graph.sized import CONVOLUTIONS, IM2COL, IM2COL_CODES, WINOGRAD
from sparsec.machine import tvm_runtime
from sparsec.machine.memory import ALIGNMENT, aligned

WEIGHTED = ("DepthwiseConv", *CONVOLUTIONS)
"""The operators whose second input is a weight."""
COPIED = (IM2COL, IM2COL_CODES)
"""The operators that copy windows, which are not made as a whole where rows alone read them."""


@dataclass(frozen=True)
class Axis:
    """By window the pixels of an axis (windows, pixels), -1 outside of the image, and the factor of each."""

    places: np.ndarray
    factors: np.ndarray

    @classmethod
    def of(cls, size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], *, padded: bool = False,
           beyond: bool = False) -> Axis:
        """The windows of a layer; where not `padded`, means are of the pixels of the image alone.

        The last window ends `beyond` the padding where that leaves pixels that are in no window.
        """
        windows = (size + sum(pads) - dilation * (kernel - 1) - 1 + beyond * (stride - 1)) // stride + 1
        windows -= beyond and (windows - 1) * stride >= size + pads[0]  # as PyTorch and onnxruntime count
        if windows <= 0:
            raise ValueError(f"{size} pixels and {sum(pads)} of padding are fewer than a window of {kernel} takes")
        places = np.arange(windows)[:, None] * stride - pads[0] + np.arange(kernel) * dilation
        inside = (places >= 0) & (places < size)
        counts = np.full((windows, 1), kernel) if padded else np.maximum(inside.sum(1, keepdims=True), 1)
        return cls(np.where(inside, places, -1), np.where(inside, 1 / counts, 0))

    def over(self, inner: Axis, size: int) -> Axis:
        """An axis and the `inner` one behind it, of `size` pixels, as one axis of all pixels of both."""
        outside = (self.places < 0)[:, None, :, None] | (inner.places < 0)[None, :, None, :]
        places = self.places[:, None, :, None] * size + inner.places[None, :, None, :]
        factors = self.factors[:, None, :, None] * inner.factors[None, :, None, :]
        windows = len(self.places) * len(inner.places)
        return Axis(np.where(outside, -1, places).reshape(windows, -1), factors.reshape(windows, -1))


@dataclass(frozen=True)
class Geometry:
    """What a kernel is told of a call.

    Attributes:
        shape: of the result.
        sizes: the kernel's argument without the number of windows to work on.
        tables, extra: its arguments.

    """

    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    tables: np.ndarray
    extra: np.ndarray

    @property
    def total(self) -> int:
        """Windows of all images."""
        return self.sizes[0]


def geometry(kind: str, attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Geometry:
    """What the kernel of an operator is told for its inputs, channels last.

    Raises:
        ValueError: an image is smaller than a window.

    """
    x = inputs[0]
    if kind == "PixelShuffle":
        return _shuffled(x.shape, attributes["blocks"])
    if kind == WINOGRAD:
        return _tiled(x.shape, attributes, inputs[1])
    axes = _resized(x.shape[1:-1], attributes, inputs) if kind == "Resize" else _pooled(x.shape[1:-1], attributes)
    made = tuple(len(axis.places) for axis in axes)
    last = x.shape[-1] * math.prod(attributes["kernel_shape"]) if kind in COPIED else attributes.get(
        "outputs", x.shape[-1])
    if len(axes) == 1:
        axes = [Axis(np.zeros((1, 1), np.int64), np.ones((1, 1))), *axes]
    if len(axes) == 3:  # the slices of a volume lie below each other
        axes = [axes[0].over(axes[1], x.shape[2]), axes[2]]
    given = kind in WEIGHTED or kind == IM2COL_CODES
    extra = np.reshape(inputs[1], -1) if given else _flat([axis.factors for axis in axes], np.float32)
    windows = [axis.places.shape for axis in axes]
    rows, columns = math.prod(x.shape[1:-2]), x.shape[-2]
    total = len(x) * windows[0][0] * windows[1][0]
    return Geometry((len(x), *made, last),
                    (total, windows[0][0], windows[1][0], windows[0][1], windows[1][1], x.shape[-1], rows, columns,
                     last),
                    _flat([axis.places for axis in axes], np.int64), extra)


def _flat(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([each.reshape(-1) for each in arrays]).astype(dtype)


def _pooled(image: Sequence[int], attributes: Mapping[str, Any]) -> list[Axis]:
    rank = len(image)
    kernel, strides, dilations, pads = (attributes[name] for name in ("kernel_shape", "strides", "dilations", "pads"))
    found = []
    for axis, size in enumerate(image):
        width, stride, dilation = kernel[axis], strides[axis], dilations[axis]
        own = pads[axis], pads[axis + rank]
        if attributes["auto_pad"].startswith("SAME"):
            more = max(0, (-(-size // stride) - 1) * stride + dilation * (width - 1) + 1 - size)
            less = more // 2
            own = (less, more - less) if attributes["auto_pad"] == "SAME_UPPER" else (more - less, less)
        found.append(Axis.of(size, width, stride, dilation, own, padded=bool(attributes.get("count_include_pad", 0)),
                             beyond=bool(attributes.get("ceil_mode", 0))))
    return found


def _resized(image: Sequence[int], attributes: Mapping[str, Any], inputs: Sequence[Any]) -> list[Axis]:
    wanted = inputs[1].tolist() if len(inputs) > 1 and inputs[1] is not None else None
    found = []
    for place, size, scale in zip(attributes["axes"], image, attributes["scales"], strict=True):
        out = math.floor(size * scale) if wanted is None else wanted[place]
        found.append(resized_axis(size, out, scale if wanted is None else out / max(size, 1), attributes))
    return found


def resized_axis(size: int, out: int, scale: float, attributes: Mapping[str, Any]) -> Axis:
    """The pixels of an axis that those of the result are made of, by the attributes of ONNX's Resize."""
    if not size or not out:
        return Axis(np.zeros((out, 1), np.int64), np.ones((out, 1)))
    x = COORDINATES[attributes["coordinate_transformation_mode"]](np.arange(out, dtype=np.float64), size, out, scale)
    return sampled_axis(x, size, scale, attributes)


def sampled_axis(x: np.ndarray, size: int, scale: float, attributes: Mapping[str, Any]) -> Axis:
    """The pixels of an axis around places between them, and their factors."""
    out = len(x)
    if attributes["mode"] == "nearest":
        near = NEAREST[attributes["nearest_mode"]](x)
        return Axis(np.clip(near, 0, size - 1).astype(np.int64)[:, None], np.ones((out, 1)))
    if attributes.get("antialias") or attributes.get("exclude_outside"):
        return _averaged(x, size, min(scale, 1.0) if attributes.get("antialias") else 1.0, attributes)
    if attributes["mode"] == "cubic":
        low = np.floor(x)
        near = low[:, None] + np.arange(-1, 3)
        return Axis(np.clip(near, 0, size - 1).astype(np.int64),
                    np.stack(_cubic(x - low, attributes.get("cubic_coeff_a", CUBIC)), 1))
    x = np.clip(x, 0, size - 1)
    low = np.minimum(np.floor(x), max(size - 2, 0)).astype(np.int64)
    share = x - low
    return Axis(np.stack([low, np.minimum(low + 1, size - 1)], 1), np.stack([1 - share, share], 1))


def _averaged(x: np.ndarray, size: int, scale: float, attributes: Mapping[str, Any]) -> Axis:
    """The pixels that a triangle or Keys' cubic reaches, widened against aliasing, with factors whose sum is 1."""
    a = attributes.get("cubic_coeff_a", CUBIC)
    first = math.floor(-(1 if attributes["mode"] == "linear" else 2) / scale) + 1
    near = np.ceil(x)[:, None] - 1 + first + np.arange(2 - 2 * first)
    distance = np.abs(near - x[:, None]) * scale
    if attributes["mode"] == "linear":
        factors = np.maximum(1 - distance, 0)
    else:
        beyond = np.where(distance < 2, np.polyval((a, -5 * a, 8 * a, -4 * a), distance), 0)
        factors = np.where(distance <= 1, np.polyval((a + 2, -(a + 3), 0, 1), distance), beyond)
    if attributes.get("exclude_outside"):
        factors = np.where((near >= 0) & (near < size), factors, 0)
    return Axis(np.clip(near, 0, size - 1).astype(np.int64), factors / factors.sum(1, keepdims=True))


def _cubic(share: np.ndarray, a: float) -> list[np.ndarray]:
    """The factors of the four pixels around a place (Keys 1981, with the constant a)."""
    return [np.polyval(factors, x) for factors, x in (
        ((a, -5 * a, 8 * a, -4 * a), share + 1), ((a + 2, -(a + 3), 0, 1), share),
        ((a + 2, -(a + 3), 0, 1), 1 - share), ((a, -5 * a, 8 * a, -4 * a), 2 - share))]


CUBIC = -0.75
"""ONNX's constant of a cubic resize."""
COORDINATES: dict[str, Callable[[np.ndarray, int, int, float], np.ndarray]] = {
    "half_pixel": lambda x, _size, _out, scale: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, _size, out, scale: (x + 0.5) / scale - 0.5 if out > 1 else x * 0,
    "align_corners": lambda x, size, out, _scale: x * (size - 1) / (out - 1) if out > 1 else x * 0,
    "asymmetric": lambda x, _size, _out, scale: x / scale,
    "half_pixel_symmetric": lambda x, size, out, scale: size / 2 * (1 - out / (scale * size)) + (x + 0.5) / scale - 0.5,
}
"""Where a pixel of the result is in the image."""
NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "floor": np.floor, "ceil": np.ceil, "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5)}
"""Which pixel is the nearest."""


def _tiled(shape: Sequence[int], attributes: Mapping[str, Any], weight: np.ndarray) -> Geometry:
    """The tiles of 2 x 2 pixels of a convolution's result; where they are dilated, their pixels lie as far apart."""
    axes = _pooled(shape[1:-1], attributes)
    tables, made = [], [len(axis.places) for axis in axes]
    for axis, dilation, out in zip(axes, attributes["dilations"], made, strict=True):
        number = np.arange(-(-out // (2 * dilation)) * dilation)
        first = number // dilation * (2 * dilation) + number % dilation
        written = first[:, None] + [0, dilation]
        inside = written < out
        near = axis.places[np.minimum(written, out - 1)]
        read = np.stack([near[:, 0, 0], near[:, 0, 1], near[:, 0, 2], np.where(inside[:, 1], near[:, 1, 2], -1)], 1)
        tables.append(np.concatenate([read, np.where(inside, written, -1)], 1))
    total, outputs = shape[0] * len(tables[0]) * len(tables[1]), attributes["outputs"]
    return Geometry((shape[0], *made, outputs),
                    (total, len(tables[0]), len(tables[1]), *made, shape[-1], *shape[1:-1], outputs),
                    _flat(tables, np.int64), weight.reshape(-1))


def _shuffled(shape: Sequence[int], blocks: Sequence[int]) -> Geometry:
    """Channels (block's pixels, channels) become the pixels of a block; rows of it are copied at once."""
    images, *sides, channels = shape
    *lines, columns = sides
    *above, width = blocks
    height, axes = math.prod(above), len(lines)
    run = channels // height
    line = np.arange(math.prod(lines)).reshape(*lines, *[1] * axes) * columns * height
    order = [axis + part * axes for axis in range(axes) for part in (0, 1)]
    rows = (line + np.arange(height).reshape(above)).transpose(order).reshape(-1)
    made = [side * block for side, block in zip(sides, blocks, strict=True)]
    pixels = math.prod(sides) * height
    return Geometry((images, *made, run // width),
                    (images * pixels, len(rows), columns, 1, 1, run, pixels, 1, run // width),
                    _flat([rows, np.arange(columns) * height], np.int64), np.zeros(1, np.float32))


def kernel_of(step: Mapping[str, Any]) -> str:
    """The kernel of a step."""
    kind = IM2COL if step["kind"] == "PixelShuffle" else step["kind"]
    return f"windows_{kind}{step.get('kernel', '')}"


class Windows:
    """A step, which makes the whole result.

    Args:
        kernel: the function.
        kind: the operator.
        attributes: of it.

    """

    def __init__(self, kernel: Callable[..., Any], kind: str, attributes: Mapping[str, Any]) -> None:
        self._kernel, self._kind, self._attributes = kernel, kind, attributes
        self._share = tvm_runtime.load().from_dlpack

    def run(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Y (batch, sides, channels)."""
        found = geometry(self._kind, self._attributes, inputs)
        out = np.empty(found.shape, inputs[0].dtype)
        if out.size:
            x = _writable(inputs[0])
            residual = [_writable(each).reshape(-1) for each in inputs[2:] if self._kind in CONVOLUTIONS]
            arrays = [x.reshape(-1), _writable(found.extra), *residual, out.reshape(-1)]
            if x.dtype != np.float32:
                arrays = [array.view(np.uint8) for array in arrays]
            sizes = np.array([found.total, *found.sizes], np.int64)
            self._kernel(*map(self._share, (np.zeros(1, np.int64), sizes, found.tables, *arrays)))
        return [out]


def _writable(array: np.ndarray) -> np.ndarray:
    """An array whose elements lie one behind the other, as kernels take it."""
    return np.array(array, order="C") if not array.flags.writeable else np.ascontiguousarray(array)


def kept_geometry(found: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Tables and extra in memory that stays, for kernels that are told addresses."""
    kept = []
    for each in (found.tables, found.extra):
        if each.ctypes.data % ALIGNMENT or not each.flags.writeable:
            own = aligned(each.shape, each.dtype)
            own[:] = each
            kept.append(own)
        else:
            kept.append(each)
    return kept[0], kept[1]
