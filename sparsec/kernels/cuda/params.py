"""What a tensor-core product computes and how it is cut into tiles, for every kernel family of this package.

    Y = activation(scale * (W X) + bias + residual)

W is the weight (m, depth). X holds n columns as rows of features, (n, k), and Y and the residual are (n, m): tokens, or
pixels of images whose channels come last; a batch is more of them. With a `Window` the n columns are what a
convolution sees at every pixel, read from the image as they are needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from sparsec.kernels.cuda.codes import E4M3, STORED
from sparsec.kernels.emit.epilogue import Epilogue

ITEMSIZES = {"float16": 2, "bfloat16": 2, "int8": 1, E4M3: 1}
HALVES = {"fp16": "float16", "bf16": "bfloat16", "int8": "float16", "fp8": "float16"}
"""The element type of activations around tensor cores, by precision; layers may read codes of 8 bits beside them."""
OUTPUTS = {"float16": 2, "bfloat16": 2, "float32": 4, "uint8": 1, "int8": 1}
STEP_BYTES = 64  # bytes of K that a warp's step multiplies: one `ldmatrix.x4`
ROW_PAIR = 32  # rows of W are padded to these, since a word of metadata serves two blocks of 16
VECTOR_BYTES = 16
CLUSTER = 8  # blocks of a cluster that every GPU with clusters takes


@dataclass(frozen=True)
class Tile:
    """What a thread block computes.

    Attributes:
        rows: outputs (of m).
        columns: columns (of n).
        depth: inputs (of K) in one stage of shared memory.
        warps: warps along the rows and along the columns.
        stages: stages of shared memory; all but one are being filled.

    """

    rows: int
    columns: int
    depth: int
    warps: tuple[int, int]
    stages: int

    @property
    def threads(self) -> int:
        """Threads of the block."""
        return 32 * self.warps[0] * self.warps[1]

    @property
    def row_blocks(self) -> int:
        """Blocks of 16 rows of one warp."""
        return self.rows // self.warps[0] // 16

    @property
    def column_blocks(self) -> int:
        """Blocks of 8 columns of one warp."""
        return self.columns // self.warps[1] // 8


@dataclass(frozen=True)
class Gather:
    """Column j of W multiplies feature `gather[j]` of X: a permutation of channels, or the windows of 4:6 and 6:8.

    Attributes:
        length: columns of W.
        run: the largest power of two such that aligned runs of so many columns are aligned runs of features.

    """

    length: int
    run: int = 1


@dataclass(frozen=True)
class Slices:
    """Columns of W are stored slice by slice, those of every tile of rows its own, and `slices` numbers them along K.

    Attributes:
        width: columns of a slice.

    """

    width: int


@dataclass(frozen=True)
class Window:
    """X is an image (batch, height, width, channels); its columns are the windows of a convolution.

    A column's features are (kernel row, kernel column, channel), zero outside the image; columns are (batch, row,
    column) of the convolution's output.

    Attributes:
        image: height, width and channels.
        kernel: rows and columns.
        output: rows and columns.
        strides: along rows and columns.
        dilations: along rows and columns.
        pads: rows above and columns to the left of the image.

    """

    image: tuple[int, int, int]
    kernel: tuple[int, int]
    output: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class MmaParams:
    """A product on tensor cores; see the module for the meaning of m, n and k.

    Attributes:
        m: outputs.
        n: columns of X: tokens or pixels.
        k: features of X.
        tile: what a thread block computes.
        dtype: of W and X; sums of 8-bit numbers are scaled per output to floats.
        out: of Y and the residual.
        epilogue: what follows the product.
        gather: which feature each column of W multiplies; None for the same.
        window: how X's columns lie in an image; None where X is a matrix.
        split_k: shares of K that different blocks sum.
        cluster: the blocks that share K are a cluster, whose shared memory they add their sums in.
        x: of X where that is not W's: uint8 beside int8.
        coded: the type of Y's codes, where Y is made of them; what they stand for is an argument.

    """

    m: int
    n: int
    k: int
    tile: Tile
    dtype: str = "float16"
    out: str = "float16"
    epilogue: Epilogue = field(default_factory=Epilogue)
    gather: Gather | None = None
    window: Window | None = None
    split_k: int = 1
    cluster: bool = False
    x: str = ""
    coded: str = ""

    @property
    def stored(self) -> str:
        """The element type of W's buffers."""
        return STORED.get(self.dtype, self.dtype)

    @property
    def x_type(self) -> str:
        """The element type of X's buffer."""
        return self.x or self.stored

    @property
    def y_type(self) -> str:
        """The element type of Y's buffer."""
        return STORED.get(self.coded, self.coded) or self.out

    @property
    def scaled(self) -> bool:
        """Whether sums are scaled by output: those of 8-bit numbers."""
        return self.itemsize == 1

    @property
    def leaves_partial(self) -> bool:
        """Whether blocks leave partial sums, which a second kernel adds."""
        return self.split_k > 1 and not self.cluster

    @property
    def slices(self) -> Slices | None:
        """How the columns of W that are stored lie in X; None where all are."""
        return None

    @property
    def itemsize(self) -> int:
        """Bytes of an element of W and X."""
        return ITEMSIZES[self.dtype]

    @property
    def depth(self) -> int:
        """Columns of W."""
        return self.gather.length if self.gather else self.k

    @property
    def step(self) -> int:
        """Inputs (of K) of a warp's step."""
        return STEP_BYTES // self.itemsize

    @property
    def steps(self) -> int:
        """Steps that W is padded to."""
        return -(-self.depth // self.step)

    @property
    def tile_steps(self) -> int:
        """Steps of one stage."""
        return self.tile.depth // self.step

    @property
    def row_blocks(self) -> int:
        """Blocks of 16 rows that W is padded to."""
        return -(-self.m // ROW_PAIR) * (ROW_PAIR // 16)

    @property
    def k_tiles(self) -> int:
        """Stages that all of K takes."""
        return -(-self.depth // self.tile.depth)

    @property
    def share_tiles(self) -> int:
        """Stages of one share of K; the last share may have fewer."""
        return -(-self.k_tiles // self.split_k)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks along the rows, along the columns, and over shares of K."""
        return -(-self.m // self.tile.rows), -(-self.n // self.tile.columns), self.split_k

    @property
    def inputs(self) -> int:
        """Elements of X."""
        if self.window is None:
            return self.k * self.n
        return self.n // math.prod(self.window.output) * math.prod(self.window.image)

    @property
    def outputs(self) -> int:
        """Elements of Y."""
        return self.m * self.n

    @property
    def copy_bytes(self) -> int:
        """Bytes of X that one instruction copies: as many as are aligned and contiguous."""
        contiguous = self.window.image[2] if self.window else self.k
        if self.gather:
            contiguous = math.gcd(contiguous, self.gather.run)
        return math.gcd(contiguous * self.itemsize, VECTOR_BYTES)


def fields_of(p: MmaParams) -> dict[str, Any]:
    """A product's fields, for a subclass with more."""
    return {each.name: getattr(p, each.name) for each in fields(MmaParams)}


def reject(p: MmaParams) -> str | None:
    """Why no kernel computes the product, or None; whether an architecture can run its tile is `tiles.reject`'s."""
    t = p.tile
    whole = t.rows % (16 * t.warps[0]) == t.columns % (8 * t.warps[1]) == t.depth % p.step == 0
    reasons = {
        f"{t} does not deal whole fragments to its warps and two stages or more to the copies":
            not whole or t.stages < 2,
        f"activations of 8 bits need an even number of contiguous features: k = {p.k}, gather {p.gather}":
            p.copy_bytes < 2,
        f"no instruction multiplies {p.dtype} by {p.x}": bool(p.x) and (p.dtype, p.x) != ("int8", "uint8"),
        f"K = {p.depth} is too short for {p.split_k} shares of whole stages":
            p.split_k > 1 and (p.split_k - 1) * p.share_tiles >= p.k_tiles,
        f"a cluster has 2 to {CLUSTER} blocks, not {p.split_k}": p.cluster and not 1 < p.split_k <= CLUSTER,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
