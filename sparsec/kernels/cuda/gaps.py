"""Any pattern of non-zeros for few tokens, on the CUDA cores: a warp adds up an output, each lane a chunk of weights.

The weight is stored as `formats/gaps.py` says: chunks of eight values and the eight distances between their columns. A
lane reads a chunk, a scan over the warp turns distances into columns, and activations are gathered from shared memory,
where a column's tokens lie side by side. The work is that of the non-zeros alone, so that it pays where they are few.

Chunks of the next step, or of the next row, are read while this one's are multiplied.

At precision int8 values are bytes, the code of an output's largest weight being 127: two thirds of the bytes. They are
stored with 128 added, which makes them the last digits of a float.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import GpuWork
from sparsec.errors import FormatError
from sparsec.formats.bits import Stream
from sparsec.formats.bits import pack as pack_bits
from sparsec.formats.bits import unpack as unpack_bits
from sparsec.formats.gaps import Gaps
from sparsec.kernels.cuda import epilogue, pipeline, ptx
from sparsec.kernels.cuda.block import deal
from sparsec.kernels.cuda.family import Architectures, GpuProduct, Skeleton, assembled
from sparsec.kernels.cuda.params import MmaParams, Tile, fields_of
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

FORMAT = Gaps()
FEW = 16
"""The tokens up to which a gather for every weight is worth considering."""
WARPS = 16
BLOCKS = 2  # on a multiprocessor, which bounds a thread's registers
LANES = 32
ZERO = 128  # what is added to a code
TILES = tuple(Tile(WARPS * turns, columns, steps * LANES * FORMAT.chunk, (WARPS, 1), 2)
              for columns, turns, steps in ((1, 1, 1), (1, 2, 1), (1, 8, 1), (1, 2, 2), (1, 8, 2), (2, 2, 1), (4, 1, 1),
                                            (4, 2, 1), (4, 8, 1), (8, 2, 1)))
"""Rows of a block, tokens, and the weights of a row that a warp reads at once."""


@dataclass(frozen=True, kw_only=True)
class GapParams(MmaParams):
    """A product with a weight of column gaps; its dtype has 2 bytes.

    Attributes:
        chunks: those of the weight.
        codes: whether values are bytes with a scale for every output.

    """

    chunks: int
    codes: bool = False

    @property
    def value_words(self) -> int:
        """Words of a chunk's values."""
        return FORMAT.chunk * (1 if self.codes else self.itemsize) // 4

    @property
    def steps_ahead(self) -> int:
        """Chunks that a lane reads at once."""
        return self.tile.depth // (LANES * FORMAT.chunk)

    @property
    def column_bytes(self) -> int:
        """Bytes of a column's activations in shared memory; those of one token are floats."""
        return max(4, 2 * self.tile.columns)


def reject(layer: GpuProduct, _archs: Architectures) -> str | None:
    """Many tokens take the weight from shared memory, where products are dense."""
    if layer.window is not None:
        return "column gaps are for layers, and a convolution's windows are many"
    return None if layer.columns <= FEW else f"column gaps are for up to {FEW} columns, here are {layer.columns}"


