"""Images rounded to the codes of dynamic quantisation and back: `sparsec::FakeQuantize`, in two passes.

No padding is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.codes.quantize import LARGEST, divided, range_kernel, widen_range
from sparsec.kernels.cpu.images.padded import load_lanes, padded_rows, write_images
from sparsec.kernels.emit.codes import llvm_codes, whole
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, splat


@dataclass(frozen=True)
class FakeQuantizeParams:
    """The layouts of X and Y, of the same shape."""

    source: PaddedFlat
    target: PaddedFlat


def build_range(params: FakeQuantizeParams, isa: Isa) -> Kernel:
    """The kernel: x -> (scale, zero point), both float32 (1,)."""
    layout, lanes = params.source, isa.lanes
    whole_vectors = layout.width // lanes

    def look(b: Buffers, row: Expr, found: Buffer) -> None:
        image, h = T.floordiv(row, layout.height), T.floormod(row, layout.height)
        start = T.Bind(padded_rows(layout).start(T.floormod(image, layout.batch), T.floordiv(image, layout.batch), h))
        with T.serial(0, whole_vectors) as vector:
            widen_range(found, load_lanes(b["x"], start + vector * lanes, lanes, 0, lanes))
        if layout.width % lanes:
            widen_range(found, load_lanes(b["x"], start + whole_vectors * lanes, lanes, 0, layout.width % lanes))

    return range_kernel(layout.size, layout.channels * layout.batch * layout.height, look, isa)


def build(params: FakeQuantizeParams, isa: Isa) -> Kernel:
    """The kernel: (scale, zero point, x) -> y, the first two float32 (1,)."""
    source, target, lanes = params.source, params.target, isa.lanes

    def body(b: Buffers) -> None:
        zero = T.Bind(splat(b["zero_point"][0], lanes))

        def vector(units: Callable[[Expr], Expr], n: Expr, c: Expr, h: Expr, t: Expr) -> Expr:
            end = source.width - t * lanes if isinstance(t, int) else lanes
            x = load_lanes(b["x"], padded_rows(source).start(n, c, h) + t * lanes, lanes, 0, end)
            code = T.min(splat(float(LARGEST), lanes), T.max(splat(0.0, lanes), whole(units(x)) + zero))
            return (code - zero) * splat(b["scale"][0], lanes)

        for units in divided(b["scale"][0], isa):
            write_images(b["y"], target, isa, target.width // lanes, partial(vector, units))

    return kernel({"scale": (1, "float32"), "zero_point": (1, "float32"), "x": (source.size, "float32"),
                   "y": (target.size, "float32")}, body, llvm_codes(isa))
