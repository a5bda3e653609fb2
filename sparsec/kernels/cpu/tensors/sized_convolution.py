"""Dense convolutions of images of any size, channels last: a product of the windows with a weight in panels.

Windows are copied into scratch, as many as leave room in the L2 cache, vector by vector as register blocks read them; a
panel of outputs is multiplied with all of them, and leaves its registers through the epilogue. So nothing is turned,
whatever the number of pixels, and windows are in no memory but a cache. Which pixels are in a window is told by the
tables of `sized_windows`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Work
from sparsec.graph.sized import Convolution
from sparsec.kernels.cpu.tensors.sized_products import (
    FLOATS,
    SHORT,
    TALLEST,
    Panel,
    by_threads,
    heights,
    in_blocks,
    known,
    over,
    product,
)
from sparsec.kernels.cpu.tensors.sized_windows import SIZES, copy, window_of
from sparsec.kernels.emit.activations import finished
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, load, splat, store

MOST = 28
"""Windows that are multiplied at once at most: of few elements, they stay in the L1 cache."""
LEAST = TALLEST
"""Windows that there is always room for; larger ones than that allows have no such kernel."""
LONGEST = FLOATS // LEAST
"""Elements of a window at most."""


def widths(outputs: int, length: int, isa: Isa) -> range:
    """Vectors of outputs of a register block, of the kernels that there are for so many outputs and window elements."""
    most = min(outputs // isa.lanes, 3 if isa.registers > 16 else 2)
    return range(1, most + 1) if isa.lanes > 1 and length + isa.lanes <= LONGEST else range(0)


COPY_LOADS = 4
"""Loads that a vector of a window takes to be copied; a store counts as two."""
FIND_LOADS = 24
"""Loads that finding where a window lies takes."""


def work(outputs: int, length: int, pixels: int, vectors: int, isa: Isa) -> Work:
    """What so many pixels of a larger image take by windows of so many elements, for the cost model to price."""
    lanes = isa.lanes
    chunks, panels, height = -(-length // lanes), -(-(outputs // lanes) // vectors), heights(vectors, isa)[0]
    steps, finishing = pixels / height * chunks * lanes * panels, 4 * pixels * panels * vectors
    weights = 4 * chunks * lanes * panels * vectors * lanes
    return Work(fmas=steps * height * vectors, loads=steps * (height + vectors) + finishing + pixels * (
        COPY_LOADS * chunks + FIND_LOADS), groups=pixels / height * panels, l2_bytes=weights * pixels / SHORT,
        memory_bytes=weights * pixels / SHORT + 4 * pixels * outputs, kernel="gemm/direct", pixels=SHORT)


def build(params: Convolution, isa: Isa, l2_bytes: int) -> Kernel:
    """The kernel, see `sized_products.product`.

    `extra` has the weights (panel, element of the window, output) with whole vectors of elements, and behind them the
    biases.
    """
    return product(lambda b, budget: _emit(b, params, isa, budget), l2_bytes, residual=params.residual)


@dataclass(frozen=True)
class _Block:
    """Windows that are multiplied at once, and what a thread has them in.

    Attributes:
        b: the arguments.
        p: the kernel's parameters.
        sizes: by name.
        isa: the processor.
        chunks: vectors of elements of a window.
        rows: (register block, vector of elements, window of the block, element of the vector).
        apart: `AT_ONCE` windows as they are, with zeros behind each.

    """

    b: Buffers
    p: Convolution
    sizes: dict[str, Expr]
    isa: Isa
    chunks: Expr
    rows: Buffer
    apart: Buffer

    @property
    def tall(self) -> int:
        """Windows of a register block."""
        return heights(self.p.vectors, self.isa)[0]

    def begin(self, window: Expr) -> Expr:
        """Where a window begins in `rows`."""
        group = known(T.truncdiv(window, self.tall))
        return known((group * (self.chunks - 1) * self.tall + window) * self.isa.lanes)


AT_ONCE = 8
"""Windows that are copied as they are before they are cut into vectors: what has just been written is slow to read."""


def _emit(b: Buffers, p: Convolution, isa: Isa, budget: int) -> None:
    sizes = {name: T.Bind(b["sizes"][index]) for index, name in enumerate(SIZES)}
    lanes, total = isa.lanes, sizes["total"]
    length = known(sizes["rows_in"] * sizes["columns_in"] * sizes["channels"])
    chunks = known(over(length, lanes))
    panels = known(over(over(sizes["outputs"], lanes), p.vectors))
    most = known(T.min(T.int64(MOST), T.max(T.int64(LEAST), T.truncdiv(T.int64(budget), chunks * lanes))))
    blocks = known(over(total, most))
    parts = known(T.Select(blocks < isa.threads, T.int64(isa.threads), T.int64(1)))

    def work(low: Expr, high: Expr) -> None:
        block = _Block(b, p, sizes, isa, chunks,
                       T.alloc_buffer((2 * FLOATS + MOST * lanes,), "float32"),
                       T.alloc_buffer((AT_ONCE * (LONGEST + lanes),), "float32"))
        with T.serial(0, AT_ONCE) as window:
            store(block.apart, (window * chunks + chunks - 1) * lanes, splat(0.0, lanes))
        with T.serial(low, high) as unit:
            number = known(T.truncdiv(unit, parts))
            part = known(unit - number * parts)
            first = known(number * total // blocks)
            windows = known((number + 1) * total // blocks - first)
            _copy_windows(block, first, windows)
            with T.serial(part * panels // parts, (part + 1) * panels // parts) as panel:
                _multiply(block, known(panel), first, windows)

    by_threads(known(blocks * parts), isa, work)


def _copy_windows(k: _Block, first: Expr, windows: Expr) -> None:
    """The elements of all windows, vector by vector; where vectors cross pixels, by way of `apart`."""
    lanes, bits, s = k.isa.lanes, k.isa.lanes.bit_length() - 1, k.sizes
    # As many windows behind, which are the next ones, while these are multiplied.
    pixels = T.truncdiv(windows * s["rows"] * s["columns"], s["out_rows"] * s["out_columns"])
    ahead = known(pixels * s["channels"])

    def pad(count: int) -> Expr:
        return splat(0.0, count)

    def apart(begin: Expr) -> None:
        count = known(T.min(T.int64(AT_ONCE), windows - begin))
        with T.serial(0, count) as own:
            at = known(own * k.chunks * lanes)
            copy(window_of(k.b, k.sizes, first + begin + own), lanes, pad, k.apart, lambda offset: at + offset)
        with T.serial(0, count) as own:
            to = k.begin(begin + own)
            with T.serial(0, k.chunks) as chunk:
                vector = load(k.apart, (own * k.chunks + chunk) * lanes, lanes)
                store(k.rows, to + chunk * (k.tall * lanes), vector)

    with T.If(T.bitwise_and(k.sizes["channels"], T.int64(lanes - 1)) == 0):
        with T.Then(), T.serial(0, windows) as window:
            to = k.begin(window)
            copy(window_of(k.b, k.sizes, first + window), lanes, pad, k.rows, lambda offset: to + T.shift_right(
                offset, T.int64(bits)) * (k.tall * lanes), ahead)
        with T.Else(), T.serial(0, over(windows, AT_ONCE)) as group:
            apart(known(group * AT_ONCE))


def _multiply(k: _Block, panel: Expr, first: Expr, windows: Expr) -> None:
    """A panel of outputs of all windows; the last panel and the last vector overlap those before them."""
    lanes, vectors, outputs, p = k.isa.lanes, k.p.vectors, k.sizes["outputs"], k.p
    every = known(over(outputs, lanes))
    begin = known(T.min(panel * vectors, every - vectors))
    biases = known(over(every, vectors) * k.chunks * (lanes * lanes * vectors))
    channels = [known(T.min((begin + v) * lanes, outputs - lanes)) for v in range(vectors)]
    own = Panel(k.b["extra"], known(panel * k.chunks * (lanes * lanes * vectors)), lanes, vectors, k.chunks)
    follows = Epilogue(p.activation, p.alpha, p.beta, residual=p.residual)

    def block(window: Expr, height: int) -> None:
        sums = own.sums(k.rows, known(window * k.chunks * lanes), k.tall, height)
        biased = [T.Bind(load(k.b["extra"], biases + channel, lanes)) for channel in channels]
        for row in range(height):
            with T.If(window + row < windows), T.Then():
                to = known((first + window + row) * outputs)
                for v, channel in enumerate(channels):
                    more = load(k.b["residual"], to + channel, lanes) if p.residual else None
                    value = load(sums, (row * vectors + v) * lanes, lanes) + biased[v]
                    store(k.b["y"], to + channel, finished(follows, value, lanes, more))

    in_blocks(windows, heights(vectors, k.isa), block, overlap=False)
