"""Normalisations, with the sums and embeddings in front of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsec.passes.contributed.body import Body

EPSILON = 1e-12
"""The default of the operators with Skip and Embed in their names."""


def layer_norm(b: Body) -> None:
    """LayerNormalization, as onnxruntime wrote it before ONNX had it."""
    x, axis = b.needed(0), b.integer("axis", -1)
    if axis not in (-1, b.rank(x) - 1) or b.wants(1) or b.wants(2):
        raise b.refused("it normalises several axes or gives the mean")
    b.result(0, b.layer_norm(x, b.needed(1), b.input(2), b.real("epsilon", 1e-5)))


def simplified(b: Body) -> None:
    """The value over the root of the mean of its squares."""
    x, axis = b.needed(0), b.integer("axis", -1)
    if axis not in (-1, b.rank(x) - 1) or b.wants(1):
        raise b.refused("it normalises several axes or gives the deviation")
    b.result(0, b.rms_norm(x, b.needed(1), b.real("epsilon", 1e-5)))


def skip_layer_norm(b: Body) -> None:
    """LayerNormalization of input + skip + bias, which is the fourth output."""
    if b.wants(1) or b.wants(2):
        raise b.refused("it gives the mean or the deviation")
    total = b.add(b.needed(0), b.input(4), b.needed(1))
    b.result(0, b.layer_norm(total, b.needed(2), b.input(3), b.real("epsilon", EPSILON)))
    b.result(3, total)


def skip_simplified(b: Body) -> None:
    """The same without means."""
    if b.wants(1) or b.wants(2):
        raise b.refused("it gives the mean or the deviation")
    total = b.add(b.needed(0), b.input(3), b.needed(1))
    b.result(0, b.rms_norm(total, b.needed(2), b.real("epsilon", EPSILON)))
    b.result(3, total)


def embed(b: Body) -> None:
    """The sum of the embeddings of words, positions and segments, normalised; and how many tokens are unmasked."""
    ids, segments, words, positions, segment_table = (b.input(index) for index in range(5))
    given, mask = b.input(8), b.input(7)
    if given is None:
        steps = b.put("Range", *(b.put("Squeeze", b.integers(0)), b.length(b.needed(0), 1),
                                 b.put("Squeeze", b.integers(1))))
        given = b.unsqueeze(steps, 0)
    total = b.put("Add", b.put("Gather", words, ids), b.put("Gather", positions, given))
    if segment_table is not None and segments is not None:
        total = b.put("Add", total, b.put("Gather", segment_table, segments))
    b.result(0, b.layer_norm(total, b.needed(5), b.needed(6), b.real("epsilon", EPSILON)))
    if b.wants(1):
        source = b.put("Mul", b.needed(0), b.put("Cast", b.integers(0), to=ir.DataType.INT32)) if mask is None else mask
        ones = b.put("Cast", b.put("Equal", source, b.put("Cast", b.integers(1), to=ir.DataType.INT32)),
                     to=ir.DataType.INT32)
        b.result(1, b.put("ReduceSum", ones, b.integers(1), keepdims=0))
    b.result(2, total)


def group_norm(b: Body) -> None:
    """Normalisation of groups of channels, which are last by default, and SiLU where asked for."""
    _group_norm(b, b.needed(0))


def skip_group_norm(b: Body) -> None:
    """The same of X + skip + bias, which is the second output."""
    skip = b.needed(3)
    image = b.dims(b.needed(0))
    if b.rank(skip) == 2:
        skip = b.reshape(skip, image[0], 1, 1, -1)
    total = b.add(b.needed(0), skip, b.input(4))
    _group_norm(b, total, b.dims(b.needed(0)))
    b.result(1, total)


def _group_norm(b: Body, x: ir.Value, shape: tuple[int, ...] | None = None) -> None:
    shape = shape or b.dims(x)
    last, groups = b.integer("channels_last", 1), b.integer("groups")
    if last:
        x = b.put("Transpose", x, perm=[0, 3, 1, 2])
        shape = (shape[0], shape[3], *shape[1:3])
    rows = b.reshape(x, shape[0] * groups, -1)
    ones = b.put("Expand", b.number(1), b.integers(int(np.prod(shape[1:])) // groups))
    y = b.reshape(b.layer_norm(rows, ones, None, b.real("epsilon", 1e-5)), *shape)
    scale, offset = (b.put("Cast", b.reshape(b.needed(index), 1, -1, 1, 1), to=b.float) for index in (1, 2))
    y = b.put("Add", b.put("Mul", y, scale), offset)
    if b.integer("activation"):
        y = b.put("Mul", y, b.put("Sigmoid", y))
    b.result(0, b.put("Transpose", y, perm=[0, 2, 3, 1]) if last else y)


WRITERS: dict[str, Callable[[Body], None]] = {
    "LayerNormalization": layer_norm, "SimplifiedLayerNormalization": simplified,
    "SkipLayerNormalization": skip_layer_norm, "SkipSimplifiedLayerNormalization": skip_simplified,
    "EmbedLayerNormalization": embed, "GroupNorm": group_norm, "SkipGroupNorm": skip_group_norm,
}
"""By operator of com.microsoft."""
