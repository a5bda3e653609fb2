"""What the gates of recurrent layers pass through."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.graph.operators.recurrence import CELL
from sparsec.kernels.emit.activations import ACTIVATIONS
from sparsec.kernels.emit.tir import Expr, splat
from sparsec.kernels.tensors import Direction


def gated(direction: Direction, number: int, value: Expr, lanes: int) -> Expr:
    """One of a cell's activations, by its place, of numbers within the bounds of its gates."""
    function, clip = direction.activations[number], direction.clip
    if clip and number < CELL:
        value = T.min(splat(clip, lanes), T.max(splat(-clip, lanes), value))
    return ACTIVATIONS[function.name](value, lanes, function.alpha, function.beta)
