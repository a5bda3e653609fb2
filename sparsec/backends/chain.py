"""One token through a decoder as one function: the row stages for one row, and the heads of attention between them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class External:
    """An array that the function is given; one of unknown length is flat."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Call:
    """A call of a part's function, by the names of values."""

    part: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Heads:
    """Attention of one token, whose key and value are written into caches where there are such.

    Attributes:
        depth, width: features of keys and of values.
        scale: the factor of the scores.
        heads, groups: of queries, and of keys.
        rotated: whether tables turn queries, and new keys.
        both: whether the tables have angles for both halves of the features.
        q, k, v: the new token's; no k and v where the keys are given whole.
        cos, sin, mask: the tables and the mask, None where there are none.
        sizes, keys, values: an array of `graph.sized.CACHE_SIZES`, and the caches or what is given in their place.
        output: (heads x width).

    """

    depth: int
    width: int
    scale: float
    heads: int
    groups: int
    rotated: tuple[bool, bool]
    both: bool
    q: str
    k: str | None
    v: str | None
    cos: str | None
    sin: str | None
    mask: str | None
    sizes: str
    keys: str
    values: str
    output: str


@dataclass(frozen=True)
class Chain:
    """The function: what it takes beside scratch for the scores, what it does in order, and what it gives."""

    inputs: tuple[External, ...]
    steps: tuple[Call | Heads, ...]
    outputs: tuple[str, ...]


WORK = "work"
"""The name of the last input: scratch of unknown length."""
