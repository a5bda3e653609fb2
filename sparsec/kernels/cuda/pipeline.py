"""The skeleton of every product on tensor cores: stages of shared memory filled by asynchronous copies while warps
multiply what has arrived.

Blocks that share K leave partial sums, which a second kernel adds, or are a cluster, whose shared memory they add them
in. Blocks are numbered in groups of GROUP tiles of rows, so that the blocks that run at the same time share both the
rows' weights and the columns' activations in the L2 cache (the order of Triton's matrix multiplication).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import tvm_ffi
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from sparsec.errors import FormatError
from sparsec.kernels.cuda import epilogue, ptx, staging
from sparsec.kernels.cuda.block import Block
from sparsec.kernels.cuda.params import MmaParams, reject
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

GROUP = 8
ARCHITECTURE = "sparsec.architecture"
"""The attribute of a kernel that is for one architecture only, such as sm_90a."""
LIBRARY = "sparsec.library"
"""The attribute of a kernel that calls a library, its name."""
AHEAD = "sparsec.ahead"
"""The attribute of a kernel that reads constant arrays from their begin to their end: their names."""
BLOCKS = "tirx.launch_bounds_min_blocks_per_sm"
"""The attribute of a kernel of which a multiprocessor should hold several blocks, their number."""
Arguments = dict[str, tuple[int, str]]
Numbers = dict[str, Expr]
"""By name numbers that the run tells."""


# Brings a step's weights into registers, (block, base, step, sums), and returns what multiplies them with a fragment of
# the activations: (row block, column block, fragment).
Fetch = Callable[[Block, Expr, int, Buffer], Callable[[int, int, Buffer], None]]


def _nothing(*_: object) -> None:
    """Where copies need no more than a barrier, and products end where they begin."""


@dataclass(frozen=True)
class Weight:
    """How a family's weight reaches the tensor cores.

    Attributes:
        arguments: the arrays of `pack`: name -> (length, dtype).
        stage_bytes: bytes of the weight in one stage; the activations follow.
        copy: starts copying a stage: (block, base, K tile).
        multiply: adds a stage's product: (block, base of the weight, base of the activations, sums).
        publish: what a thread does between its copies' arrival and the barrier.
        in_flight: stages whose products still run, and read their memory, when `multiply` returns; all shares of K
            must be equal where there are any.
        finish: waits for those products: (block, sums).
        span: the block's first stage and their number, where they are not those of its share of K.

    """

    arguments: Arguments
    stage_bytes: int
    copy: Callable[[Block, Expr, Expr], None]
    multiply: Callable[[Block, Expr, Expr, Buffer], None]
    publish: Callable[[], None] = _nothing
    in_flight: int = 0
    finish: Callable[[Block, Buffer], None] = _nothing
    span: Callable[[Block], tuple[Expr, Expr]] | None = None


def arguments(p: MmaParams, weight: Arguments) -> Arguments:
    """The kernel's buffers in order, inputs first: name -> (length in elements, dtype)."""
    result = dict(weight)
    if p.gather:
        result["gather"] = (p.gather.length, "int32")
    if p.scaled:
        result["scale"] = (p.m, "float32")
    if p.dtype == "int8":
        result["offset"] = (p.m, "int32")
    result["bias"] = (p.m, "float32")
    if p.coded:
        result["codes"] = (2, "float32")
    result["x"] = (p.inputs, p.x_type)
    if p.epilogue.residual:
        result["residual"] = (p.outputs, p.out)
    if p.leaves_partial:
        result["partial"] = (p.split_k * p.outputs, epilogue.sum_type(p))
    result["y"] = (p.outputs, p.y_type)
    return result


def shared_bytes(p: MmaParams, weight_stage: int) -> int:
    """Bytes of shared memory that a block takes."""
    return max(p.tile.stages * (weight_stage + staging.stage_bytes(p)), epilogue.shared_bytes(p))


def build(p: MmaParams, weight: Weight) -> Kernel:
    """The kernel as a PrimFunc over flat buffers, see `arguments`.

    Raises:
        FormatError: no kernel computes the product.

    """
    if reason := reject(p):
        raise FormatError(f"no tensor-core kernel for {p}: {reason}")
    def body(buffers: Buffers) -> None:
        _product(p, buffers, weight)
        if p.leaves_partial:
            epilogue.sum_shares(p, buffers)

    return prim_func(arguments(p, weight.arguments), body)


def prim_func(arguments: Arguments, body: Callable[[Buffers], None]) -> Kernel:
    """A PrimFunc whose launches `body` emits, given the flat buffers by name."""
    with IRBuilder() as builder, T.prim_func(is_private=True):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": 1})
        body({name: T.arg(name, T.buffer((length,), dtype)) for name, (length, dtype) in arguments.items()})
    return builder.get()


def sized_func(buffers: Mapping[str, str], numbers: Sequence[str], body: Callable[[Buffers, Numbers], None]) -> Kernel:
    """As `prim_func`, of flat buffers whose lengths the run tells, by dtype, and behind them 32-bit numbers.

    What `body` divides by numbers of the run must not be negative, nor what these are.
    """
    with IRBuilder() as builder, T.prim_func(is_private=True):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": 1})
        given = {name: T.arg(name, T.buffer((T.var("int32", f"{name}_length"),), dtype))
                 for name, dtype in buffers.items()}
        body(given, {name: T.arg(name, T.var("int32", name)) for name in numbers})
    kernel = builder.get()
    rules = ((tirx.FloorDiv, partial(_truncated, tirx.Div)), (tirx.FloorMod, partial(_truncated, tirx.Mod)))
    return kernel.with_body(tvm_ffi.structural_map(kernel.body, rules))


