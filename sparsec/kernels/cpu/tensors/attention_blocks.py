"""What kernels of attention over tiles of tokens work on: blocks of queries, and how keys and features lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import Tiled
from sparsec.kernels.cpu.tensors.attention_pairs import Pairs
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.projection import Projection
from sparsec.kernels.emit.tir import Buffer, Expr

CHUNK = 128  # keys whose weights and values stay in the L1 cache while they are multiplied


@dataclass(frozen=True)
class AttentionParams:
    """A kernel.

    Attributes:
        heads, depth: heads, and features of each.
        batch, tokens, keys: sequences, queries of each, and keys of each.
        width: tokens of a tile, in every buffer; a multiple of the lanes.
        scale: factor on the scores.
        q, k, v: the projections.
        mask: shape of the mask, (1 or batch, 1 or heads, 1 or tokens, keys), or None.
        pairs: what it multiplies pairs of: "bf16", "s16", or "" where it multiplies floats; an even depth.
        bounded: it is told which chunks of keys the queries of each block see, see `attention_bounds.py`; no pairs.

    """

    heads: int
    depth: int
    batch: int
    tokens: int
    keys: int
    width: int
    scale: float
    q: Projection
    k: Projection
    v: Projection
    mask: tuple[int, int, int, int] | None = None
    pairs: str = ""
    bounded: bool = False

    @property
    def step(self) -> int:
        """Tiles of a chunk of keys."""
        return max(1, CHUNK // self.width)

    def vectors(self, isa: Isa) -> int:
        """Vectors of queries in a block, but for the last of a sequence."""
        return max(v for v in (1, 2, 3, 4) if self.width // isa.lanes % v == 0)

    @property
    def output(self) -> Tiled:
        """Layout of Y."""
        return Tiled(self.batch, self.tokens, self.heads * self.depth, self.width)

    @property
    def masks_heads(self) -> bool:
        """Whether the mask differs from head to head."""
        return self.mask is not None and self.mask[1] > 1

    @property
    def masks_queries(self) -> bool:
        """Whether the mask differs from query to query."""
        return self.mask is not None and self.mask[2] > 1

    def layout(self, name: str) -> Tiled:
        """Layout of the buffer of a projection, "q", "k" or "v"."""
        tokens = self.tokens if name == "q" else self.keys
        return Tiled(self.batch, tokens, getattr(self, name).features, self.width)


@dataclass(frozen=True)
class Block:
    """Queries on the lanes: `vectors` of them from token `first` of sequence `b` on, all in one tile.

    `rows` is the number of keys, or of features of V, that a register block spans.
    """

    b: Expr
    first: Expr
    vectors: int
    lanes: int
    rows: int

    @property
    def width(self) -> int:
        """Queries of the block."""
        return self.vectors * self.lanes


@dataclass(frozen=True)
class Head:
    """One head of a block: the scores, or their powers, (keys, block.width); the transposed mask, if one was needed.

    `pairs` is what it multiplies where that are pairs.
    """

    block: Block
    index: Expr
    scores: Buffer
    mask: Expr
    maxima: Buffer
    sums: Buffer
    pairs: Pairs | None


def by(step: int, total: int, body: Callable[[Expr, int], None]) -> None:
    """`body(first, count)` for [0, total) in pieces of `step` and the rest."""
    with T.serial(0, total // step) as i:
        body(i * step, step)
    if total % step:
        body(total - total % step, total % step)


def by_tile(p: AttentionParams, chunk: tuple[Expr, int], body: Callable[[Expr, int], None]) -> None:
    """`body(tile, keys)` for the tiles of a chunk: its first tile, and its number of keys."""
    tile, keys = chunk
    by(p.width, keys, lambda first, count: body(tile + first // p.width, count))


def row_of(layout: Tiled, b: Expr, tile: Expr, feature: Expr) -> Expr:
    """Index of a feature's first token in a tile."""
    return ((b * layout.tiles + tile) * layout.features + feature) * layout.width


def block_row(layout: Tiled, block: Block, feature: Expr) -> Expr:
    """Index of a feature's first token in a block."""
    tile, lane = T.floordiv(block.first, layout.width), T.floormod(block.first, layout.width)
    return row_of(layout, block.b, tile, feature) + lane
