"""What every row of a layer's weight matrix is multiplied with: the columns of im2col, or rows of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsec.oneshot.weights import Layer


def columns(layer: Layer, x: np.ndarray, most: int) -> np.ndarray:
    """The inputs of the products as (groups, positions, inputs) in float32, in the order of `Layer.matrix`.

    Args:
        layer: the layer.
        x: its other operand.
        most: positions to take, evenly spaced, where there are more.

    """
    if layer.operator == "Conv":
        return _im2col(layer, x, most)
    transposed = layer.attributes.get("transA" if layer.side else "transB", 0) if layer.operator == "Gemm" else 0
    if bool(transposed) is bool(layer.side):  # the product's inputs lie along the axis before the last
        x = np.moveaxis(x, -1, -2) if x.ndim > 1 else x
    rows = x.reshape(-1, x.shape[-1])
    return np.asarray(rows[_some(len(rows), most)], np.float32)[np.newaxis]


def positions(layer: Layer, x: np.ndarray) -> int:
    """The products of every output with inputs of their own: as many columns as there are in all."""
    if layer.operator == "Conv":
        windows = _windows(layer, x)
        return int(np.prod(windows.shape[:1 + len(layer.shape[2:])]))
    return x.size // layer.input_count


def _some(count: int, most: int) -> np.ndarray:
    """The numbers 0 to `count`, or `most` of them, evenly spaced."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def _windows(layer: Layer, x: np.ndarray) -> np.ndarray:
    """What every position sees: (n, *positions, *kernel, channels), a view of the padded input."""
    axes = tuple(range(2, x.ndim))
    kernel = layer.shape[2:]
    strides = layer.attributes.get("strides") or [1] * len(kernel)
    dilations = layer.attributes.get("dilations") or [1] * len(kernel)
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    around = padding(layer.attributes, x.shape[2:], extents, strides)
    padded = np.pad(x, [(0, 0), (0, 0), *around])
    windows = np.lib.stride_tricks.sliding_window_view(padded, extents, axis=axes)
    step = (slice(None), slice(None), *(slice(None, None, s) for s in strides),
            *(slice(None, None, d) for d in dilations))
    return np.moveaxis(windows[step], 1, -1)


def _im2col(layer: Layer, x: np.ndarray, most: int) -> np.ndarray:
    windows = _windows(layer, x)
    places = windows.shape[:1 + len(layer.shape[2:])]
    chosen = np.unravel_index(_some(int(np.prod(places)), most), places)
    taken = np.asarray(windows[chosen], np.float32).reshape(len(chosen[0]), -1, layer.groups, layer.shape[1])
    return np.ascontiguousarray(np.moveaxis(taken, 2, 0)).reshape(layer.groups, len(chosen[0]), -1)


def padding(attributes: Mapping[str, Any], sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int],
            ) -> list[tuple[int, int]]:
    """The zeros in front of and behind every axis of an image."""
    mode = bytes(attributes.get("auto_pad", b"NOTSET")).decode()
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [max((-(-size // stride) - 1) * stride + extent - size, 0)
                 for size, extent, stride in zip(sizes, extents, strides, strict=True)]
        pairs = [(each // 2, each - each // 2) for each in total]
        return pairs if mode == "SAME_UPPER" else [(after, before) for before, after in pairs]
    pads = attributes.get("pads") if mode != "VALID" else None
    flat = pads or [0] * (2 * len(sizes))
    return list(zip(flat[:len(sizes)], flat[len(sizes):], strict=True))
