"""The tilings that product kernels consider for a layer, dense and sparse ones alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from sparsec.kernels.cpu.products import separable
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.target import Target

DENSE_BLOCKS = (1, 2, 3, 4, 5, 6, 7, 8, 12)
"""Rows of a dense kernel's register block."""
L1_SHARES = (0.5, 0.85)
"""Shares of the L1 cache that a chunk's tile may fill."""
SPARSE_SHARES = (*L1_SHARES, 1.2)
"""Those that it may take where channels lie one behind the other and the weight is sparse: a group of rows reads a part
of the tile at a time."""
MAX_VECTORS = 20
NARROW, TWICE = 6, 1.04  # vectors of tiles of which the last may be narrower, and what those compute of all else
HELD_SIZES = 2  # of bands that are worth considering
FAR_SHARE = 0.5  # of the L2 cache: activations that take more are gone when the next layer reads them
JOINED = 2.0  # times the L2 cache: larger images between two convolutions are not written out
HELD_SHARE = 0.6  # of the L2 cache: the rows of such an image that are held
BAND_ROWS = 128  # rows that a band has at least


def tile_vectors(stencil: Stencil, multiple: int = 1, threads: int = 1) -> list[int]:
    """Tile widths that compute few vectors twice, multiples of some number; there may be none but for 1.

    Every thread gets tiles of its own where there are enough vectors: what it reads of the layer before, it wrote.
    """
    total = stencil.vectors
    widths = range(multiple, min(total, MAX_VECTORS) + 1, multiple)
    enough = [v for v in widths if stencil.segments * -(-total // v) >= threads] or list(widths)
    if stencil.segments > 1:
        return [v for v in enough if total % v == 0]
    return [v for v in enough if -(-total // v) * v <= 1.1 * total] or enough[-1:]


def ending(stencil: Stencil) -> list[int]:
    """Tile widths that are worth a last tile of what they leave: those that else compute many vectors twice."""
    total = stencil.vectors
    if stencil.segments > 1 or len(stencil.taps) > 1:
        return []
    return [v for v in range(2, min(total, NARROW + 1)) if -(-total // v) * v > TWICE * total]


def sparse_tilings(layer: StencilProduct, target: Target, isa: Isa) -> Iterator[tuple[int, list[Tiling], list[Tiling]]]:
    """For every tile width its tilings for a sparse weight, those that overlap or come out even and those that end."""
    even, ends = tile_vectors(layer.stencil, threads=isa.threads), ending(layer.stencil)
    for vectors in sorted({*even, *ends}):
        found = list(tilings(layer, target, isa, vectors, SPARSE_SHARES))
        parts = [replace(each, ends=True) for each in found if vectors in ends and each.mode in ("direct", "im2col")]
        yield vectors, found if vectors in even else [], parts


def tilings(layer: StencilProduct, target: Target, isa: Isa, vectors: int,
            shares: tuple[float, ...] = L1_SHARES) -> Iterator[Tiling]:
    """The tilings of float32 activations with tiles of so many vectors, whose chunks take shares of the L1 cache."""
    s = layer.stencil
    packed = s.packed(vectors)
    width = 4 * (s.x_channel_stride if packed else vectors * s.lanes)
    large = 4 * (s.x_size + s.y_size) > FAR_SHARE * target.l2_bytes
    far = large and s.segments == 1 and vectors < s.vectors
    chunks = {"direct": {s.channels}}
    if packed or len(s.taps) == 1:
        chunks["direct"] |= {int(share * target.l1_bytes) // width for share in (shares if packed else L1_SHARES)}
    if not packed:
        aligned = aligned_copies(s, layer.epilogue, vectors)
        copied = {mode: 4 * Tiling(s, layer.epilogue, mode, vectors, 1).copied for mode in (aligned, "halo")}
        chunks[aligned] = {int(share * target.l1_bytes) // copied[aligned] for share in shares}
        if len(s.taps) > 1 and copied["halo"] < copied[aligned]:
            chunks["halo"] = {int(share * target.l1_bytes) // copied["halo"] for share in shares}
    for mode, sizes in chunks.items():
        for size in {balanced(s.channels, max(1, size)) for size in sizes}:
            for bands in _bands(layer, target, width):
                yield Tiling(s, layer.epilogue, mode, vectors, size, parts=isa.threads * bands, bands=bands, far=far,
                             cold=large and not far)


def aligned_copies(stencil: Stencil, epilogue: Epilogue, vectors: int) -> str:
    """The mode of a tiling that copies less of those whose product loads whole vectors: "im2col" or "mec"."""
    return min(("im2col", "mec"), key=lambda mode: Tiling(stencil, epilogue, mode, vectors, 1).copied)


def joined(layer: StencilProduct, target: Target, isa: Isa, whole: Iterable[Tiling]) -> list[Tiling]:
    """Those of `whole` in bands of rows that the depthwise convolution behind is computed in, too.

    Only where the image between is far larger than the L2 cache: else the L3 cache brings it while both multiply.
    """
    s, behind = layer.stencil, layer.behind
    if behind is None or 4 * s.y_size <= JOINED * target.l2_bytes:
        return []
    found: dict[Tiling, None] = {}
    for t in whole:
        held = separable.bands_of(behind.params, t.vectors, isa.threads, int(HELD_SHARE * target.l2_bytes))
        for bands in held[:HELD_SIZES]:
            own = replace(s, y_origin=bands.scratch.origin, y_row_stride=bands.scratch.channel_stride,
                          y_size=behind.params.window.target.size)
            found[replace(t, stencil=own, parts=1, bands=1, cold=False, joined=bands)] = None
    return list(found)


def sectioned(whole: Iterable[Tiling], groups: int) -> list[Tiling]:
    """Tilings in sections of a grouped convolution: one for every group, and as few as the chunks of `whole` allow."""
    found: dict[Tiling, None] = {}
    for t in whole if groups > 1 else ():
        channels = t.stencil.channels
        fewest = next(n for n in range(1, groups + 1) if groups % n == 0 and (t.chunk * n >= channels or n == groups))
        for sections in {fewest, groups} - {1}:
            own = channels // sections
            chunk = next(c for c in range(min(t.chunk, own), 0, -1) if own % c == 0)
            found[replace(t, chunk=chunk, sections=sections)] = None
    return list(found)


def _bands(layer: StencilProduct, target: Target, width: int) -> set[int]:
    """Numbers of bands worth considering: one, and what lets a band's weights and a tile's sums share the L2 cache."""
    rows = len(layer.weight)
    held = 6 * layer.nonzeros + rows * width
    bands = -(-held // (target.l2_bytes * 5 // 8))
    return {1, min(bands, rows // BAND_ROWS)} if layer.stencil.segments > 1 and rows >= 2 * BAND_ROWS else {1}


def balanced(channels: int, chunk: int) -> int:
    """The chunk, evened out over all channels."""
    return -(-channels // -(-channels // min(chunk, channels)))