def _truncated(operator: type[Expr], floored: Expr) -> Expr:
    """A quotient or remainder as CUDA's own.

    TVM does not know that numbers of the run are positive, and writes out what floors negative ones: several times the
    code, with every operand twice.
    """
    return floored if isinstance(floored.b, tirx.IntImm) else operator(floored.a, floored.b)


def _product(p: MmaParams, buffers: Buffers, weight: Weight) -> None:
    rows, columns, shares = p.grid
    with (T.launch_thread("blockIdx.x", rows * columns) as number, T.launch_thread("blockIdx.y", shares) as share,
          T.launch_thread("clusterCtaIdx.y", shares) if p.cluster else nullcontext(),
          T.launch_thread("threadIdx.x", p.tile.threads) as thread):
        shared = ptx.shared_memory(shared_bytes(p, weight.stage_bytes))
        warp = T.Bind(thread // 32)
        row, column = _raster(number, rows, columns)
        block = Block(p, buffers, shared, thread, T.Bind(thread % 32), T.Bind(warp % p.tile.warps[0]),
                      T.Bind(warp // p.tile.warps[0]), T.Bind(row * p.tile.rows), T.Bind(column * p.tile.columns),
                      T.Bind(share))
        sums = ptx.registers(p.tile.row_blocks * p.tile.column_blocks * 4, epilogue.sum_type(p))
        for register in range(p.tile.row_blocks * p.tile.column_blocks * 4):
            T.buffer_store(sums, T.Cast(epilogue.sum_type(p), 0), [register])
        _stages(block, weight, sums)
        epilogue.store(block, sums)


def _raster(number: Expr, rows: int, columns: int) -> tuple[Expr, Expr]:
    """The tile of a block, by its number."""
    if rows <= GROUP:
        return number % rows, number // rows
    group = T.Bind(number // (GROUP * columns))
    within = T.Bind(number % (GROUP * columns))
    height = T.Bind(T.min(rows - group * GROUP, GROUP)) if rows % GROUP else GROUP
    return group * GROUP + within % height, within // height


def _stages(b: Block, weight: Weight, sums: Buffer) -> None:
    """Multiply the block's share of K, stage by stage."""
    p, stages = b.params, b.params.tile.stages
    size = weight.stage_bytes + staging.stage_bytes(p)
    first, count = _share(b) if weight.span is None else weight.span(b)

    def fill(turn: Expr) -> None:
        base = T.Bind(turn % stages * size)
        weight.copy(b, base, first + turn)
        staging.copy(b, base + weight.stage_bytes, first + turn)

    def multiply(turn: Expr) -> None:
        advance(ahead, turn, count, fill, weight.publish)
        base = T.Bind(turn % stages * size)
        weight.multiply(b, base, base + weight.stage_bytes, sums)

    ahead = stages - 1 - weight.in_flight  # of the stage that is multiplied; products still read the others
    prefill(ahead, count, fill)
    copies = 1 + weight.in_flight  # of the loop's body: products that run at the same time have registers of their own
    with T.serial(0, count // copies) as group:
        for copy in range(copies):
            multiply(group * copies + copy)
    weight.finish(b, sums)

    def last(turn: Expr) -> None:
        multiply(turn)
        weight.finish(b, sums)

    _remainder(count, copies, last)
    ptx.barrier()  # the epilogue reuses the memory


def _share(b: Block) -> tuple[Expr, Expr]:
    """The first stage of the block's share of K, and their number."""
    p = b.params
    first = T.Bind(b.share * p.share_tiles)
    return first, p.share_tiles if p.k_tiles % p.split_k == 0 else T.Bind(T.min(p.k_tiles - first, p.share_tiles))


def _remainder(count: Expr, copies: int, multiply: Callable[[Expr], None]) -> None:
    """The turns that whole groups of `copies` leave over."""
    for left in range(copies - 1):
        if isinstance(count, int):
            if count % copies > left:
                multiply(count // copies * copies + left)
            continue
        with T.If(count % copies > left), T.Then():
            multiply(T.Bind(count // copies * copies + left))


def prefill(ahead: int, count: Expr, fill: Callable[[Expr], None]) -> None:
    """Start the copies of the first `ahead` turns, of `count`; each turn's are a group."""
    for turn in range(ahead):
        with T.If(turn < count), T.Then():
            fill(turn)
        ptx.commit()


def advance(ahead: int, turn: Expr, count: Expr, fill: Callable[[Expr], None],
            publish: Callable[[], None] = _nothing) -> None:
    """Wait until a turn's copies have arrived for all threads, and start those of the turn that lies `ahead`."""
    ptx.wait(ahead - 1)
    publish()
    ptx.barrier()
    with T.If(turn + ahead < count), T.Then():
        fill(turn + ahead)
    ptx.commit()


def by_warps(fetch: Fetch) -> Callable[[Block, Expr, Expr, Buffer], None]:
    """The product of a stage by instructions of single warps."""
    def multiply(b: Block, base: Expr, activations: Expr, sums: Buffer) -> None:
        p, fragment = b.params, ptx.registers(4)
        for step in range(p.tile_steps):
            product = fetch(b, base, step, sums)
            for column_block in range(p.tile.column_blocks):
                staging.load(b, fragment, activations, step, column_block)
                for row_block in range(p.tile.row_blocks):
                    product(row_block, column_block, fragment)

    return multiply
