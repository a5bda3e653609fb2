"""N:M weight times a few dense vectors without gathers and without row pointers, on AVX-512 and AVX2.

A group is `lanes` rows, one per lane, and a window is `lanes` inputs, held in one register, from which a register
permute picks an input for every lane. All rows have equally many places in every window, so that one vector of 4-bit
positions serves eight of them and no loop has a length of its own: 2:4 on 16 lanes are 8 places a window, 4.5 bytes a
non-zero. Any weight fits whose windows are about equally full.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.formats.nm import group_counts
from sparsec.kernels.cpu.rows.layer import BYTES, PART, RowProduct, codecs, stored_product, too_many_rows
from sparsec.kernels.cpu.rows.matvec import Matvec, arguments, even_parts, finish_rows, padded_rows
from sparsec.kernels.emit.intrinsics import permuted
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.groups import PLACE_BITS, WORD_PLACES, Groups
from sparsec.kernels.packing.values import CODECS
from sparsec.target import Target

CHAINS = 8  # sums in flight, to hide the latency of FMA


@dataclass(frozen=True)
class NmParams:
    """A kernel.

    Attributes:
        shape: the product.
        slots: places of a row in a window of `lanes` inputs.
        codec: one of `CODECS`.
        lanes: rows of a group.
        threads: threads, which take equal shares of the groups.

    """

    shape: Matvec
    slots: int
    codec: str = "f32"
    lanes: int = 16
    threads: int = 1

    @property
    def groups(self) -> int:
        """Groups of rows."""
        return -(-self.shape.outputs // self.lanes)

    @property
    def windows(self) -> int:
        """Windows of inputs."""
        return -(-self.shape.inputs // self.lanes)

    @property
    def words(self) -> int:
        """Vectors of positions of a window."""
        return -(-self.slots // WORD_PLACES)


def reject(layer: RowProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if not isa.permutes:
        return "the processor has no instruction that permutes a register by variable positions"
    full = layer.memoised(slots_of, isa.lanes) == isa.lanes
    return "a row fills a window of its weight" if full else too_many_rows(layer)


def candidates(layer: RowProduct, _target: Target, isa: Isa, precision: str) -> Iterator[Option]:
    """The kernel of every codec."""
    shape = layer.shape
    for codec in codecs(layer, isa, precision):
        p = NmParams(shape, layer.memoised(slots_of, isa.lanes), codec, isa.lanes, isa.threads)
        windows = p.groups * p.windows
        slots = windows * p.slots
        nbytes = isa.lanes * (BYTES[codec] * slots + 4 * windows * p.words)
        work = Work(slots * shape.batch, slots + windows * (p.words + shape.batch), p.groups, memory_bytes=nbytes,
                    kernel=f"nm/{codec}", pixels=shape.batch, density=p.slots / isa.lanes, permutes=slots * shape.batch)
        n, m = layer.memoised(pattern, p.slots, isa.lanes)
        fill = layer.nonzeros / (slots * isa.lanes)
        yield Option(f"nm {n}:{m}", f"nm/{codec}", f"slots={p.slots} fill={fill:.2f}", p, nbytes, work, codec)


def slots_of(weight: np.ndarray, lanes: int) -> int:
    """The places that a row needs in the fullest window of `lanes` inputs."""
    return max(1, _fullest(weight, lanes, lanes))


def _fullest(weight: np.ndarray, size: int, enough: int) -> int:
    """The most non-zeros in a group of `size` elements of a row; rows behind one with `enough` are not looked at."""
    rows, missing, fullest = max(1, PART // max(1, weight.shape[1])), -weight.shape[1] % size, 0
    for start in range(0, len(weight), rows):
        used = weight[start:start + rows] != 0
        padded = np.pad(used, ((0, 0), (0, missing))) if missing else used
        fullest = max(fullest, int(group_counts(padded, size).max(initial=0)))
        if fullest >= enough:
            break
    return fullest


def pattern(weight: np.ndarray, slots: int, lanes: int) -> tuple[int, int]:
    """The N and the least M of a weight with so many places in every window."""
    for m in (2, 4, 8):
        n, rest = divmod(slots * m, lanes)
        if m < lanes and rest == 0 and weight.shape[1] % m == 0 and _fullest(weight, m, n + 1) <= n:
            return n, m
    return slots, lanes


def recipe(params: NmParams) -> Groups:
    """What the kernel reads.

    `places` (int32): group x window x word x lane, the positions of up to eight places from the lowest bits on;
    `values`: group x window x slot x lane.
    """
    return Groups(params.codec, params.slots, params.lanes)


def build(params: NmParams, _isa: Isa) -> Kernel:
    """The kernel: (places, values, bias, x, [residual]) -> y."""
    vectors = params.groups * params.windows * params.lanes
    weight: dict[str, tuple[int | None, str]] = {
        "places": (vectors * params.words, "int32"), "values": (vectors * params.slots, CODECS[params.codec])}
    return kernel(arguments(params.shape, **weight), lambda b: _emit(b, params))


def _emit(b: Buffers, p: NmParams) -> None:
    x, stride = padded_rows(b, p.shape, p.windows * p.lanes, p.lanes)
    height = p.groups * p.lanes
    sums = b["y"] if height == p.shape.outputs else T.alloc_buffer((p.shape.batch * height,), "float32")

    even_parts(p.groups, p.threads, lambda group: _group(b, p, group, x, stride, sums))
    finish_rows(b, p.shape, sums, height, p.lanes)


def _group(b: Buffers, p: NmParams, group: Expr, x: Buffer, stride: int, sums: Buffer) -> None:
    """The products of one group, into `sums` (batch, groups * lanes)."""
    lanes, batch = p.lanes, p.shape.batch
    chains = max(1, min(p.slots, CHAINS // batch))
    totals = registers(batch * chains, lanes)
    for i in range(batch * chains):
        store(totals, i * lanes, splat(0.0, lanes))
    first = T.Bind(T.Cast("int64", group) * p.windows)
    with T.serial(0, p.windows) as index:
        window = T.Bind(first + index)
        inputs = [T.Bind(load(x, n * stride + index * lanes, lanes)) for n in range(batch)]
        for slot in range(p.slots):
            if slot % WORD_PLACES == 0:
                places = T.Bind(load(b["places"], (window * p.words + slot // WORD_PLACES) * lanes, lanes))
            place = T.Bind(T.shift_right(places, splat(T.int32(slot % WORD_PLACES * PLACE_BITS), lanes)))
            value = T.Bind(T.Cast(f"float32x{lanes}", load(b["values"], (window * p.slots + slot) * lanes, lanes)))
            for n in range(batch):
                at = (n * chains + slot % chains) * lanes
                store(totals, at, load(totals, at, lanes) + value * permuted(inputs[n], place, lanes))
    for n in range(batch):
        total = load(totals, n * chains * lanes, lanes)
        for chain in range(1, chains):
            total = total + load(totals, (n * chains + chain) * lanes, lanes)
        store(sums, n * p.groups * lanes + group * lanes, total)


FAMILY = Family("nm", RowProduct, ("nm",), "fp32", candidates, recipe, build, stored_product, reject)
