"""What a kernel of attention computes and how it is cut into tiles (see `attention.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparsec.kernels.cuda.params import VECTOR_BYTES
from sparsec.kernels.cuda.tiles import LIMITS
from sparsec.kernels.emit.projection import Projection

STAGES = 2  # of keys and values in shared memory: one is multiplied while the other is filled
ITEMSIZE = 2
CHUNK = VECTOR_BYTES // ITEMSIZE  # features that one instruction copies
STEP = 16  # what one instruction sums over: features of a head, then keys
LOG2E = 1.4426950408889634
WIDEST = 128  # head whose sums fit a thread's registers


@dataclass(frozen=True)
class AttentionTile:
    """What a thread block computes.

    Attributes:
        queries: queries of one head.
        keys: keys, and their values, in one stage of shared memory.
        warps: warps, each with its own queries, 16 or 32.

    """

    queries: int
    keys: int
    warps: int

    @property
    def threads(self) -> int:
        """Threads of the block."""
        return 32 * self.warps

    @property
    def row_blocks(self) -> int:
        """Blocks of 16 queries of one warp."""
        return self.queries // self.warps // 16


TILES = (
    AttentionTile(128, 64, 4),
    AttentionTile(64, 64, 4),
    AttentionTile(64, 32, 4),
    AttentionTile(32, 64, 2),
    AttentionTile(32, 32, 2),
    AttentionTile(16, 64, 1),
    AttentionTile(16, 32, 1),
)
"""In order of preference. Two blocks of 16 queries a warp read keys and values half as often for the same products."""

MANY_BLOCKS = 216
"""Blocks from which on larger ones leave no multiprocessor idle: two for each of an A100's."""


@dataclass(frozen=True)
class AttentionParams:
    """Y = softmax(scale * Q K^T + mask) V for every head.

    Attributes:
        heads, width: heads, and features of each.
        batch, queries, keys: sequences, and queries and keys of each.
        scale: factor on the scores.
        q, k, v: the projections, each (batch, tokens, features).
        mask: shape of the mask, each 1 or all of (batch, heads, queries, keys), or None.
        dtype: of the projections and Y, "float16" or "bfloat16".
        tile: what a thread block computes.
        splits: thread blocks that share the keys of a query; more than one leave parts for a second kernel.
        listed: lists tell which stages of keys each block of queries sees, see `key_lists.py`.

    """

    heads: int
    width: int
    batch: int
    queries: int
    keys: int
    scale: float
    q: Projection
    k: Projection
    v: Projection
    mask: tuple[int, int, int, int] | None = None
    dtype: str = "float16"
    tile: AttentionTile = TILES[1]
    splits: int = 1
    listed: bool = False

    @property
    def rows(self) -> int:
        """Queries of all heads of all sequences."""
        return self.batch * self.queries * self.heads

    @property
    def lists(self) -> int:
        """Lists of stages: one for every mask that blocks of queries may have."""
        assert self.mask is not None
        batches, heads, queries, _ = self.mask
        return batches * heads * (self.query_blocks if queries > 1 else 1)

    @property
    def steps(self) -> int:
        """Steps over a head's features, to which those are padded with zeros."""
        return -(-self.width // STEP)

    @property
    def row_chunks(self) -> int:
        """Chunks between a token's features and the next one's in shared memory, a power of two for the swizzle."""
        return 1 << (self.steps * STEP // CHUNK - 1).bit_length()

    @property
    def query_bytes(self) -> int:
        """Bytes of a block's queries in shared memory."""
        return self.tile.queries * self.row_chunks * VECTOR_BYTES

    @property
    def stage_bytes(self) -> int:
        """Bytes of a stage: keys, then values."""
        return 2 * self.tile.keys * self.row_chunks * VECTOR_BYTES

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory that a block takes."""
        return self.query_bytes + STAGES * self.stage_bytes

    @property
    def query_blocks(self) -> int:
        """Thread blocks that share a head."""
        return -(-self.queries // self.tile.queries)

    @property
    def key_blocks(self) -> int:
        """Stages that all keys take."""
        return -(-self.keys // self.tile.keys)

    @property
    def blocks(self) -> int:
        """Thread blocks."""
        return self.batch * self.heads * self.query_blocks


def unit(*, masked: bool) -> float:
    """What scores are multiplied by to be powers of two; with a mask, scaled so, its largest numbers would overflow."""
    return LOG2E if masked else 1.0


def reject(p: AttentionParams) -> str | None:
    """Why no kernel computes the attention, or None."""
    if p.width > WIDEST or p.width % CHUNK:
        return f"heads of {p.width} features; the kernel takes multiples of {CHUNK} up to {WIDEST}"
    if any(x.features % CHUNK or x.offset % CHUNK for x in (p.q, p.k, p.v)):
        return f"projections that do not begin at multiples of {CHUNK} features"
    if min(p.batch, p.queries, p.keys) == 0:
        return "there are no tokens"
    return None


def tiled(p: AttentionParams, archs: Sequence[str]) -> AttentionParams:
    """The parameters with the first tile that suits them and of which multiprocessors hold two."""
    tallest = min((tile.queries for tile in TILES if tile.queries >= p.queries), default=TILES[0].queries)
    shared = min(LIMITS[arch].shared_bytes for arch in archs)
    offers = (replace(p, tile=tile) for tile in TILES if tile.queries <= tallest)
    return next(offer for offer in offers if 2 * offer.shared_bytes <= shared
                and (offer.tile.row_blocks == 1 or _is_large(offer)))


def _is_large(p: AttentionParams) -> bool:
    """Whether two blocks of queries a warp pay, and their sums, scores and masks fit the registers."""
    same_for_queries = p.mask is None or p.mask[2] == 1
    return p.blocks >= MANY_BLOCKS and p.width <= WIDEST // 2 and same_for_queries
