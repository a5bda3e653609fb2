"""Operators that the interpreter runs by an implementation of its own, faster or more lenient than ONNX's reference."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_resize

from sparsec.graph import control
from sparsec.runtime.sized.scattering import scatter_elements, scatter_nd
from sparsec.runtime.sized.windows import COORDINATES, resized_axis, sampled_axis


class NonMaxSuppression(OpRun):
    """The boxes of the highest scores, without those that overlap a chosen one of their class too much."""

    op_domain = ""

    def _run(self, boxes: np.ndarray, scores: np.ndarray, most: Any = None, overlap: Any = None, least: Any = None,
             center_point_box: int = 0) -> tuple[np.ndarray]:
        count = 0 if most is None else int(np.reshape(most, -1)[0])
        threshold = 0.0 if overlap is None else float(np.reshape(overlap, -1)[0])
        lowest = None if least is None else float(np.reshape(least, -1)[0])
        rows = [(batch, kind, box) for batch in range(scores.shape[0]) for kind in range(scores.shape[1])
                for box in _chosen(_corners(boxes[batch], centred=bool(center_point_box)), scores[batch, kind], count,
                                   threshold, lowest)]
        return (np.array(rows, np.int64).reshape(-1, 3),)


def _corners(boxes: np.ndarray, *, centred: bool) -> np.ndarray:
    """Boxes (n, 4) as their lower and upper corners."""
    if centred:
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return np.concatenate([middle - half, middle + half], axis=1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)


def _chosen(boxes: np.ndarray, scores: np.ndarray, count: int, threshold: float,
            lowest: float | None) -> np.ndarray:
    """The boxes of one class, the highest score first."""
    order = np.argsort(-scores, kind="stable")
    order = order if lowest is None else order[scores[order] > lowest]
    ranked = boxes[order]
    groups = _apart(ranked) if count and len(order) else []
    kept = [place for group in groups for place in _greedy(ranked, group, count, threshold)]
    return order[np.sort(np.array(kept, np.int64))[:count]]


def _apart(boxes: np.ndarray) -> list[np.ndarray]:
    """Groups of boxes, each in order, of which none touches one of another: those of classes that lie far apart."""
    by_begin = np.argsort(boxes[:, 0], kind="stable")
    reach = np.maximum.accumulate(boxes[by_begin, 2])
    group = np.empty(len(boxes), np.int64)
    group[by_begin] = np.concatenate([[0], np.cumsum(boxes[by_begin[1:], 0] > reach[:-1])])
    members = np.argsort(group, kind="stable")
    return np.split(members, np.flatnonzero(np.diff(group[members])) + 1)


def _greedy(boxes: np.ndarray, order: np.ndarray, count: int, threshold: float) -> list[int]:
    """The first of `order`, then the next that overlaps none that was taken by too much, up to a number."""
    low_y, low_x, high_y, high_x = boxes[order].T
    area, left, taken = (high_y - low_y) * (high_x - low_x), np.arange(len(order)), list[int]()
    while len(left) and len(taken) < count:
        best, left = left[0], left[1:]
        taken.append(int(order[best]))
        height = np.minimum(high_y[best], high_y[left]) - np.maximum(low_y[best], low_y[left])
        width = np.minimum(high_x[best], high_x[left]) - np.maximum(low_x[best], low_x[left])
        shared = np.maximum(height, 0) * np.maximum(width, 0)
        union = area[best] + area[left] - shared
        near = (shared > 0) & (area[best] > 0) & (area[left] > 0) & (union > 0) & (shared / union > threshold)
        left = left[~near]
    return taken


class GatherND(OpRun):
    """Slices of the data by positions in its first dimensions after those of the batch."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, batch_dims: int = 0) -> tuple[np.ndarray]:
        depth, batch = indices.shape[-1], math.prod(data.shape[:batch_dims])
        flat = indices.reshape(batch, math.prod(indices.shape[batch_dims:-1]), depth)
        places = (np.arange(batch)[:, None], *np.moveaxis(flat, -1, 0))
        found = data.reshape(batch, *data.shape[batch_dims:])[places]
        return (found.reshape(*indices.shape[:-1], *data.shape[batch_dims + depth:]),)


