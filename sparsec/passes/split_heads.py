"""The projections (batch, tokens, features) whose features are the heads that attention multiplies, and its output.

How heads are split and merged (any mix of Reshape, Transpose, Split, Slice and Gather) is recognised by what it does,
see `movement.py`; projections fused into one matrix and sequence-first tensors get a Slice or a Transpose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_constant
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.movement import Moved, destinations


@dataclass(frozen=True)
class Operand:
    """A projection found behind an operand: a range of features of a (B, T, F) or (T, B, F) tensor."""

    source: ir.Value
    offset: int
    width: int
    sequence_first: bool
    factor: float


def operand(candidates: list[Moved], batch: int, heads: int, *, transposed: bool) -> Operand | None:
    """The furthest origin of which the operand's heads are a contiguous range of features."""
    for moved in candidates:
        shape = static_shape(moved.source) or ()
        index = moved.index.swapaxes(-1, -2) if transposed else moved.index
        tokens, depth = index.shape[-2:]
        if len(shape) != 3 or index.size != batch * heads * tokens * depth or not index.size:
            continue
        wanted = index.reshape(batch, heads, tokens, depth).swapaxes(1, 2).reshape(batch, tokens, heads * depth)
        offset, width = int(wanted.flat[0]) % shape[2], heads * depth
        features = np.arange(int(np.prod(shape))).reshape(shape)[:, :, offset:offset + width]
        for sequence_first in (False, True):
            if np.array_equal(features.swapaxes(0, 1) if sequence_first else features, wanted):
                return Operand(moved.source, offset, width, sequence_first, moved.factor)
    return None


def fits(mask: ir.Value | None, scores: tuple[int, int, int, int], rank: int) -> bool:
    """Whether the mask broadcasts to (B, heads, T, S) as it did to the scores of that rank."""
    if mask is None:
        return True
    shape = static_shape(mask)
    if shape is None or len(shape) > (4 if rank == 4 else 2):
        return False
    return all(dim in (1, full) for dim, full in zip(shape[::-1], scores[::-1], strict=False))


def merged_heads(mixed: ir.Value, batch: int, heads: int) -> tuple[ir.Value, bool] | None:
    """The furthest value down the line whose elements lie as (B, T, features) or, True, as (T, B, features)."""
    tokens, depth = (static_shape(mixed) or (0, 0))[-2:]
    wanted = np.arange(batch * heads * tokens * depth).reshape(batch, heads, tokens, depth).swapaxes(1, 2)
    found = None
    for value, index in destinations(mixed):
        for order, sequence_first in ((wanted, False), (wanted.swapaxes(0, 1), True)):
            if index.size == order.size and np.array_equal(index.ravel(), order.ravel()):
                found = value, sequence_first
                break
    return found


def _insert(before: ir.Node, op_type: str, inputs: list[ir.Value | None], attributes: dict[str, list[int]],
            shape: tuple[int, ...]) -> ir.Value:
    """Adds a standard node that moves its first input in front of another node."""
    node = ir.node(op_type, inputs, attributes)
    before.prepend(node)
    moved = inputs[0]
    assert moved is not None
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(shape), moved.type
    return node.outputs[0]


def emit(mix: ir.Node, found: Operand) -> ir.Value:
    """The projection (B, T, heads * D) as a value, by a Slice and a Transpose where it needs them."""
    assert mix.graph is not None
    value, (a, b, features) = found.source, static_shape(found.source) or (0, 0, 0)
    if found.width != features:
        bounds = [add_constant(mix.graph, f"{value.name}.{name}", np.array([number], np.int64)) for name, number
                  in (("start", found.offset), ("end", found.offset + found.width), ("axis", 2))]
        value = _insert(mix, "Slice", [value, *bounds], {}, (a, b, found.width))
    if found.sequence_first:
        value = _insert(mix, "Transpose", [value], {"perm": [1, 0, 2]}, (b, a, found.width))
    return value


def emit_output(mix: ir.Node, merged: ir.Value, shape: tuple[int, int, int], target: ir.Value, *,
                 sequence_first: bool) -> None:
    """Puts the attention's output (B, T, features) in the place of the value that held it after merging heads."""
    assert mix.graph is not None
    merged.shape, merged.type = ir.Shape(shape), target.type
    if sequence_first:
        shape = (shape[1], shape[0], shape[2])
        merged = _insert(mix, "Transpose", [merged], {"perm": [1, 0, 2]}, shape)
    wanted = static_shape(target) or ()
    if wanted != shape:
        dims = add_constant(mix.graph, f"{target.name}.shape", np.array(wanted, np.int64))
        merged = _insert(mix, "Reshape", [merged, dims], {}, wanted)
    rewrite.take_over(merged, target)
