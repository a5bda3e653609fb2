"""What a thread block of attention is told: how many tokens there are, and where their features lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import ptx
from sparsec.kernels.cuda.attention_params import AttentionParams
from sparsec.kernels.cuda.attention_turns import Stage
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr

QUAD = 4  # lanes that share a row of a warp's sums


class Sizes(Protocol):
    """What depends on how many sequences, queries and keys there are, and on where their features lie."""

    @property
    def queries(self) -> Expr:
        """Those of a sequence."""

    @property
    def keys(self) -> Expr:
        """Those of a sequence."""

    @property
    def heads(self) -> Expr:
        """Those of a sequence."""

    @property
    def query_blocks(self) -> Expr:
        """Thread blocks that share a head."""

    @property
    def blocks(self) -> Expr:
        """All thread blocks."""

    @property
    def key_blocks(self) -> Expr:
        """Stages that all keys take."""

    @property
    def last_keys(self) -> int | None:
        """Keys of the last stage; None where only the run knows."""

    @property
    def rows(self) -> Expr:
        """Queries of all heads of all sequences."""

    @property
    def splits(self) -> Expr:
        """Thread blocks that share the keys of a query."""

    def list_begin(self, b: Block) -> Expr:
        """Where the list of the block's keys begins."""
        ...

    def listed(self) -> Expr:
        """Whether there are lists: a bool, or what the run tells."""
        ...

    def ends_within(self, name: str, count: int) -> bool:
        """Whether the last `count` tokens of a projection may be fewer."""
        ...

    def first(self, b: Block, name: str, token: Expr) -> Expr:
        """The element at which the features of the block's head begin, of a token of a projection or of Y."""
        ...

    def mask(self, b: Block, stage: Stage, row: int) -> Buffer | None:
        """The part of the mask, for a stage, of one of a lane's rows; None where the row before had it."""
        ...


class Fixed:
    """The sizes of parameters."""

    def __init__(self, p: AttentionParams) -> None:
        self._p, self.queries, self.keys, self.heads = p, p.queries, p.keys, p.heads
        self.query_blocks, self.key_blocks, self.blocks = p.query_blocks, p.key_blocks, p.blocks
        self.last_keys = p.keys - (p.key_blocks - 1) * p.tile.keys
        self.rows, self.splits = p.rows, p.splits

    def ends_within(self, name: str, count: int) -> bool:
        """See `Sizes`."""
        return (self.queries if name == "q" else self.keys) % count > 0

    def first(self, b: Block, name: str, token: Expr) -> Expr:
        """See `Sizes`."""
        p = self._p
        if name == "y":
            return ((b.batch * p.queries + token) * p.heads + b.head) * p.width
        projection, tokens = getattr(p, name), p.queries if name == "q" else p.keys
        return (b.batch * tokens + token) * projection.features + projection.offset + b.head * p.width

    def listed(self) -> Expr:
        """See `Sizes`."""
        return self._p.listed

    def list_begin(self, b: Block) -> Expr:
        """See `Sizes`."""
        p, shape = self._p, self._p.mask
        assert shape is not None
        batches, heads, queries, _ = shape
        matrix = (b.batch if batches > 1 else 0) * heads + (b.head if heads > 1 else 0)
        number = matrix * p.query_blocks + b.query // p.tile.queries if queries > 1 else matrix
        return number * (1 + p.key_blocks)

    def mask(self, b: Block, stage: Stage, row: int) -> Buffer | None:
        """See `Sizes`."""
        shape = self._p.mask
        assert shape is not None
        return _load_mask(b, shape, stage, row) if row == 0 or shape[2] > 1 else None


@dataclass(frozen=True)
class Block:
    """A thread block at work.

    Attributes:
        params: the attention.
        sizes: of this run.
        buffers: the kernel's arguments by name.
        shared: the address of shared memory.
        thread, lane: this thread's number in the block and in the warp.
        row: the warp's first query in the block.
        query: the block's first query.
        head, batch: which head of which sequence.
        share: the block's number among those that share the keys.

    """

    params: AttentionParams
    sizes: Sizes
    buffers: Buffers
    shared: Expr
    thread: Expr
    lane: Expr
    row: Expr
    query: Expr
    head: Expr
    batch: Expr
    share: Expr = 0


def token_of(b: Block, row: int) -> Expr:
    """The query of one of a lane's rows."""
    return b.query + b.row + row // 2 * 16 + row % 2 * 8 + b.lane // QUAD


def _load_mask(b: Block, shape: tuple[int, int, int, int], stage: Stage, row: int) -> Buffer:
    """A row's part of the mask, in registers."""
    keys, ends = stage.keys, stage.valid is not None
    batches, heads, queries, length = shape
    blocks = -(-keys // 16) * 2
    values = ptx.registers(blocks * 2, "float32")
    matrix = (b.batch if batches > 1 else 0) * heads + (b.head if heads > 1 else 0)
    query = T.min(token_of(b, row), queries - 1) if queries > 1 else 0
    start = T.Bind((matrix * queries + query) * length)
    vector = 2 - length % 2  # elements that lie at a multiple of their size

    def load() -> None:
        for block in range(blocks):
            for i in range(0, 2, vector):
                key = stage.first + block * 8 + b.lane % QUAD * 2 + i if length > 1 else 0
                if ((block + 1) * 8 > keys or ends) and length > 1:
                    key = T.min(key, length - vector)
                if vector == 1:
                    T.buffer_store(values, b.buffers["mask"][start + key], [block * 2 + i])
                else:
                    T.buffer_store(values, b.buffers["mask"][T.Ramp(start + key, 1, 2)], [T.Ramp(block * 2, 1, 2)])

    where(stage.masked, values, blocks * 2, load)
    return values


def where(masked: Expr, values: Buffer, count: int, load: Callable[[], None]) -> None:
    """Load a stage's mask where it has one, zeros else; None stands for one that always has."""
    if masked is None:
        load()
        return
    for register in range(count):
        T.buffer_store(values, T.float32(0), [register])
    with T.If(masked), T.Then():
        load()
