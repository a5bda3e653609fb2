"""The kernel families for a linear layer on few rows of activations (batch 1 above all)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.layer import CpuFamily
from sparsec.kernels.cpu.rows import (
    bitmap_bf16,
    bitmap_vector,
    csr_vector,
    gemv,
    gemv_int4,
    gemv_int8,
    gemv_skipping,
    nm_vector,
    well,
    well_int8,
)
from sparsec.kernels.cpu.rows.layer import RowProduct
from sparsec.kernels.emit.isa import Isa
from sparsec.target import Target

LAYERS = 64  # of a network, as many as timing a small kernel goes through
L3_SIZES = 16  # times the L2 cache, which every L3 cache holds
Candidates = Callable[[RowProduct, Target, Isa, str], Iterable[Option]]


def _on_fewer_threads(candidates: Candidates, layer: RowProduct, target: Target, isa: Isa,
                      precision: str) -> Iterator[Option]:
    """The candidates, and for small layers those by one thread, rather than waking the others."""
    for each in candidates(layer, target, isa, precision):
        yield replace(each, work=_kept(each.cpu_work, target.l2_bytes))
    for each in candidates(layer, target, replace(isa, threads=1), precision) if isa.threads > 1 else ():
        yield replace(each, detail=f"{each.detail} one thread",
                      work=_kept(replace(each.cpu_work, serial=True), target.l2_bytes))


def _kept(work: Work, l2_bytes: int) -> Work:
    """The work of a layer whose weight stays in a cache where so many of its size fit there."""
    network, stored = LAYERS * work.memory_bytes, work.memory_bytes
    if network > L3_SIZES * l2_bytes:
        return work
    near = network <= l2_bytes
    return replace(work, l2_bytes=stored if near else 0, l3_bytes=0 if near else stored, memory_bytes=0)


FAMILIES: dict[str, CpuFamily] = {
    family.name: replace(family, candidates=partial(_on_fewer_threads, family.candidates)) for family in (
        csr_vector.FAMILY,
        gemv.FAMILY,
        gemv_skipping.FAMILY,
        well.FAMILY,
        nm_vector.FAMILY,
        bitmap_vector.FAMILY,
        bitmap_bf16.FAMILY,
        gemv_int8.FAMILY,
        gemv_int8.BITMAP,
        gemv_int4.FAMILY,
        well_int8.FAMILY,
    )}
