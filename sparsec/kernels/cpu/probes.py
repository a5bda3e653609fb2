"""Kernels that do nothing but keep one resource of a core busy, for calibrating the cost model."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit import tiles
from sparsec.kernels.emit.intrinsics import gathered, permuted
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, add_to, kernel, load, parallel, registers, splat, store

CHAINS = 12  # independent sums: more than latency times throughput of any core, fewer than the registers of AVX2
GATHERED, PLACES = 1024, 64  # floats that are gathered from, and vectors of their places
WIDE = 4  # sums of a short loop
TILE_BYTES = tiles.ROWS * tiles.ROW_BYTES


def multiply_add(rounds: int, isa: Isa) -> Expr:
    """Kernel x -> y: every thread does `rounds` * `CHAINS` multiply-adds that depend on nothing but their own chain."""
    def body(b: Buffers, thread: Expr, sums: Buffer) -> None:
        factor, term = (T.Bind(load(b["x"], thread * 0 + i * isa.lanes, isa.lanes)) for i in range(2))
        with T.serial(0, rounds):
            for chain in range(CHAINS):
                at = chain * isa.lanes
                store(sums, at, load(sums, at, isa.lanes) * factor + term)

    return _probe({"x": (2 * isa.lanes, "float32")}, isa, body)


def permute(rounds: int, isa: Isa) -> Expr:
    """Kernel (places, x) -> y: every thread permutes `rounds` * `CHAINS` registers by positions, one after another."""
    def body(b: Buffers, thread: Expr, sums: Buffer) -> None:
        places = T.Bind(load(b["places"], thread * 0, isa.lanes))
        for chain in range(CHAINS):
            store(sums, chain * isa.lanes, load(b["x"], chain * isa.lanes, isa.lanes))
        with T.serial(0, rounds):
            for chain in range(CHAINS):
                at = chain * isa.lanes
                store(sums, at, permuted(load(sums, at, isa.lanes), places, isa.lanes))

    return _probe({"places": (isa.lanes, "int32"), "x": (CHAINS * isa.lanes, "float32")}, isa, body)


def gather(rounds: int, isa: Isa) -> Expr:
    """Kernel (places, x) -> y: every thread gathers `rounds` * `CHAINS` vectors from an x that fits the L1 cache."""
    def body(b: Buffers, thread: Expr, sums: Buffer) -> None:
        with T.serial(0, rounds) as turn:
            for chain in range(CHAINS):
                places = load(b["places"], ((turn + chain) % PLACES + thread * 0) * isa.lanes, isa.lanes)
                add_to(sums, chain * isa.lanes, gathered(b["x"], places, isa.lanes))

    return _probe({"places": (PLACES * isa.lanes, "int32"), "x": (GATHERED, "float32")}, isa, body)


def tile_products(rounds: int, isa: Isa) -> Expr:
    """Kernel x -> y: every thread loads and multiplies `rounds` blocks of 2 x 2 tiles of bytes."""
    roles = tiles.Roles(range(4, 6), range(6, 8), tiles.WORDS)

    def body(b: Buffers, thread: Expr, _sums: Buffer) -> None:
        tiles.configure(roles)
        for tile in range(4):
            tiles.clear(tile)
        with T.serial(0, rounds):
            for tile in range(4):
                tiles.load_tile(4 + tile, b["x"], thread * 0 + tile * TILE_BYTES, tiles.ROW_BYTES)
            for tile in range(4):
                tiles.add_bytes(tile, 4 + tile // 2, 6 + tile % 2)
        tiles.release()

    return _probe({"x": (4 * TILE_BYTES, "uint8")}, isa, body, roles.llvm)


def read(floats: int, sweeps: int, isa: Isa) -> Expr:
    """Kernel x -> y: every thread adds up its own `floats` of x, `sweeps` times, a vector a time."""
    step = CHAINS * isa.lanes
    assert floats % step == 0

    def body(b: Buffers, thread: Expr, sums: Buffer) -> None:
        with T.serial(0, sweeps), T.serial(0, floats // step) as at:
            for chain in range(CHAINS):
                place = thread * floats + at * step + chain * isa.lanes
                add_to(sums, chain * isa.lanes, load(b["x"], place, isa.lanes))

    return _probe({"x": (isa.threads * floats, "float32")}, isa, body)


def short_loops(groups: int, isa: Isa) -> Expr:
    """Kernel (starts, x) -> y: every thread runs `groups` loops whose lengths nobody can predict, each with a store."""
    def body(b: Buffers, thread: Expr, sums: Buffer) -> None:
        with T.serial(0, groups) as group:
            first = T.Bind(b["starts"][group])
            for chain in range(WIDE):
                store(sums, chain * isa.lanes, splat(0.0, isa.lanes))
            with T.serial(0, b["starts"][group + 1] - first) as step:
                for chain in range(WIDE):
                    place = (first + step) % 64 * WIDE + chain
                    add_to(sums, chain * isa.lanes, load(b["x"], place * isa.lanes, isa.lanes))
            for chain in range(WIDE):
                at = chain * isa.lanes
                store(b["y"], thread * (CHAINS * isa.lanes) + at, load(sums, at, isa.lanes))

    return _probe({"starts": (groups + 1, "int32"), "x": (64 * WIDE * isa.lanes, "float32")}, isa, body)


def _probe(inputs: dict[str, tuple[int | None, str]], isa: Isa, body: Expr, llvm: str = "") -> Expr:
    """A kernel in which every thread runs `body(buffers, thread, sums)` and stores its sums to y."""
    width = CHAINS * isa.lanes

    def emit(b: Buffers) -> None:
        def share(thread: Expr) -> None:
            sums = registers(CHAINS, isa.lanes)
            for chain in range(CHAINS):
                store(sums, chain * isa.lanes, splat(0.0, isa.lanes))
            body(b, thread, sums)
            for chain in range(CHAINS):
                store(b["y"], thread * width + chain * isa.lanes, load(sums, chain * isa.lanes, isa.lanes))

        parallel(isa.threads, share)

    return kernel({**inputs, "y": (isa.threads * width, "float32")}, emit, llvm)
