"""The parameters of `stem_filtering`'s kernels, and how tiles of pixels and their points lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from sparsec.graph.layout import PaddedFlat, PhasePlanes, round_up
from sparsec.kernels.cpu.images.pooled import Pooled
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.packing.filtering import Filtering


@dataclass(frozen=True)
class Side:
    """One side of a tile.

    Attributes:
        outputs: pixels of a tile.
        taps: of the window.
        stride: from pixel to pixel.

    """

    outputs: int
    taps: int
    stride: int

    @property
    def phases(self) -> list[Filtering]:
        """The filters of stride 1 on every `stride`-th input, of which the first have most taps."""
        return [Filtering(self.outputs, len(range(phase, self.taps, self.stride)))
                for phase in range(min(self.taps, self.stride))]

    @property
    def inputs(self) -> int:
        """Inputs that a tile reads."""
        return (self.outputs - 1) * self.stride + self.taps

    @property
    def points(self) -> int:
        """Points of a tile."""
        return self.phases[0].size

    @property
    def runs(self) -> list[tuple[int, int, int]]:
        """Points that equally many phases have: the first, behind the last, and those phases."""
        ends = sorted({phase.size for phase in self.phases})
        return [(first, end, sum(phase.size >= end for phase in self.phases))
                for first, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Group:
    """Points, (rows, columns) of a tile's, that equally many phases have.

    Attributes:
        rows: first and behind the last.
        columns: first and behind the last.
        phases: down and across.
        point: points of the groups before.
        depth: numbers that are multiplied and summed for a point: of all phases and channels.
        row: numbers of the groups before.

    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    phases: tuple[int, int]
    point: int
    depth: int
    row: int

    @property
    def points(self) -> int:
        """Points in it."""
        return (self.rows[1] - self.rows[0]) * (self.columns[1] - self.columns[0])

    def index(self, row: int, column: int) -> int:
        """The number of a point in it."""
        return (row - self.rows[0]) * (self.columns[1] - self.columns[0]) + column - self.columns[0]


@dataclass(frozen=True)
class StemFilteringParams:
    """A convolution of a plain input.

    Attributes:
        shape: (batch, channels, height, width) of the input.
        target: layout of the output.
        kernel: (kh, kw).
        tile: (rows, columns) of output pixels.
        block: (output channels, vectors of tiles) of the register block; no more channels than there are.
        rows: rows of tiles in a band.
        strides: (sh, sw).
        begins: (top, left) padding.
        epilogue: what follows; no residual.
        pool: maxima of the output, which are written in its place.

    """

    shape: tuple[int, int, int, int]
    target: PaddedFlat
    kernel: tuple[int, int]
    tile: tuple[int, int]
    block: tuple[int, int]
    rows: int
    strides: tuple[int, int] = (1, 1)
    begins: tuple[int, int] = (0, 0)
    epilogue: Epilogue = field(default_factory=Epilogue)
    pool: Pooled | None = None

    @property
    def sides(self) -> tuple[Side, Side]:
        """Down and across."""
        down, across = (Side(*each) for each in zip(self.tile, self.kernel, self.strides, strict=True))
        return down, across

    @cached_property
    def groups(self) -> list[Group]:
        """All points of a tile, in the order in which they are multiplied."""
        groups: list[Group] = []
        point = row = 0
        for down in self.sides[0].runs:
            for across in self.sides[1].runs:
                phases = down[2], across[2]
                group = Group(down[:2], across[:2], phases, point, self.shape[1] * math.prod(phases), row)
                groups.append(group)
                point, row = point + group.points, row + group.points * group.depth
        return groups

    @property
    def points(self) -> int:
        """Points of a tile."""
        return self.sides[0].points * self.sides[1].points

    @property
    def numbers(self) -> int:
        """What a tile's inputs become: points of all phases and channels, each a multiplication for an output."""
        return self.groups[-1].row + self.groups[-1].points * self.groups[-1].depth

    def group(self, row: int, column: int) -> Group:
        """The group that a point is in."""
        return next(g for g in self.groups if row < g.rows[1] and column < g.columns[1])

    def number(self, row: int, column: int, phases: tuple[int, int]) -> int:
        """Where a phase of a point lies among the `numbers`: the first channel's, which the others follow."""
        g = self.group(row, column)
        return g.row + g.index(row, column) * g.depth + (phases[0] * g.phases[1] + phases[1]) * self.shape[1]

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows of tiles, and tiles of a row."""
        return -(-self.target.height // self.tile[0]), -(-self.target.width // self.tile[1])

    @property
    def bands(self) -> int:
        """Bands of an image."""
        return -(-self.tiles[0] // self.rows)

    @property
    def band_vectors(self) -> list[int]:
        """By band of an image, register blocks' vectors of tiles: the last band may have fewer rows."""
        stride, across = self.planes.output.row_stride, self.tiles[1]
        rows = [min(self.rows, self.tiles[0] - first) for first in range(0, self.tiles[0], self.rows)]
        return [round_up(-(-((each - 1) * stride + across) // self.target.lanes), self.block[1]) for each in rows]

    @property
    def wide(self) -> int:
        """Tiles that a register block takes."""
        return self.block[1] * self.target.lanes

    @property
    def vectors(self) -> int:
        """Vectors of tiles in a band, those of whole register blocks."""
        return round_up(self.planes.output.vectors, self.block[1])

    @property
    def line(self) -> int:
        """Floats of a row of pixels of all tiles of a band, which is read by whole vectors."""
        return (self.vectors * self.tile[1] + 1) * self.target.lanes

    @property
    def blocks(self) -> int:
        """Register blocks of output channels; the last may overlap its neighbour."""
        return -(-self.target.channels // self.block[0])

    @cached_property
    def planes(self) -> PhasePlanes:
        """The inputs of a band of tiles, as those of a convolution whose pixels are tiles."""
        lanes, (down, across), width = self.target.lanes, self.sides, self.tiles[1]
        steps = self.tile[0] * self.strides[0], self.tile[1] * self.strides[1]
        output = PaddedFlat(1, self.target.channels, self.rows, width, 0, width + (across.inputs - 1) // steps[1],
                            lanes, clean=False)
        return PhasePlanes(self.shape[1], (down.inputs, across.inputs), steps, (1, 1), self.begins, output)
