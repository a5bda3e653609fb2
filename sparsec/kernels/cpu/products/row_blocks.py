"""Sparse weights as row groups, as products of floats and of codes read them alike: K-chunked CSR of R x 1 blocks.

A group of row blocks is in flight at a time; within a chunk it takes `unroll` non-zero blocks of each an iteration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cpu.products.tiles import Tiles
from sparsec.kernels.emit.tir import Buffers, Expr, load, registers, store
from sparsec.kernels.packing.row_groups import RowGroups

ROW_BLOCKS = (1, 2, 4, 8)
PER_WORD = {"uint64": 4, "uint32": 2, "uint16": 1, "int32": 1}
"""Indices in a word, by its type."""


class RowBlocks(ABC):
    """What the parameters of sparse kernels have in common; the attributes are those of the subclasses.

    Attributes:
        tiling: the tiles.
        block: R of the R x 1 blocks: rows that share their positions.
        group: row blocks in flight.
        unroll: non-zero blocks of a row per iteration.

    """

    tiling: Tiles
    block: int
    group: int
    unroll: int

    @property
    @abstractmethod
    def index_unit(self) -> int:
        """Elements that an index counts: a divisor of all offsets, so that 16 bits reach further."""

    @property
    def blocks(self) -> int:
        """Row blocks."""
        return self.tiling.stencil.outputs // self.block

    @property
    def section_blocks(self) -> int:
        """Row blocks that a chunk is multiplied by: those of its section."""
        return self.blocks // self.tiling.sections

    @property
    def groups(self) -> int:
        """Groups of row blocks in one part of a section."""
        return -(-self.section_blocks // (self.group * self.tiling.parts))

    @property
    def word(self) -> str:
        """Type of the loads that bring indices: 16-bit ones share a word, 32-bit ones stand alone."""
        last = (self.tiling.chunk - 1) * self.tiling.channel_step + max(self.tiling.tap_offsets)
        if last // self.index_unit >= 1 << 16:
            return "int32"
        count = self.group * self.unroll
        return "uint64" if count % 4 == 0 else "uint32" if count % 2 == 0 else "uint16"

    @property
    def words(self) -> int:
        """Words of indices in one iteration."""
        return self.group * self.unroll // PER_WORD[self.word]


class FloatRows(RowBlocks):
    """What the parameters of sparse kernels on float32 activations have in common beside."""

    @property
    def index_unit(self) -> int:
        """Floats that an index counts: 2 where every offset is even, so that 16 bits reach twice as far."""
        even = all(offset % 2 == 0 for offset in (self.tiling.channel_step, *self.tiling.tap_offsets))
        return 2 if even else 1

    @property
    def reach(self) -> int:
        """The largest index."""
        return ((self.tiling.chunk - 1) * self.tiling.channel_step + max(self.tiling.tap_offsets)) // self.index_unit


def format_of(block: int) -> str:
    """The storage format of blocks of so many rows."""
    return "csr" if block == 1 else f"bcsr {block}x1"


def recipe(params: RowBlocks) -> RowGroups:
    """What the kernel reads; zeros are not stored.

    `starts` (int32): first iteration of every (part, chunk, group), and the end of the last;
    `rows` (int32): first row of every row block, (part, chunk, group, group member), or -1 where a group is short;
    `indices`: packed words, iterations x unroll x group; `values` (float32): iterations x unroll x group x block.
    """
    p, t = params, params.tiling
    return RowGroups(p.blocks, p.block, p.group, p.groups, p.unroll, t.parts, t.chunk * len(t.stencil.taps), t.chunks,
                     t.channel_step, t.tap_offsets, p.index_unit, p.word, t.sections)


def arguments(params: RowBlocks) -> dict[str, tuple[int | None, str]]:
    """The recipe's arrays in front of the values, as arguments of a kernel."""
    groups = params.tiling.parts * params.tiling.chunks * params.groups
    return {"starts": (groups + 1, "int32"), "rows": (groups * params.group, "int32"), "indices": (None, params.word)}


@dataclass(frozen=True)
class Head:
    """What a group begins with.

    Attributes:
        flat: its number among those of all parts and chunks.
        first, steps: its first iteration, and how many follow from there.
        rows: the first row of each of its row blocks, -1 where it is short.

    """

    flat: Expr
    first: Expr
    steps: Expr
    rows: tuple[Expr, ...]


def each_group(b: Buffers, p: RowBlocks, part: Expr, chunk: Expr, emit: Callable[[Expr, Head], None]) -> None:
    """Emit the groups of a part in a chunk, each by its number there and its head.

    The head of the next one is read before: how a short loop ends is often mispredicted, so that what a group waits for
    then, where its weights and its rows lie, is exposed.
    """
    start = T.Bind((part * p.tiling.chunks + chunk) * p.groups)
    last = p.tiling.parts * p.tiling.chunks * p.groups - 1
    coming, own = (registers(2 + p.group, 1, "int32") for _ in range(2))

    def read(flat: Expr) -> None:
        for field in range(2):
            store(coming, field, b["starts"][flat + field])
        for member in range(p.group):
            store(coming, 2 + member, b["rows"][flat * p.group + member])

    read(start)
    with T.serial(0, p.groups) as index:
        flat = T.Bind(start + index)
        for field in range(2 + p.group):
            store(own, field, load(coming, field, 1))
        read(T.Bind(T.min(flat + 1, last)))
        first, end, *rows = (T.Bind(load(own, field, 1)) for field in range(2 + p.group))
        emit(index, Head(flat, first, T.Bind(end - first), tuple(rows)))


def each_row(p: RowBlocks, head: Head, vectors: int, *, missing: bool = False) -> Iterator[tuple[Expr, int]]:
    """The rows of a group with the first of the `vectors` registers of each; between two stands what is for one row.

    Rows that a short group lacks are left out or, where they may be `missing`, are row 0.
    """
    short = p.section_blocks % (p.group * p.tiling.parts) != 0
    for member, first in enumerate(head.rows):
        row = T.max(first, 0) if missing and short else first
        guarded = short and not missing
        with T.If(row >= 0) if guarded else nullcontext(), T.Then() if guarded else nullcontext():
            for r in range(p.block):
                yield row + r, (member * p.block + r) * vectors


def each_row_to_come(b: Buffers, p: RowBlocks, flat: Expr, groups: int) -> Iterator[Expr]:
    """The rows of the group that follows so many groups later, of the last one where there is none; some may be -1."""
    last = p.tiling.parts * p.tiling.chunks * p.groups - 1
    coming = T.Bind(T.min(flat + groups, last))
    for member in range(p.group):
        row = T.Bind(b["rows"][coming * p.group + member])
        for r in range(p.block):
            yield row + r


def indices(b: Buffers, p: RowBlocks, step: Expr) -> list[Expr]:
    """The indices of an iteration (int64), unroll x group."""
    per_word = PER_WORD[p.word]
    words = [T.Bind(b["indices"][step * p.words + w]) for w in range(p.words)]
    if per_word == 1:
        return [T.Cast("int64", word) for word in words]
    shifted = [T.shift_right(word, T.Cast(p.word, 16 * slot)) for word in words for slot in range(per_word)]
    return [T.Cast("int64", T.bitwise_and(each, T.Cast(p.word, 0xFFFF))) for each in shifted]
