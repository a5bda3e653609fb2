"""Which stages of keys each block of queries sees, as lists that kernels of attention go over.

A list is its length, then in rising order an entry for every stage of which some query of the block sees a key (see
`kernels.hidden_keys`): the stage's number times `MASKED`, and one more where the mask is not 0 all over it for these
queries. A block that sees no key at all has its first stage, for its results are no numbers whatever it reads. Lists of
constant masks are constants; two kernels make those of others: one finds what is largest in every row of a stage, and
the other, which then knows what is largest in every row, writes the lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.cuda.attention_turns import MASKED
from sparsec.kernels.divided_keys import PLANES
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel
from sparsec.kernels.hidden_keys import HIDDEN, seen

LANES = 32
WARPS = 8
THREADS = LANES * WARPS
SIZES = ("batch", "heads", "queries", "keys", "list")
"""Of the mask, and elements of a list, which is 1 more than the stages that there may be; numbers of the kernel."""
STRIDES = ("m_batch", "m_head", "m_query", "m_key")
"""Of the mask in elements, its other numbers."""


def lists_of(mask: np.ndarray, rows: int, keys: int) -> np.ndarray:
    """The lists of a mask (batch, heads, queries, keys) for blocks of `rows` queries and stages of `keys` keys.

    int32 (batch, heads, blocks, 1 + stages).
    """
    shown = _any(seen(mask), rows, keys)
    masked = _any(mask != 0, rows, keys)
    shown[..., 0] |= ~shown.any(axis=-1)
    lists = np.zeros((*shown.shape[:-1], 1 + shown.shape[-1]), np.int32)
    for place in np.ndindex(shown.shape[:-1]):
        (stages,) = np.nonzero(shown[place])
        lists[place][0] = len(stages)
        lists[place][1:1 + len(stages)] = stages * MASKED + masked[place][stages]
    return lists


def _any(flags: np.ndarray, rows: int, keys: int) -> np.ndarray:
    """Whether any of the flags (…, queries, keys) of a block and stage is set."""
    for axis, size in ((-2, rows), (-1, keys)):
        flags = np.logical_or.reduceat(flags, np.arange(0, flags.shape[axis], size), axis=axis)
    return flags


@dataclass(frozen=True)
class ListParams:
    """Lists for blocks of `rows` queries and stages of `keys` keys, the latter a multiple of 32."""

    rows: int
    keys: int


def peaks_length(shape: tuple[int, int, int, int], keys: int) -> int:
    """Elements of what the first kernel leaves for a mask of a shape."""
    batch, heads, queries, length = shape
    return PLANES * batch * heads * queries * -(-length // keys)


def build(p: ListParams, shape: tuple[int, int, int, int]) -> Kernel:
    """The kernels for masks of a shape: (mask, the element at which it begins) -> peaks, lists; see `copying.py`."""
    batch, heads, queries, keys = shape
    stages = -(-keys // p.keys)
    blocks = -(-queries // p.rows)
    arguments = {"mask": (batch * heads * queries * keys, "float32"), "first": (1, "int32"),
                 "peaks": (peaks_length(shape, p.keys), "float32"),
                 "lists": (batch * heads * blocks * (1 + stages), "int32")}
    told = dict(zip(SIZES, (*shape, 1 + stages), strict=True))
    told |= zip(STRIDES, (heads * queries * keys, queries * keys, keys, 1), strict=True)
    return pipeline.prim_func(arguments, lambda buffers: _emit(_Masks(p, buffers, told)))


def build_sized(p: ListParams, *, grown: bool = False) -> Kernel:
    """The kernels of run-time sizes: (mask, [past], peaks, lists), then `SIZES` and `STRIDES`.

    There are as many keys more as the one number in `past`, where caches have `grown`.
    """
    given = {"mask": "float32", **({"past": "int32"} if grown else {}), "peaks": "float32", "lists": "int32"}
    return pipeline.sized_func(given, (*SIZES, *STRIDES), lambda buffers, told: _emit(_Masks(p, buffers, told)))


@dataclass(frozen=True)
class _Masks:
    """The masks, with numbers or expressions by name."""

    params: ListParams
    buffers: Buffers
    told: dict[str, Expr]

    @property
    def room(self) -> Expr:
        """Stages that there may be."""
        return self.told["list"] - 1

    def keys(self) -> Expr:
        """Keys that there are."""
        return self.told["keys"] + self.buffers["past"][0] if "past" in self.buffers else self.told["keys"]

    def peak(self, plane: int, matrix: Expr, row: Expr, stage: Expr) -> Expr:
        """Where a number of the first kernel lies."""
        t = self.told
        return ((plane * (t["batch"] * t["heads"]) + matrix) * t["queries"] + row) * self.room + stage


def _emit(m: _Masks) -> None:
    _find_peaks(m)
    _write_lists(m)


def _find_peaks(m: _Masks) -> None:
    """The first kernel: a warp finds what a row has in a stage, with what is no number as infinity."""
    p, told = m.params, m.told
    rows = told["batch"] * told["heads"] * told["queries"]
    with (T.launch_thread("blockIdx.x", (rows + (WARPS - 1)) // WARPS * m.room) as block,  # y would end at 65,535
          T.launch_thread("threadIdx.x", THREADS) as thread):
        stage, lane = T.Bind(block % m.room), T.Bind(thread % LANES)
        number = T.Bind(block // m.room * WARPS + thread // LANES)
        found = ptx.registers(PLANES, "float32")
        matrix = T.Bind(number // told["queries"])
        row, keys = T.Bind(number % told["queries"]), T.Bind(m.keys())
        with T.If(number < rows), T.Then():
            T.buffer_store(found, T.float32(-np.inf), [0])
            T.buffer_store(found, T.float32(0), [1])
            start = T.Bind(matrix // told["heads"] * told["m_batch"] + matrix % told["heads"] * told["m_head"]
                           + row * told["m_query"] + (m.buffers["first"][0] if "first" in m.buffers else 0))
            for turn in range(p.keys // LANES):
                key = T.Bind(stage * p.keys + turn * LANES + lane)
                with T.If(key < keys), T.Then():
                    value = T.Bind(m.buffers["mask"][start + key * told["m_key"]])
                    value = T.Bind(T.Select(T.isnan(value), T.float32(np.inf), value))
                    T.buffer_store(found, T.max(found[0], value), [0])
                    T.buffer_store(found, T.max(found[1], T.max(value, T.float32(0) - value)), [1])
            for plane in range(PLANES):
                T.buffer_store(found, T.cuda.warp_max(found[plane], LANES), [plane])
            with T.If(lane == 0), T.Then():
                for plane in range(PLANES):
                    T.buffer_store(m.buffers["peaks"], found[plane], [m.peak(plane, matrix, row, stage)])


def _write_lists(m: _Masks) -> None:
    """The second kernel: a thread block writes a list, 32 stages after another."""
    p, told = m.params, m.told
    blocks = T.Bind((told["queries"] + (p.rows - 1)) // p.rows) if not isinstance(told["queries"], int) else (
        -(-told["queries"] // p.rows))
    with (T.launch_thread("blockIdx.x", told["batch"] * told["heads"] * blocks) as number,
          T.launch_thread("threadIdx.x", THREADS) as thread):
        shared = ptx.shared_memory(4 * (p.rows + PLANES * THREADS))
        lane, warp = T.Bind(thread % LANES), T.Bind(thread // LANES)
        matrix, first = T.Bind(number // blocks), T.Bind(number % blocks * p.rows)
        stages = T.Bind((m.keys() + (p.keys - 1)) // p.keys)
        count = ptx.registers(1, "int32")

        def rows(body: Callable[[Expr], None]) -> None:
            """The rows that are this warp's."""
            with T.serial(0, p.rows // WARPS) as turn:
                row = T.Bind(turn * WARPS + warp)
                with T.If(first + row < told["queries"]), T.Then():
                    body(row)

        rows(lambda row: _find_threshold(m, shared, (matrix, first, row), stages, lane))
        ptx.barrier()
        T.buffer_store(count, 0, [0])
        flags = ptx.registers(PLANES, "float32")
        with T.serial(0, (stages + (LANES - 1)) // LANES) as chunk:
            stage = T.Bind(chunk * LANES + lane)
            for plane in range(PLANES):
                T.buffer_store(flags, T.float32(0), [plane])
            rows(lambda row: _look(m, shared, (matrix, first, row), (stage, stages), flags))
            ptx.store_floats(shared, 4 * (p.rows + PLANES * thread), [flags[0], flags[1]])
            ptx.barrier()
            with T.If(warp == 0), T.Then():
                _append(m, shared, (number, stage, stages), flags, count)
            ptx.barrier()
        with T.If(thread == 0), T.Then():
            begin = T.Bind(number * told["list"])
            T.buffer_store(m.buffers["lists"], T.max(count[0], 1), [begin])
            with T.If(count[0] == 0), T.Then():
                T.buffer_store(m.buffers["lists"], 1, [begin + 1])  # the first stage, with its mask


def _find_threshold(m: _Masks, shared: Expr, where: tuple[Expr, Expr, Expr], stages: Expr, lane: Expr) -> None:
    """Above which elements keys are seen in a row: -inf where all are, infinity where none is."""
    matrix, first, row = where
    most = ptx.registers(1, "float32")
    T.buffer_store(most, T.float32(-np.inf), [0])
    with T.serial(0, (stages + (LANES - 1)) // LANES) as chunk:
        stage = T.Bind(T.min(chunk * LANES + lane, stages - 1))
        T.buffer_store(most, T.max(most[0], m.buffers["peaks"][m.peak(0, matrix, first + row, stage)]), [0])
    T.buffer_store(most, T.cuda.warp_max(most[0], LANES), [0])
    top = T.Bind(most[0])
    is_ordinary = T.And(top > T.float32(HIDDEN), top < T.float32(np.inf))
    other = T.Select(top == T.float32(-np.inf), T.float32(np.inf), T.float32(-np.inf))
    least = T.Bind(T.Select(is_ordinary, top + T.float32(HIDDEN), other))
    with T.If(lane == 0), T.Then():
        ptx.store_floats(shared, row * 4, [least])


def _look(m: _Masks, shared: Expr, where: tuple[Expr, Expr, Expr], stage: tuple[Expr, Expr], flags: Buffer) -> None:
    """Whether a row sees something of a stage, and has a mask there."""
    matrix, first, row = where
    number, stages = stage
    least = ptx.registers(1, "float32")
    ptx.load_words(least, 0, 1, shared, row * 4)
    with T.If(number < stages), T.Then():
        peak, far = (T.Bind(m.buffers["peaks"][m.peak(plane, matrix, first + row, number)]) for plane in range(PLANES))
        sees = T.Or(peak > least[0], least[0] == T.float32(-np.inf))
        T.buffer_store(flags, T.Select(sees, T.float32(1), flags[0]), [0])
        T.buffer_store(flags, T.Select(far > T.float32(0), T.float32(1), flags[1]), [1])


def _append(m: _Masks, shared: Expr, where: tuple[Expr, Expr, Expr], flags: Buffer, count: Buffer) -> None:
    """Write the entries of a chunk's stages, of which a lane has one, behind those that are there; the first warp's."""
    p, (number, stage, stages) = m.params, where
    lane = stage % LANES
    others, places = ptx.registers(PLANES, "float32"), ptx.registers(2, "int32")
    for warp in range(1, WARPS):
        ptx.load_words(others, 0, PLANES, shared, 4 * (p.rows + PLANES * (warp * LANES + lane)))
        for plane in range(PLANES):
            T.buffer_store(flags, T.max(flags[plane], others[plane]), [plane])
    sees = T.Bind(T.And(flags[0] > T.float32(0), stage < stages))
    T.buffer_store(places, T.Select(sees, 1, 0), [0])
    for distance in (1, 2, 4, 8, 16):  # how many of the lanes up to this one see their stage
        T.buffer_store(places, T.tvm_warp_shuffle_up(0xFFFFFFFF, places[0], distance, LANES, LANES), [1])
        T.buffer_store(places, places[0] + T.Select(lane >= distance, places[1], 0), [0])
    with T.If(sees), T.Then():
        entry = stage * MASKED + T.Select(flags[1] > T.float32(0), 1, 0)
        T.buffer_store(m.buffers["lists"], entry, [number * m.told["list"] + count[0] + places[0]])
    T.buffer_store(count, count[0] + T.tvm_warp_shuffle(0xFFFFFFFF, places[0], LANES - 1, LANES, LANES), [0])
