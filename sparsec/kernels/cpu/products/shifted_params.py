"""The parameters of `spmm_shifted`'s kernels: how rows of an image lie in registers and in the scratch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from math import gcd

from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.products.stencil import Lines, Stencil
from sparsec.kernels.emit.epilogue import Epilogue


@dataclass(frozen=True)
class ShiftedParams:
    """A sparse convolution.

    Attributes:
        stencil: the geometry, with its lines.
        epilogue: what follows.
        rows: image rows of a tile.
        chunk: channels of a K-chunk.
        halves: rows may end with half a vector.
        parts: equal shares of work that the rows of the weight are dealt into.
        ahead: cache lines of values that every row asks for, as in `SpmmParams`.

    """

    stencil: Stencil
    epilogue: Epilogue
    rows: int
    chunk: int
    halves: bool = False
    parts: int = 1
    ahead: int = 0

    @property
    def lines(self) -> Lines:
        """The image rows."""
        assert self.stencil.lines is not None  # see `reject`
        return self.stencil.lines

    @property
    def tiles(self) -> int:
        """Tiles; the last one overlaps its neighbour where they do not come out even."""
        return -(-self.lines.height // self.rows)

    @property
    def chunks(self) -> int:
        """K-chunks."""
        return -(-self.stencil.channels // self.chunk)

    @property
    def columns(self) -> tuple[int, ...]:
        """How far right of an output each of the sums reads, ascending."""
        return tuple(sorted(set(self.lines.columns)))

    @property
    def slots(self) -> tuple[int, ...]:
        """The sums of the places of a step: as many of each as it has of the taps."""
        counts = [self.lines.columns.count(column) for column in self.columns]
        each = reduce(gcd, counts)
        return tuple(number for number, count in enumerate(counts) for _ in range(count // each))

    @property
    def _reach(self) -> tuple[int, int]:
        return max(0, -self.columns[0]), max(0, self.columns[-1])

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Lanes of the vectors of an image row: with its pixels those that taps read beside them, if they need not be
        zero.
        """
        lanes = self.stencil.lanes
        wanted = self.lines.width + (0 if self.lines.bounded else sum(self._reach))
        whole, rest = divmod(wanted, lanes)
        last = () if not rest else (lanes // 2,) if self.halves and 2 * rest <= lanes else (lanes,)
        return (lanes,) * whole + last

    @property
    def margins(self) -> tuple[int, int]:
        """Pixels on the left and on the right of an image row that its lanes have room for, as far as taps read."""
        spare, (left, right) = sum(self.widths) - self.lines.width, self._reach
        right = min(right, spare)
        return min(left, spare - right), right

    @property
    def open(self) -> tuple[bool, ...]:
        """Of the sums, whether all that outputs need of them has a lane: products of other taps may join them."""
        left, right = self.margins
        return tuple(-left <= column <= right for column in self.columns)

    @property
    def pitch(self) -> int:
        """Floats from a row to the next in the scratch; lanes behind a row are zero, and the margin of the next one."""
        lanes, taken = self.stencil.lanes, sum(self.widths)
        wanted = taken if all(self.open) else max(taken, self.lines.width + max(self._reach))
        return wanted if wanted == lanes // 2 else round_up(wanted, lanes)

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Image rows that are copied of a channel: floats from a tile's first pixel to the first, and how many."""
        bases, found = sorted({*self._bases}), list[list[int]]()
        for base in bases:
            if found and (base - found[-1][-1]) % self.lines.stride == 0 and (
                    base - found[-1][-1] <= self.rows * self.lines.stride):
                found[-1].append(base)
            else:
                found.append([base])
        return tuple((run[0], self.rows + (run[-1] - run[0]) // self.lines.stride) for run in found)

    @property
    def _bases(self) -> tuple[int, ...]:
        """Floats from an output's pixel to the row that each tap reads, below or above it."""
        return tuple(tap - column for tap, column in zip(self.stencil.taps, self.lines.columns, strict=True))

    @property
    def copied(self) -> int:
        """Image rows that are copied of a channel."""
        return sum(rows for _, rows in self.runs)

    @property
    def channel_step(self) -> int:
        """Floats of a channel in the scratch."""
        return self.copied * self.pitch

    @property
    def origin(self) -> int:
        """Where the scratch's first channel begins: behind zeros."""
        return self.stencil.lanes

    @property
    def zeros(self) -> int:
        """Where a tile of zeros begins."""
        return self.origin + self.chunk * self.channel_step

    @property
    def scratch(self) -> int:
        """Floats of the scratch; taps may read beyond the last row."""
        return self.zeros + self.rows * self.pitch + self.stencil.lanes

    @cached_property
    def tap_offsets(self) -> tuple[int, ...]:
        """Floats from a channel of the scratch to the row that each tap reads."""
        def offset(base: int) -> int:
            start = 0
            for first, rows in self.runs:
                row = (base - first) // self.lines.stride
                if 0 <= row <= rows - self.rows and (base - first) % self.lines.stride == 0:
                    return (start + row) * self.pitch
                start += rows
            raise AssertionError(base)

        return tuple(map(offset, self._bases))

    @property
    def tap_sums(self) -> tuple[int, ...]:
        """The sums that each tap belongs to."""
        return tuple(self.columns.index(column) for column in self.lines.columns)

    @property
    def tile(self) -> int:
        """Floats of a tile's sums."""
        return self.rows * sum(self.widths)

    @property
    def busy(self) -> float:
        """Vectors of a tile by the time that they take."""
        return self.rows * sum(self.widths) / self.stencil.lanes

    @property
    def accumulators(self) -> int:
        """Vector registers that hold sums."""
        return len(self.columns) * self.rows * len(self.widths)

    @property
    def in_place(self) -> bool:
        """Whether the result takes the residual's place: no row is computed twice."""
        return self.epilogue.in_place and self.lines.height % self.rows == 0