def refuses(product: MmaParams) -> str | None:
    """Why no kernel computes the product, or None."""
    t = product.tile
    reasons = {
        "activations of 2 bytes are gathered, and no others": product.itemsize != 2,
        f"activations are copied in pairs, and K = {product.k} is odd": product.k % 2 != 0,
        "activations are gathered by column, and neither by an order of their own nor by window":
            product.gather is not None or product.window is not None,
        "a row's sum is not shared among blocks": product.split_k > 1,
        f"{t} is not rows of {WARPS} warps, up to 8 tokens, and chunks of a warp's lanes":
            t.warps != (WARPS, 1) or t.rows % WARPS != 0 or t.columns not in (1, 2, 4, 8)
            or t.depth % (LANES * FORMAT.chunk) != 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def params(weight: np.ndarray, product: MmaParams) -> GapParams:
    """The parameters for a weight (m, depth).

    Raises:
        FormatError: no kernel computes the product.

    """
    if reason := refuses(product):
        raise FormatError(f"cannot store the weight by column gaps for {product}: {reason}")
    return GapParams(**fields_of(product), chunks=max(1, FORMAT.count(weight != 0)))


def _codes(weight: np.ndarray) -> np.ndarray:
    """The bits of a matrix, zero being zero of either sign."""
    return np.where(weight != 0, weight, 0).astype(weight.dtype).view(np.dtype(f"u{weight.itemsize}"))


def code_params(weight: np.ndarray, product: MmaParams) -> GapParams:
    """`params` where values are bytes."""
    return replace(params(weight, product), codes=True)


def quantized(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes (m, depth) from -127 to 127 and the scale of every output, float32."""
    largest = np.abs(weight.astype(np.float32)).max(axis=1, initial=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(weight.astype(np.float32) / scale[:, np.newaxis]).astype(np.int8), scale


def pack(weight: np.ndarray, p: GapParams) -> dict[str, np.ndarray]:
    """The kernel's flat arrays for a weight (m, depth) of its dtype.

    `values`; `gaps` (uint8); `starts` (int32: a row's first chunk, and the end). Where values are bytes, those are
    codes with ZERO added, and `scale` (float32) follows.
    """
    if p.codes:
        codes, scale = quantized(weight)
        arrays = _pack(np.where(weight != 0, codes.astype(np.int16) + ZERO, 0).astype(np.uint8), p)
        arrays["values"][arrays["values"] == 0] = ZERO  # entries that only move on, or fill a chunk
        return arrays | {"scale": scale}
    arrays = _pack(_codes(weight), p)
    return arrays | {"values": arrays["values"].view(weight.dtype)}


def _pack(symbols: np.ndarray, p: GapParams) -> dict[str, np.ndarray]:
    streams, stored = FORMAT.split(symbols)
    filler = p.chunks * FORMAT.chunk - len(stored)  # of a weight without any
    gaps, ends = unpack_bits(streams["gaps"]), unpack_bits(streams["ends"])
    return {"values": np.pad(stored, (0, filler)), "gaps": np.pad(gaps, (0, filler)),
            "starts": np.concatenate([[0], ends]).astype(np.int32)}


def unpack(arrays: dict[str, np.ndarray], p: GapParams) -> np.ndarray:
    """The weight (m, depth) of `pack`ed arrays."""
    ends, values = arrays["starts"][1:], arrays["values"]
    count = int(ends[-1]) * FORMAT.chunk
    streams: dict[str, Stream] = {"gaps": pack_bits(arrays["gaps"][:count], 8), "ends": pack_bits(ends, 32)}
    stored = values[:count].view(np.dtype(f"u{values.itemsize}"))
    symbols = FORMAT.join(streams, np.where(stored == ZERO, 0, stored) if p.codes else stored, (p.m, p.depth))
    if not p.codes:
        return np.asarray(symbols.view(values.dtype))
    codes = np.where(symbols != 0, symbols.astype(np.float32) - ZERO, 0)
    weight: np.ndarray = (codes * arrays["scale"][:, np.newaxis]).astype(np.dtype(p.dtype))
    return weight


def code_product(weight: np.ndarray, activations: np.ndarray, p: MmaParams) -> np.ndarray:
    """The `reference` where values are bytes."""
    codes, scale = quantized(weight.astype(np.dtype(p.dtype)))
    sums = codes.astype(np.float32) @ activations.astype(np.dtype(p.dtype)).astype(np.float32)
    product: np.ndarray = sums * scale[:, np.newaxis]
    return product


def _weight(p: GapParams) -> pipeline.Arguments:
    entries = p.chunks * FORMAT.chunk
    arrays = {"values": (entries, "uint8" if p.codes else p.dtype), "gaps": (entries, "uint8"),
              "starts": (p.m + 1, "int32")}
    return arrays | ({"scale": (p.m, "float32")} if p.codes else {})


def shared_bytes(p: GapParams) -> int:
    """Bytes of shared memory that a block takes: all activations of its tokens."""
    return p.k * p.column_bytes


def _work(p: GapParams, sizes: Mapping[str, int], weight_bytes: int) -> GpuWork:
    """A block multiplies WARPS rows at a time, the weights of each by every token."""
    values = p.chunks * FORMAT.chunk / p.m * WARPS  # of a turn
    turns = p.tile.rows // WARPS
    groups = p.grid[1]
    return GpuWork(nbytes=sum(sizes.values()) + (groups - 1) * weight_bytes, blocks=math.prod(p.grid),
                   threads=p.tile.threads, shared_bytes=shared_bytes(p), stages=turns, stages_in_flight=1,
                   stage_fmas=0.0, stage_bytes=weight_bytes / p.m * WARPS + shared_bytes(p) / turns, stage_copies=0.0,
                   stage_gathered=values, gathered_columns=p.tile.columns)


def build(p: GapParams) -> Kernel:
    """The kernel as a PrimFunc over flat buffers."""
    kernel = pipeline.prim_func(pipeline.arguments(p, _weight(p)), lambda buffers: _product(p, buffers))
    return kernel.with_attr(pipeline.BLOCKS, BLOCKS)


@dataclass(frozen=True)
class _Warp:
    """A warp at work.

    Attributes:
        params, buffers, shared: as of `block.Block`.
        lane: the thread's number in the warp.
        column: the first of its tokens.
        state: the row, the next chunk, the row's end, and the first chunk and the end of the row after it.
        values, gaps: registers of the chunks that are read ahead.

    """

    params: GapParams
    buffers: Buffers
    shared: Expr
    lane: Expr
    column: Expr
    state: Buffer
    values: Buffer
    gaps: Buffer


ROW, AT, END, NEXT, NEXT_END = range(5)  # of the state


def _product(p: GapParams, buffers: Buffers) -> None:
    blocks, groups, _ = p.grid
    with (T.launch_thread("blockIdx.x", blocks) as block, T.launch_thread("blockIdx.y", groups) as group,
          T.launch_thread("threadIdx.x", p.tile.threads) as thread):
        shared = ptx.shared_memory(shared_bytes(p))
        w = _Warp(p, buffers, shared, T.Bind(thread % LANES), T.Bind(group * p.tile.columns),
                  ptx.registers(5, "int32"), ptx.registers(p.value_words * p.steps_ahead),
                  ptx.registers(2 * p.steps_ahead))
        T.buffer_store(w.state, block * WARPS + thread // LANES, [ROW])
        _find(w, w.state[ROW], AT)
        _find(w, w.state[ROW] + blocks * WARPS, NEXT)
        _read(w)
        _share_activations(w, thread)
        ptx.barrier()
        sums, carry = ptx.registers(p.tile.columns, "float32"), ptx.registers(1)
        _clear(sums, carry)
        with T.While(w.state[ROW] < p.m):
            _step(w, sums, carry, blocks * WARPS)


def _clear(sums: Buffer, carry: Buffer) -> None:
    for token in range(int(sums.shape[0])):
        T.buffer_store(sums, T.float32(0), [token])
    T.buffer_store(carry, T.uint32(0), [0])


def _find(w: _Warp, row: Expr, to: int) -> None:
    """A row's first chunk and its end; none where there is no such row."""
    for index in range(2):
        T.buffer_store(w.state, 0, [to + index])
    with T.If(row < w.params.m), T.Then():
        for index in range(2):
            T.buffer_store(w.state, w.buffers["starts"][row + index], [to + index])


def _read(w: _Warp) -> None:
    """Start reading the chunks from the next one on; those behind the row's end are zeros without gaps."""
    for step in range(w.params.steps_ahead):
        chunk = T.Bind(w.state[AT] + step * LANES + w.lane)
        zeros = ZERO * 0x01010101 if w.params.codes else 0
        for buffer, count, word in ((w.values, w.params.value_words, zeros), (w.gaps, 2, 0)):
            for number in range(count):
                T.buffer_store(buffer, T.uint32(word), [step * count + number])
        with T.If(chunk < w.state[END]), T.Then():
            at = chunk * FORMAT.chunk
            words = w.params.value_words
            ptx.load_global(w.values, step * words, words, w.buffers["values"], at, ".cs")
            ptx.load_global(w.gaps, step * 2, 2, w.buffers["gaps"], at, ".cs")


def _share_activations(w: _Warp, thread: Expr) -> None:
    """Copy the tokens to shared memory, column by column."""
    p = w.params
    count = p.tile.columns
    words = ptx.registers(count)

    def pair(number: Expr) -> None:
        for token in range(count):
            T.buffer_store(words, T.uint32(0), [token])
            with T.If(w.column + token < p.n), T.Then():
                ptx.load_global(words, token, 1, w.buffers["x"], (w.column + token) * p.k + number * 2)
        if count == 1:
            ptx.store_floats(w.shared, number * 8, ptx.widened(words[0], p.dtype))
            return
        mixed = ptx.registers(count)
        for column, selector in enumerate((0x5410, 0x7632)):
            for word in range(count // 2):
                ptx.permute_bytes(mixed, column * (count // 2) + word, words[2 * word], words[2 * word + 1],
                                  T.uint32(selector))
        width = min(count, 4)
        for first in range(0, count, width):
            ptx.store_words(w.shared, number * 4 * count + first * 4, [mixed[first + i] for i in range(width)])

    deal(p.tile.threads, thread, p.k // 2, pair, unrolled=4)


def _step(w: _Warp, sums: Buffer, carry: Buffer, rows: int) -> None:
    """Multiply the chunks that were read, and read the next ones; `rows` lie between a warp's rows."""
    ahead, words = w.params.steps_ahead, w.params.value_words
    values, gaps = ptx.registers(words * ahead), ptx.registers(2 * ahead)
    for buffer, source in ((values, w.values), (gaps, w.gaps)):
        for word in range(int(buffer.shape[0])):
            T.buffer_store(buffer, source[word], [word])
    row = T.Bind(w.state[ROW])
    last = T.Bind(w.state[AT] + ahead * LANES >= w.state[END])
    with T.If(last):
        with T.Then():
            T.buffer_store(w.state, w.state[ROW] + rows, [ROW])
            for index in range(2):
                T.buffer_store(w.state, w.state[NEXT + index], [AT + index])
            _find(w, w.state[ROW] + rows, NEXT)
        with T.Else():
            T.buffer_store(w.state, w.state[AT] + ahead * LANES, [AT])
    _read(w)
    for step in range(ahead):
        _multiply(w, [values[step * words + i] for i in range(words)], [gaps[step * 2 + i] for i in range(2)], sums,
                  carry)
    with T.If(last), T.Then():
        _finish(w, row, sums)
        _clear(sums, carry)


def _multiply(w: _Warp, values: list[Expr], gaps: list[Expr], sums: Buffer, carry: Buffer) -> None:
    """Add the products of a chunk of every lane; `carry` is the column before the first one's."""
    p = w.params
    total, running = ptx.registers(1), ptx.registers(1)
    ptx.dot_bytes(total, 0, gaps[1], T.uint32(0x01010101), T.uint32(0))
    ptx.dot_bytes(total, 0, gaps[0], T.uint32(0x01010101), total[0])
    T.buffer_store(running, total[0], [0])
    for distance in (1, 2, 4, 8, 16):
        below = T.Bind(T.tvm_warp_shuffle_up(0xFFFFFFFF, running[0], distance, LANES, LANES))
        T.buffer_store(running, running[0] + T.if_then_else(w.lane >= distance, below, T.uint32(0)), [0])
    columns = ptx.registers(FORMAT.chunk)
    first = T.Bind(w.shared + (carry[0] + running[0] - total[0]) * T.uint32(p.column_bytes))
    for entry in range(FORMAT.chunk):
        half, place = divmod(entry, 4)
        scales = sum(p.column_bytes << 8 * byte for byte in range(place + 1))
        ptx.dot_bytes(columns, entry, gaps[half], T.uint32(scales), columns[3] if half else first)
    T.buffer_store(carry, carry[0] + T.tvm_warp_shuffle(0xFFFFFFFF, running[0], LANES - 1, LANES, LANES), [0])
    entries = [value for word in values for value in (_decoded(word) if p.codes else ptx.widened(word, p.dtype))]
    for value, column in zip(entries, range(FORMAT.chunk), strict=True):
        _add(p, T.Bind(value), columns[column], sums)


def _decoded(word: Expr) -> list[Expr]:
    """Four codes as floats: 2^23 with a byte as its last digits, less what was added."""
    floats = ptx.registers(4)
    for byte in range(4):
        ptx.permute_bytes(floats, byte, word, T.uint32(0x4B000000), T.uint32(0x7540 + byte))
    return [T.reinterpret("float32", floats[byte]) - T.float32((1 << 23) + ZERO) for byte in range(4)]


def _add(p: GapParams, value: Expr, at: Expr, sums: Buffer) -> None:
    """Add a weight's product with every token of its column, which lies at an address of shared memory."""
    if p.tile.columns == 1:
        one = ptx.registers(1, "float32")
        ptx.load_words(one, 0, 1, at, 0)
        tokens = [one[0]]
    else:
        words = ptx.registers(p.tile.columns // 2)
        ptx.load_words(words, 0, p.tile.columns // 2, at, 0)
        tokens = [token for i in range(p.tile.columns // 2) for token in ptx.widened(words[i], p.dtype)]
    for number, token in enumerate(tokens):
        T.buffer_store(sums, sums[number] + value * token, [number])


def _finish(w: _Warp, row: Expr, sums: Buffer) -> None:
    """Add the lanes' sums; a lane for every token finishes and stores."""
    p = w.params
    for distance in (16, 8, 4, 2, 1):
        for token in range(p.tile.columns):
            other = T.tvm_warp_shuffle_xor(0xFFFFFFFF, sums[token], distance, LANES, LANES)
            T.buffer_store(sums, sums[token] + other, [token])
    value = ptx.registers(1, "float32")
    T.buffer_store(value, sums[0], [0])
    for token in range(1, p.tile.columns):
        with T.If(w.lane == token), T.Then():
            T.buffer_store(value, sums[token], [0])
    column = T.Bind(w.column + w.lane)
    with T.If(T.And(w.lane < p.tile.columns, column < p.n)), T.Then():
        epilogue.finish(p, w.buffers, value, T.Bind(column * p.m + row), row)


def _packed_by(p: GapParams) -> Hashable:
    return p.chunks, p.codes


SKELETON: Skeleton[GapParams] = Skeleton(_weight, shared_bytes, build, _work)
FAMILY = assembled("gaps", (FORMAT.name,), SKELETON, pack=pack, unpack=unpack, params=params, refuses=refuses,
                   tiles=TILES, reject=reject, counted_by=lambda _: None, packed_by=_packed_by)
CODES = assembled("gaps int8", (FORMAT.name,), SKELETON, pack=pack, unpack=unpack, params=code_params, refuses=refuses,
                  tiles=TILES, reject=reject, counted_by=lambda _: None, packed_by=_packed_by, precision="int8",
                  reference=code_product)
