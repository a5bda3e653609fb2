"""The tilings that products of codes consider for a layer."""

from __future__ import annotations

from collections.abc import Iterator

from sparsec.kernels.cpu.codes.layer import CodesProduct
from sparsec.kernels.cpu.codes.walk import Tiling
from sparsec.kernels.cpu.products import tilings as floats
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit.isa import Isa
from sparsec.target import Target

VECTORS = (1, 2)
L1_SHARES = (0.5, 0.9)
TILE_SHARE = 0.25  # of the L2 cache, which the interleaved tile of a dense product may fill


def widths(stencil: Stencil, most: int) -> list[int]:
    """Vectors of a tile: those that the segments come out even with, or compute few vectors twice."""
    if stencil.segments > 1:
        return [v for v in VECTORS if stencil.vectors % v == 0 and v <= most]
    return [v for v in VECTORS if v <= min(most, stencil.vectors)]


def tilings(layer: CodesProduct, target: Target, isa: Isa, vectors: int) -> Iterator[Tiling]:
    """The tilings with tiles of so many vectors, some of them twice."""
    s = layer.stencil
    whole = Tiling(s, layer.finish, "direct", vectors, s.channels, isa.threads)
    lines = whole.tile + (s.lanes * min(len(s.taps), 3) if len(s.taps) > 1 else 0)  # of a channel, about
    for size in {s.channels, *(int(share * target.l1_bytes) // lines for share in L1_SHARES)}:
        yield Tiling(s, layer.finish, "direct", vectors, balanced(s.channels, size), isa.threads)
    halo = Tiling(s, layer.finish, "halo", vectors, s.channels, isa.threads)
    last = s.x_origin + (s.channels - 1) * s.x_channel_stride + min(s.taps) + (s.vectors - vectors) * s.lanes
    last += (s.segments - 1) * s.x_segment_stride
    if s.x_channel_stride > halo.halo_stride and last + halo.halo_stride <= s.x_size:
        for share in (*L1_SHARES, TILE_SHARE * target.l2_bytes / target.l1_bytes):
            size = int(share * target.l1_bytes) // halo.halo_stride
            yield Tiling(s, layer.finish, "halo", vectors, balanced(s.channels, size), isa.threads)


def balanced(channels: int, chunk: int) -> int:
    """The chunk, at least one channel, evened out over all."""
    return floats.balanced(channels, max(1, chunk))