class ScatterElements(OpRun):
    """Elements put where the indices say along an axis, and where they lie themselves along the others."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, updates: np.ndarray, axis: int = 0,
             reduction: str | None = None) -> tuple[np.ndarray]:
        return (scatter_elements(data, indices, updates, axis, reduction),)


class ScatterND(OpRun):
    """Slices put at positions in the first dimensions."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, updates: np.ndarray, reduction: str | None = None,
             ) -> tuple[np.ndarray]:
        return (scatter_nd(data, indices, updates, reduction),)


class Pad(OpRun):
    """Elements put around a tensor, or cut off where a number of them is negative, before others are repeated."""

    op_domain = ""

    def _run(self, x: np.ndarray, pads: Any = None, value: Any = None, axes: Any = None, mode: str = "constant",
             ) -> tuple[np.ndarray]:
        ends, given = np.zeros((x.ndim, 2), np.int64), np.reshape(pads, (2, -1)).T
        ends[np.arange(x.ndim) if axes is None else np.reshape(axes, -1)] = given
        cut = tuple(slice(max(0, -front), size + min(0, back))
                    for (front, back), size in zip(ends.tolist(), x.shape, strict=True))
        how = {} if mode != "constant" or value is None else {"constant_values": np.reshape(value, ())}
        return (np.pad(x[cut], np.maximum(ends, 0), mode, **how),)  # type: ignore[call-overload]  # a mode by its name


