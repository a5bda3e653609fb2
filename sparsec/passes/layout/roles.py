"""The words of the layout pass: kinds of layouts, and what a node speaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import onnx_ir as ir

from sparsec.graph.shapes import static_shape


class Kind(Enum):
    """The family of layouts of a value."""

    PLAIN = "plain"
    IMAGE = "image"
    TOKENS = "tokens"


@dataclass(frozen=True)
class Role:
    """What a node speaks: the kind, the inputs that arrive in it, and whether its first output leaves in it."""

    kind: Kind
    inputs: tuple[int, ...]
    output: bool = True


KINDS = Mapping[ir.Value, Kind]
"""The kind of every value so far that is not row-major."""
Seed = Callable[[ir.Node, KINDS, int], Role | None]
"""What a node speaks that may begin a region, from (node, kinds, lanes of a float32 vector)."""


def is_static(value: ir.Value) -> bool:
    """Whether the shape is known and not empty."""
    shape = static_shape(value)
    return shape is not None and math.prod(shape) > 0


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """The static shape, () where there is none."""
    return static_shape(value) or ()


def given(node: ir.Node, *indices: int) -> tuple[int, ...]:
    """Those of the positions that have an input."""
    return tuple(i for i in indices if i < len(node.inputs) and node.inputs[i] is not None)


def token_count(shape: tuple[int, ...]) -> int:
    """Tokens in all: everything but the features, none where there is nothing else."""
    return math.prod(shape[:-1]) if len(shape) >= 2 else 0
