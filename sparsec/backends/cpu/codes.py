"""The products of codes as options for a layer: what follows a quantised product, and every tiling worth pricing."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.relax.context import KernelCall
from sparsec.backends.relax.weights import constant_vector
from sparsec.cost.option import Option
from sparsec.graph.codes import offset_of
from sparsec.graph.layout import PaddedFlat
from sparsec.graph.nodes import operand
from sparsec.graph.operators import integers, products
from sparsec.kernels.cpu.codes import dense, sparse
from sparsec.kernels.cpu.codes.finish import Finish, Quantised
from sparsec.kernels.cpu.codes.walk import Tiling, masks
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit.codes import FOUR
from sparsec.kernels.emit.isa import Isa
from sparsec.target import Target

ROW_BLOCKS = (1, 2, 4, 8)
GROUPS = (1, 2, 4, 8)
VECTORS = (1, 2)
DENSE_BLOCKS = (6, 4, 3, 2, 1)
LARGEST = 255  # byte
L1_SHARES = (0.5, 0.9)
TILE_SHARE = 0.25  # of the L2 cache, which the interleaved tile of a dense product may fill


@dataclass(frozen=True)
class CodesLayer:
    """A constant quantised weight with its geometry.

    Attributes:
        weight: (outputs, channels * taps), int8.
        stencil: the geometry.
        finish: what follows the sums, and
        numbers: its constants.
        target: layout of the output where it is an image.

    """

    weight: np.ndarray = field(repr=False)
    stencil: Stencil
    finish: Finish
    numbers: Quantised = field(repr=False)
    target: PaddedFlat | None = None

    @functools.cached_property
    def nonzeros(self) -> int:
        """The weights that are not zero."""
        return int(np.count_nonzero(self.weight))

    @property
    def constants(self) -> list[np.ndarray]:
        """The arrays that follow those of the weight."""
        clean = self.target is not None and self.target.clean
        return [*self.numbers.arrays(self.finish), *(masks(self.target) if clean and self.target is not None else [])]


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def finish_of(node: ir.Node, weight: np.ndarray) -> tuple[Finish, Quantised]:
    """What follows the product of a QConv or QMatMul with a weight (outputs, columns), less its zero points."""
    dynamic = len(node.inputs) > products.X_SCALE and node.inputs[products.X_SCALE] is not None
    y_type = attribute(node, "y_type", "uint8")
    residual = len(node.inputs) > products.RESIDUAL and node.inputs[products.RESIDUAL] is not None
    scales = constant_vector(node, products.SCALE)
    assert scales is not None
    bias, addends = (constant_vector(node, place) for place in (products.BIAS, products.FLOAT_BIAS))
    totals = weight.sum(axis=1, dtype=np.int64)
    begins = np.zeros(len(weight), np.int64) if bias is None else bias.astype(np.int64)
    if not dynamic:
        scales = np.float32(attribute(node, "x_scale", 1.0)) * scales
        begins = begins - (attribute(node, "x_zero_point", 0) + offset_of(operand(node, 0).dtype)) * totals
    if y_type == "float32":
        numbers = Quantised(scales, begins, totals, np.zeros(len(weight), np.float32) if addends is None else addends)
        return Finish(True, residual, activation=attribute(node, "activation", "none"),
                      alpha=attribute(node, "alpha", 0.0), beta=attribute(node, "beta", 0.0), dynamic=dynamic), numbers
    numbers = _codes(node, scales, begins, totals, residual=residual)
    clamped = numbers.low > 0 or numbers.high < LARGEST
    return Finish(False, residual, clamped, numbers.is_far(weight), dynamic=dynamic), numbers


def bounds_of(node: ir.Node, letter: str) -> tuple[int, int, int]:
    """Zero point, least and largest code of a result (y) or of a product before its residual (p), as they lie."""
    prefix, dtype = ("" if letter == "y" else "p_"), attribute(node, f"{letter}_type", "uint8")
    low, high = integers.limits(dtype, attribute(node, f"{prefix}low", -128), attribute(node, f"{prefix}high", 255))
    offset = offset_of(dtype)
    return attribute(node, f"{letter}_zero_point", 0) + offset, low + offset, high + offset


def _codes(node: ir.Node, scales: np.ndarray, begins: np.ndarray, totals: np.ndarray, *, residual: bool) -> Quantised:
    y_scale, none = attribute(node, "y_scale", 1.0), np.zeros(0, np.float32)
    y = bounds_of(node, "y")
    if not residual:
        return Quantised(np.asarray(integers.units(scales, y_scale)), begins, totals, none, *y)
    p_scale, r_scale = attribute(node, "p_scale", 1.0), attribute(node, "r_scale", 1.0)
    r_zero = attribute(node, "r_zero_point", 0) + offset_of(operand(node, products.RESIDUAL).dtype)
    return Quantised(np.asarray(integers.units(scales, p_scale)), begins, totals, none, *y, *bounds_of(node, "p"),
                     r_zero, float(integers.units(p_scale, y_scale)), float(integers.units(r_scale, y_scale)))


def options(layer: CodesLayer, target: Target, isa: Isa) -> list[Option]:
    """Every tiling worth pricing."""
    offers = list(_dense(layer, target, isa))
    for block in ROW_BLOCKS:
        if len(layer.weight) % block == 0:
            offers += _sparse(layer, target, isa, block)
    return offers


def _widths(stencil: Stencil, most: int) -> list[int]:
    """Vectors of a tile: those that the segments come out even with, or compute few vectors twice."""
    if stencil.segments > 1:
        return [v for v in VECTORS if stencil.vectors % v == 0 and v <= most]
    return [v for v in VECTORS if v <= min(most, stencil.vectors)]


def _tilings(layer: CodesLayer, target: Target, isa: Isa, vectors: int) -> Iterator[Tiling]:
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
    """The chunk, evened out over all channels."""
    return -(-channels // -(-channels // min(max(1, chunk), channels)))


def _sparse(layer: CodesLayer, target: Target, isa: Isa, block: int) -> Iterator[Option]:
    rows = layer.weight.reshape(-1, block, layer.weight.shape[1])
    nonzero = int(np.count_nonzero((rows != 0).any(axis=1)))
    free = isa.registers - (10 if isa.vnni else 12) if isa.registers > 16 else 8
    for vectors in _widths(layer.stencil, max(1, free // (FOUR * block))):
        groups = [g for g in GROUPS if g * block * FOUR * vectors <= free and g * isa.threads <= len(rows)] or (
            [1] if block == vectors == 1 else [])
        for tiling in dict.fromkeys(_tilings(layer, target, isa, vectors)) if groups else ():
            for group in groups:
                params = sparse.SparseParams(tiling, block, group)
                index = 4 if params.word == "int32" else 2
                yield Option("csr" if block == 1 else f"bcsr {block}x1", f"qspmm/{tiling.mode}",
                             f"V={vectors} chunk={tiling.chunk} G={group}", params,
                             nonzero * (block + index) + 4 * len(rows), sparse.work(params, nonzero, isa), "int8")


def _dense(layer: CodesLayer, target: Target, isa: Isa) -> Iterator[Option]:
    s = layer.stencil
    blocks = [r for r in DENSE_BLOCKS if r <= s.outputs and (r + 1) * FOUR + 2 <= isa.registers][:2] or [1]
    for size in {s.channels, max(FOUR, int(TILE_SHARE * target.l2_bytes) // (s.lanes * len(s.taps)) // FOUR * FOUR)}:
        chunk = s.channels if size >= s.channels else -(-balanced(s.channels, size) // FOUR) * FOUR
        for block in blocks:
            params = dense.DenseParams(Tiling(s, layer.finish, "direct", 1, chunk, isa.threads), block)
            yield Option("dense", "qgemm", f"V=1 chunk={chunk} R={block}", params, layer.weight.size,
                         dense.work(params, isa), "int8")


FAMILIES: dict[type, Any] = {sparse.SparseParams: sparse, dense.DenseParams: dense}


@functools.lru_cache(maxsize=512)
def build(params: Any, isa: Isa) -> Any:
    """The kernel; layers with equal parameters share the object, and so the compiled code."""
    return FAMILIES[type(params)].build(params, isa)


def call(layer: CodesLayer, params: Any, isa: Isa) -> KernelCall:
    """The kernel of an option with the layer's constants."""
    packed = FAMILIES[type(params)].pack(layer.weight, params)
    return call_of(build(params, isa), [*packed.values(), *layer.constants], layer.stencil, layer.finish)


def call_of(kernel: Any, constants: list[np.ndarray], s: Stencil, finish: Finish) -> KernelCall:
    """A kernel over a stencil with its constants."""
    inputs = finish.inputs(s.x_size, s.y_size).values()
    return KernelCall(kernel, tuple(constants), tuple(int(size or 0) for size, _ in inputs), s.y_size,
                      tuple(dtype for _, dtype in inputs), finish.dtype)
