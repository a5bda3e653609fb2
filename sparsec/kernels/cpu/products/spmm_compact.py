"""Sparse convolutions of images that one vector holds, such as 4 x 4 or 2 x 2 pixels, without what lies between rows.

Rows of a padded image stand apart, so that one of 4 x 4 pixels takes two vectors, and of one of 2 x 2 pixels four lanes
of ten are pixels. Here every tap of every channel is copied once, its pixels side by side, and is a column of the
weight: the product is that of a linear layer over as many tokens as there are pixels (`spmm.py`), whose sums are dealt
back into rows. Copies take little beside what multiplies them, a column of the weight for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option
from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.images.padded import fill
from sparsec.kernels.cpu.products import spmm
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.row_blocks import recipe
from sparsec.kernels.cpu.products.spmm import AHEAD_SHARE, LINE, MAX_AHEAD, SpmmParams
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Body, Buffer, Buffers, Expr, Frame, Kernel, framed, load, splat, store
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.row_groups import RowGroups
from sparsec.target import Target

COPY = 4  # loads that take as long as copying a vector
MOST = 2  # vectors that a copied one comes from


@dataclass(frozen=True)
class CompactParams:
    """A kernel.

    Attributes:
        stencil: the convolution.
        target: layout of its output.
        product: of the copied taps, whose pixels are tokens of one vector.

    """

    stencil: Stencil
    target: PaddedFlat
    product: SpmmParams


def places(target: PaddedFlat) -> list[int]:
    """Where an image's pixels lie, counted from the first."""
    return [(n * target.pitch + h) * target.row_stride + w for n in range(target.batch) for h in range(target.height)
            for w in range(target.width)]


def reject(layer: StencilProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    s, target = layer.stencil, layer.target
    if target is None or layer.epilogue.residual or layer.groups > 1:
        return "it computes images without residuals and groups"
    pixels = places(target)
    if len(pixels) > s.lanes or pixels[-1] >= MOST * s.lanes or s.segments > 1:
        return "it computes images that one vector holds"
    half = isa.halves and 2 * len(pixels) <= s.lanes < 2 * (s.lanes - s.tail)
    return None if s.vectors > 1 or half else "what lies between the pixels takes no time"


def compact(layer: StencilProduct, target: PaddedFlat) -> StencilProduct:
    """The product of the copied taps."""
    s, pixels = layer.stencil, target.batch * target.height * target.width
    own = Stencil(s.inner, (0,), s.outputs, s.lanes, 1, 1, 0, s.lanes, 0, s.inner * s.lanes, 0, s.lanes, 0,
                  s.outputs * s.lanes, tail=s.lanes - pixels)
    return replace(layer, stencil=own, target=None, ranges=None, behind=None)


def candidates(layer: StencilProduct, target: Target, isa: Isa, precision: str) -> Iterator[Option]:
    """Those of the product of the copied taps, with the copies."""
    assert layer.target is not None  # see `reject`
    for option in spmm.candidates(compact(layer, layer.target), target, isa, precision):
        params, work, s = option.params, option.cpu_work, layer.stencil
        assert isinstance(params, SpmmParams)
        loads = work.loads + COPY * (s.inner + s.vectors * s.outputs)
        memory = work.memory_bytes + 4 * (s.x_size + s.y_size - s.lanes * (s.inner + s.outputs))
        near = replace(params.tiling, far=False, cold=False)  # what is copied, and sums, are asked for by nobody
        product = replace(params, tiling=near, ahead=_ahead(params, layer.nonzeros, target))
        own = CompactParams(s, layer.target, product)
        yield replace(option, kernel="spmm/compact", params=own,
                      work=replace(work, loads=loads, memory_bytes=max(0.0, memory)))


def _ahead(params: SpmmParams, nonzeros: int, target: Target) -> int:
    """The `ahead` of a product: groups end soon, but these layers are little more than their weights."""
    if 4 * nonzeros < AHEAD_SHARE * target.l2_bytes:
        return 0
    lines = max(1, round(4 * nonzeros * params.group * params.block / (
        LINE * params.tiling.stencil.outputs * params.tiling.turns)))
    return lines if lines <= MAX_AHEAD else 0


def pack(params: CompactParams) -> RowGroups:
    """As `spmm.py`."""
    return recipe(params.product)


def build(params: CompactParams, isa: Isa) -> Kernel:
    """The kernel: (starts, rows, indices, values, bias, [mask], x) -> y, of which the mask says nothing new."""
    s = params.stencil
    arguments: dict[str, tuple[int | None, str]] = {"mask": (s.vectors * s.lanes, "int32")} if s.masked else {}
    arguments |= {"x": (s.x_size, "float32"), "y": (s.y_size, "float32")}
    with framed(Frame(("x", "y"), arguments, lambda b, product: _emit(b, params, isa, product))):
        return spmm.build(params.product, isa)


def _emit(b: Buffers, p: CompactParams, isa: Isa, product: Body) -> None:
    s = p.stencil
    taps, sums = (T.alloc_buffer((rows * s.lanes,), "float32") for rows in (s.inner, s.outputs))
    with shared(s.channels, isa) as c:
        _copy(b["x"], taps, p, c)
    product({**b, "x": taps, "y": sums})
    with shared(s.outputs, isa) as row:
        _deal(sums, b["y"], p, row)


def _copy(x: Buffer, taps: Buffer, p: CompactParams, c: Expr) -> None:
    """The pixels of every tap of a channel, side by side; lanes behind the last pixel hold the first one."""
    s, pixels = p.stencil, places(p.target)
    order = pixels + [0] * (s.lanes - len(pixels))
    count = 1 + pixels[-1] // s.lanes
    start = T.Bind(s.x_origin + c * s.x_channel_stride)
    for number, tap in enumerate(s.taps):
        read = [load(x, start + tap + v * s.lanes, s.lanes) for v in range(count)]
        store(taps, (c * len(s.taps) + number) * s.lanes, T.Shuffle(read, order))


def _deal(sums: Buffer, y: Buffer, p: CompactParams, row: Expr) -> None:
    """A row of the output with zeros between its pixels, and around them where the layout is clean."""
    s, pixels = p.stencil, places(p.target)
    first, end = row * s.y_row_stride, s.y_origin + s.vectors * s.lanes
    if s.masked:
        fill(y, first, s.y_origin, s.lanes)
        fill(y, first + end, s.y_row_stride - end, s.lanes)
    value, zeros = T.Bind(load(sums, row * s.lanes, s.lanes)), splat(0.0, s.lanes)
    for v in range(s.vectors):
        lanes = [pixels.index(at) if at in pixels else s.lanes for at in range(v * s.lanes, (v + 1) * s.lanes)]
        store(y, first + s.y_origin + v * s.lanes, T.Shuffle([value, zeros], lanes))


FAMILY = Family("spmm/compact", StencilProduct, ("csr", "bcsr"), "fp32", candidates, pack, build, float_product, reject)
