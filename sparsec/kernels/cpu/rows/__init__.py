"""The kernel families for a linear layer on few rows of activations (batch 1 above all)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from sparsec.cost.option import Option, Work
from sparsec.cost.roofline import CACHED
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

IN_L2 = (0.5, 1.0)
"""Times the L2 cache: networks of which all weights stay there, and none, on a Zen 4."""
BEYOND_L3 = (8.0, 32.0)
"""Times the L2 cache: networks of which no weight comes from memory, and every one does."""
Candidates = Callable[[RowProduct, Target, Isa, str], Iterable[Option]]


def _on_fewer_threads(candidates: Candidates, layer: RowProduct, target: Target, isa: Isa,
                      precision: str) -> Iterator[Option]:
    """The candidates, and for small layers those by one thread, rather than waking the others."""
    for each in candidates(layer, target, isa, precision):
        yield replace(each, work=_kept(each.cpu_work, layer.network, target.l2_bytes))
    for each in candidates(layer, target, replace(isa, threads=1), precision) if isa.threads > 1 else ():
        yield replace(each, detail=f"{each.detail} one thread",
                      work=_kept(replace(each.cpu_work, serial=True), layer.network, target.l2_bytes))


def _kept(work: Work, network: float, l2_bytes: int) -> Work:
    """The work of a layer whose weight comes from where the whole network, stored alike, stays between two inferences.

    `network` counts weights of this one's size.
    """
    stored = work.memory_bytes
    size = network * stored / l2_bytes
    near, far = (float(np.interp(size, at, share)) * stored for at, share in ((IN_L2, (1, 0)), (BEYOND_L3, (0, 1))))
    kernel = work.kernel if far > stored / 2 or not work.kernel else work.kernel + CACHED
    return replace(work, l2_bytes=work.l2_bytes + near, l3_bytes=stored - near - far, memory_bytes=far, kernel=kernel)


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
        gemv_int4.BITMAP,
        well_int8.FAMILY,
    )}