class DeformConv(OpRun):
    """A convolution of images whose taps read between pixels, each where an offset moves it."""

    op_domain = ""

    def _run(self, x: np.ndarray, weight: np.ndarray, offset: np.ndarray, bias: Any = None, mask: Any = None,
             dilations: Any = None, group: int = 1, kernel_shape: Any = None,  # noqa: ARG002 - the weight's
             offset_group: int = 1, pads: Any = None, strides: Any = None) -> tuple[np.ndarray]:
        images, channels, *image = x.shape
        kernel, made = weight.shape[2:], offset.shape[2:]
        taps, pixels = math.prod(kernel), math.prod(made)
        moves = offset.reshape(images, offset_group, taps, 2, *made)
        at = []
        for axis in (0, 1):
            first = np.arange(made[axis]) * (strides or (1, 1))[axis] - (pads or (0, 0))[axis]
            tap = np.indices(kernel)[axis].reshape(-1, 1, 1) * (dilations or (1, 1))[axis]
            at.append(moves[:, :, :, axis] + (first.reshape((-1, 1) if axis == 0 else (1, -1)) + tap))
        places = [each.reshape(images, offset_group, -1).astype(x.dtype) for each in at]
        own = x.reshape(images, offset_group, channels // offset_group, -1)
        read = sum(_corner(own, places, image, corner) for corner in np.ndindex(2, 2))
        if mask is not None:
            read = read * mask.reshape(images, offset_group, 1, -1)
        columns = np.reshape(read, (images, group, channels // group * taps, pixels))
        y = (weight.reshape(group, len(weight) // group, -1) @ columns).reshape(images, len(weight), *made)
        return (y if bias is None else y + bias.reshape(-1, 1, 1),)


def _corner(x: np.ndarray, places: Sequence[np.ndarray], image: Sequence[int], corner: Sequence[int]) -> np.ndarray:
    """What one of four pixels around each place adds to it, of images (images, groups, channels, pixels)."""
    share, index = np.ones_like(places[0]), np.zeros(places[0].shape, np.int64)
    for at, size, further in zip(places, image, corner, strict=True):
        near = np.floor(at) + further
        share = share * (1 - np.abs(at - near)) * ((near >= 0) & (near < size))
        index = index * size + np.clip(near, 0, size - 1).astype(np.int64)
    read: np.ndarray = np.take_along_axis(x, index[:, :, None], 3)
    return np.asarray(read * share[:, :, None])


class Unique(OpRun):
    """The elements, or slices along an axis, that differ: sorted, or as they come first."""

    op_domain = ""

    def _run(self, x: np.ndarray, axis: int | None = None, sorted: int = 1,  # noqa: A002 - the attribute's name
             ) -> tuple[np.ndarray, ...]:
        values, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True,
                                                   axis=axis)
        inverse = inverse.reshape(-1)
        if not sorted:
            order = np.argsort(first)
            values, first, counts = np.take(values, order, axis or 0), first[order], counts[order]
            inverse = np.argsort(order)[inverse]
        return (values, first, inverse, counts)[:len(self.onnx_node.output)]


class Resize(op_resize.Resize):
    """Neighbours picked or weighed axis by axis, as onnxruntime does; rarer ways are those of ONNX's reference."""

    op_domain = ""

    def _run(self, x: np.ndarray, roi: Any = None, scales: Any = None,  # type: ignore[override]  # attributes by name
             sizes: Any = None, **given: Any) -> tuple[np.ndarray]:
        attributes = {**RESIZE, **{name: value for name, value in given.items() if value is not None}}
        picks, where = attributes["mode"] == "nearest", attributes["coordinate_transformation_mode"]
        axes = [axis % x.ndim for axis in given.get("axes") or range(x.ndim)]
        if where not in (*COORDINATES, CROP) or not (picks or x.dtype.kind == "f") or (
                where == CROP and attributes["antialias"]):
            return super()._run(x, roi, scales, sizes, **given)  # type: ignore[no-any-return]  # onnx has no types here
        asked = None if sizes is None or not len(sizes) else _extents(
            [x.shape[axis] for axis in axes], sizes, attributes["keep_aspect_ratio_policy"])
        for position, axis in enumerate(axes):
            size = x.shape[axis]
            if asked is None:
                scale = float(scales[position])
                out = int(np.float32(size) * np.float32(scale))  # in 32 bits, as its shape is inferred
            else:
                out, scale = asked[position]
            if where == CROP:
                x = _cropped(x, axis, out, (roi[position], roi[position + len(axes)]), attributes)
            elif scale != 1 or out != size:
                table = resized_axis(size, out, scale, attributes)
                x = _resampled(x, axis, table.places, None if picks else table.factors)
        return (x,)


def _extents(given: Sequence[int], wanted: Sequence[int], policy: str) -> list[tuple[int, float]]:
    """By axis the size of the result, and its scale, which is the same for all where their ratio is kept."""
    scales = [int(size) / max(old, 1) for size, old in zip(wanted, given, strict=True)]
    if policy == "stretch":
        return [(int(size), scale) for size, scale in zip(wanted, scales, strict=True)]
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [(math.floor(scale * old + 0.5), scale) for old in given]


def _cropped(x: np.ndarray, axis: int, out: int, region: Sequence[float], attributes: Mapping[str, Any]) -> np.ndarray:
    """An axis resampled between two places of it, from 0 to 1; outside of the image is a value of its own."""
    size, (start, end) = x.shape[axis], np.asarray(region, np.float32)
    last = np.float32(size - 1)  # in 32 bits, in onnxruntime's order, which decide what is outside
    steps = np.arange(out, dtype=np.float32) * (end - start) * last
    places = start * last + steps / np.float32(out - 1) if out > 1 else np.full(out, (start + end) * last / 2)
    table = sampled_axis(places, size, 1.0, attributes)
    y = _resampled(x, axis, table.places, None if attributes["mode"] == "nearest" else table.factors)
    outside = ((places < 0) | (places > size - 1)).reshape(-1, *[1] * (x.ndim - axis - 1))
    return np.where(outside, np.asarray(attributes["extrapolation_value"], x.dtype), y)


def _resampled(x: np.ndarray, axis: int, places: np.ndarray, factors: np.ndarray | None) -> np.ndarray:
    """Elements of an axis, by places (results, neighbours), picked or weighed by factors of that shape."""
    if factors is None:
        return np.take(x, places[:, 0], axis)
    shape = (-1, *[1] * (x.ndim - axis - 1))
    parts = (np.take(x, places[:, n], axis) * factors[:, n].astype(x.dtype).reshape(shape)
             for n in range(places.shape[1]))
    return functools.reduce(np.add, parts)


CROP = "tf_crop_and_resize"
"""The coordinates that follow from a region."""
RESIZE = {"mode": "nearest", "nearest_mode": "round_prefer_floor", "coordinate_transformation_mode": "half_pixel",
          "cubic_coeff_a": -0.75, "antialias": 0, "exclude_outside": 0, "keep_aspect_ratio_policy": "stretch",
          "extrapolation_value": 0.0}
"""What ONNX's attributes are where they are not given."""

OPERATORS: list[type[OpRun]] = [NonMaxSuppression, DeformConv, GatherND, Pad, Resize, ScatterElements, ScatterND,
                                Unique, *control.OPERATORS]
"""By their class names."""
