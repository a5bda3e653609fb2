"""The kernels for a linear layer on few rows of activations (batch 1 above all), as options."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.relax.context import KernelCall
from sparsec.backends.relax.weights import bias_vector, epilogue_of, weight_array
from sparsec.cost.option import Option, Work, allows
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cpu.rows import (
    bitmap_vector,
    csr_vector,
    gemv,
    gemv_int8,
    matvec_int8,
    nm_vector,
    well,
    well_int8,
)
from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.kernels.emit.isa import Isa
from sparsec.target import Target

MAX_ROWS = 8  # rows of activations that a sparse kernel keeps in flight
LAYERS = 64  # of a network, as many as timing a small kernel goes through
L3_SIZES = 16  # times the L2 cache, which every L3 cache holds
HALF_ERROR = 2.0 ** -8  # of a value over its row's largest: what bf16 loses in rounding
_TINY = 1e-30
BYTES = {"f32": 4, "f16": 2}  # of a stored value


def on_the_left(node: ir.Node) -> bool:
    """Whether the weight of a sparsec::MatMul multiplies columns."""
    return bool(node.attributes.get_string("side", "right") == "left")


def shape_of(node: ir.Node) -> Matvec:
    """The product of a sparsec::MatMul whose activations lie row-major, transposed where the weight is on the left."""
    weight, epilogue = weight_array(node), epilogue_of(node)
    sizes = static_shape(node.inputs[0]) or ()
    rows = math.prod((*sizes[:-2], sizes[-1]) if on_the_left(node) else sizes[:-1])
    return Matvec(weight.shape[0], weight.shape[1], rows, epilogue.activation, epilogue.alpha, epilogue.beta,
                  epilogue.residual)


def options(node: ir.Node, target: Target, isa: Isa, precision: str) -> list[Option]:
    """Every way to run the layer; what an activation from the left loses to fewer bits nobody has judged."""
    return options_of(weight_array(node), shape_of(node), target, isa, "fp32" if on_the_left(node) else precision)


def options_of(weight: np.ndarray, shape: Matvec, target: Target, isa: Isa, precision: str = "fp32") -> list[Option]:
    """Every way to multiply a weight (outputs, inputs), small ones by one thread rather than waking the others."""
    pattern = Pattern(weight, isa.lanes)
    offers = _options(pattern, shape, isa, precision)
    if isa.threads > 1:
        alone = _options(pattern, shape, replace(isa, threads=1), precision)
        offers += [replace(each, detail=f"{each.detail} one thread", work=replace(each.work, serial=True))
                   for each in alone]
    return [replace(each, work=_kept(each.work, target.l2_bytes)) for each in offers]


@dataclass(frozen=True)
class Pattern:
    """A weight (outputs, inputs) and what its options have in common, counted once."""

    weight: np.ndarray = field(repr=False)
    lanes: int

    @cached_property
    def nonzeros(self) -> int:
        """Non-zeros."""
        return int(np.count_nonzero(self.weight))

    @property
    def density(self) -> float:
        """Their share."""
        return self.nonzeros / max(1, self.weight.size)

    @cached_property
    def sorted(self) -> bool:
        """Whether WELL sorts the rows."""
        return well.sorting_pays(self.weight, self.lanes)

    @cached_property
    def well_slots(self) -> int:
        """Slots of WELL."""
        return well.slot_count(self.weight, self.lanes, sort=self.sorted)

    @cached_property
    def well_int8_slots(self) -> int:
        """Slots of WELL in 8-bit integers."""
        return well_int8.slot_count(self.weight, self.lanes)

    @cached_property
    def nm_slots(self) -> int:
        """Places of N:M in a window."""
        return nm_vector.slots_of(self.weight, self.lanes)

    @cached_property
    def half_error(self) -> float:
        """The largest error of a value in 16 bits over the largest magnitude of its row."""
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.abs(self.weight.astype(np.float16).astype(np.float32) - self.weight)
        same = np.isnan(self.weight) | np.isinf(self.weight)  # which 16 bits have, too
        largest = np.where(same, 0, np.abs(self.weight)).max(axis=1, initial=0)
        return float((np.where(same, 0, error).max(axis=1, initial=0) / np.maximum(largest, _TINY)).max(initial=0))


def _kept(work: Work, l2_bytes: int) -> Work:
    """The work of a layer whose weight stays in a cache where so many of its size fit there."""
    network, stored = LAYERS * work.memory_bytes, work.memory_bytes
    if network > L3_SIZES * l2_bytes:
        return work
    near = network <= l2_bytes
    return replace(work, l2_bytes=stored if near else 0, l3_bytes=0 if near else stored, memory_bytes=0)


def _options(weight: Pattern, shape: Matvec, isa: Isa, precision: str) -> list[Option]:
    offers = [_csr_option(weight, shape, isa)]
    for codec in _codecs(weight, precision):
        offers += [_dense_option(weight, shape, isa, codec), *_well_options(weight, shape, isa, codec),
                   *_nm_options(weight, shape, isa, codec), *_bitmap_options(weight, shape, isa, codec)]
    if allows(precision, "int8") and matvec_int8.reject(weight.weight) is None:
        offers += [*_int8_options(weight, shape, isa), *_well_int8_options(weight, shape, isa)]
    return offers


def _codecs(weight: Pattern, precision: str) -> list[str]:
    """How values may be stored: in 16 bits where that is exact, or as precise as the layer has to be."""
    limit = HALF_ERROR if allows(precision, "bf16") else 0.0
    return ["f32", "f16"] if weight.lanes >= 8 and weight.half_error <= limit else ["f32"]


def _dense_option(weight: Pattern, shape: Matvec, isa: Isa, codec: str) -> Option:
    params = replace(gemv.choose(shape, isa), codec=codec)
    vectors = shape.inputs * -(-shape.outputs // isa.lanes)
    rounds = -(-shape.batch // params.group)
    nbytes = BYTES[codec] * weight.weight.size
    work = Work(vectors * shape.batch, vectors * (rounds + shape.batch), params.blocks * rounds,
                memory_bytes=nbytes * rounds, family=f"gemv/{codec}", pixels=shape.batch)
    return Option("dense", f"gemv/{codec}", f"V={params.vectors} group={params.group} U={params.unroll}", params,
                  nbytes, work, codec)


def _csr_option(weight: Pattern, shape: Matvec, isa: Isa) -> Option:
    params = csr_vector.CsrParams(shape, lanes=isa.lanes, threads=isa.threads)
    nonzeros = weight.nonzeros
    slots = nonzeros + shape.outputs * (params.unroll - 1) / 2
    nbytes = 6 * nonzeros + 4 * shape.outputs
    work = Work(slots * shape.batch, slots * (1 + 2 * shape.batch), shape.outputs / 2, memory_bytes=nbytes,
                family="csr/scalar", pixels=shape.batch, density=weight.density)
    return Option("csr", "csr/scalar", f"U={params.unroll}", params, nbytes, work, "f32")


def _well_options(weight: Pattern, shape: Matvec, isa: Isa, codec: str) -> Iterator[Option]:
    if well.reject(isa) is not None or shape.batch > MAX_ROWS:
        return
    params = well.WellParams(shape, codec, weight.sorted, lanes=isa.lanes, threads=isa.threads)
    slots = weight.well_slots
    nbytes = slots * (isa.lanes * (BYTES[codec] + 1) + 2)
    work = Work(slots * shape.batch, slots * (2.5 + 2 * shape.batch), params.groups, memory_bytes=nbytes,
                family=f"well/{codec}", pixels=shape.batch, density=weight.density,
                permutes=slots * (1 + shape.batch))  # one widens the positions
    fill = weight.nonzeros / max(1, slots * isa.lanes)
    yield Option("well", f"well/{codec}", f"sort={params.sort} fill={fill:.2f}", params, nbytes, work, codec)


def _nm_options(weight: Pattern, shape: Matvec, isa: Isa, codec: str) -> Iterator[Option]:
    if nm_vector.reject(isa) is not None or shape.batch > MAX_ROWS:
        return
    p = nm_vector.NmParams(shape, weight.nm_slots, codec, isa.lanes, isa.threads)
    if p.slots == isa.lanes:
        return
    windows = p.groups * p.windows
    slots = windows * p.slots
    nbytes = isa.lanes * (BYTES[codec] * slots + 4 * windows * p.words)
    work = Work(slots * shape.batch, slots + windows * (p.words + shape.batch), p.groups, memory_bytes=nbytes,
                family=f"nm/{codec}", pixels=shape.batch, density=p.slots / isa.lanes, permutes=slots * shape.batch)
    n, m = nm_vector.pattern(weight.weight, p.slots, isa.lanes)
    fill = weight.nonzeros / (slots * isa.lanes)
    yield Option(f"nm {n}:{m}", f"nm/{codec}", f"slots={p.slots} fill={fill:.2f}", p, nbytes, work, codec)


def _bitmap_options(weight: Pattern, shape: Matvec, isa: Isa, codec: str) -> Iterator[Option]:
    if bitmap_vector.reject(isa) is not None or shape.batch > MAX_ROWS:
        return
    p = bitmap_vector.BitmapParams(shape, _vectors(shape, isa), codec, isa.lanes, isa.threads)
    count = p.blocks * p.vectors * shape.inputs
    nbytes = BYTES[codec] * weight.nonzeros + 2 * count
    if nbytes >= BYTES[codec] * weight.weight.size:
        return
    work = Work(count * shape.batch, count * (2.5 + shape.batch / p.vectors), p.blocks, memory_bytes=nbytes,
                family=f"bitmap/{codec}", pixels=shape.batch, density=weight.density, permutes=2 * count)
    yield Option("bitmap", f"bitmap/{codec}", f"V={p.vectors}", p, nbytes, work, codec)


def _vectors(shape: Matvec, isa: Isa) -> int:
    """Vectors of rows in a block: as many as share an input's broadcast and leave their sums in registers."""
    return max(1, min(4, -(-shape.outputs // isa.lanes), isa.registers // 2 // shape.batch))


def _int8_options(weight: Pattern, shape: Matvec, isa: Isa) -> Iterator[Option]:
    for bitmap in (False, True):
        if gemv_int8.reject(isa, bitmap=bitmap) is not None or shape.batch > MAX_ROWS:
            continue
        vectors = _vectors(shape, isa)
        p = gemv_int8.GemvInt8Params(shape, vectors, 8 if isa.vnni else 7, bitmap, isa.lanes, isa.threads)
        count = p.blocks * vectors * p.fours
        stored = weight.nonzeros + 8 * count if bitmap else weight.weight.size
        nbytes = stored + 8 * shape.outputs
        dots = 1 if isa.vnni else 3
        work = Work(dots * count * shape.batch, count * (2.5 if bitmap else 1) + count * shape.batch / vectors,
                    p.blocks + shape.batch, memory_bytes=nbytes, family="bitmap/int8" if bitmap else "gemv/int8",
                    pixels=shape.batch, density=weight.density if bitmap else 1.0,
                    permutes=(2 if bitmap else 0) * count)
        yield Option("bitmap" if bitmap else "dense", work.family, f"V={vectors}", p, nbytes, work, "int8")


def _well_int8_options(weight: Pattern, shape: Matvec, isa: Isa) -> Iterator[Option]:
    if well_int8.reject(isa) is not None or shape.batch > MAX_ROWS:
        return
    p = well_int8.WellInt8Params(shape, isa.lanes, isa.threads)
    slots = weight.well_int8_slots
    nbytes = slots * (8 * isa.lanes + 4) + 8 * shape.outputs
    work = Work(slots * shape.batch, slots * (2.5 + 2 * shape.batch), p.groups + shape.batch, memory_bytes=nbytes,
                family="well/int8", pixels=shape.batch, density=weight.density, permutes=2 * slots * shape.batch)
    yield Option("well", "well/int8", f"fill={weight.nonzeros / max(1, slots * 4 * isa.lanes):.2f}", p, nbytes, work,
                 "int8")


def reference(weight: np.ndarray, columns: np.ndarray, params: Any) -> np.ndarray | None:
    """The product (outputs, n) of a weight and columns (inputs, n) with the numbers of a kernel; None for float32."""
    if isinstance(params, INTEGERS):
        return np.asarray(FAMILIES[type(params)].reference(weight, columns, params))
    if getattr(params, "codec", "f32") == "f16":
        return np.asarray(weight.astype(np.float16).astype(np.float32) @ columns)
    return None


FAMILIES: dict[type, Any] = {
    gemv.GemvParams: gemv, csr_vector.CsrParams: csr_vector, well.WellParams: well, nm_vector.NmParams: nm_vector,
    bitmap_vector.BitmapParams: bitmap_vector, gemv_int8.GemvInt8Params: gemv_int8, well_int8.WellInt8Params: well_int8}
INTEGERS = (gemv_int8.GemvInt8Params, well_int8.WellInt8Params)
"""The parameters of kernels on 8-bit integers."""


@functools.lru_cache(maxsize=256)
def build(params: Any, isa: Isa) -> Any:
    """The kernel; layers with equal parameters share the object, and so the compiled code."""
    family = FAMILIES[type(params)]
    return family.build(params, isa) if isinstance(params, INTEGERS) else family.build(params)


def call(node: ir.Node, params: Any, isa: Isa) -> KernelCall:
    """The kernel of an option with the layer's constants."""
    return call_of(weight_array(node), bias_vector(node), params, isa)


def call_of(weight: np.ndarray, bias: np.ndarray, params: Any, isa: Isa) -> KernelCall:
    """The kernel of an option for a weight and a bias."""
    shape = params.shape
    inputs, outputs = shape.batch * shape.inputs, shape.batch * shape.outputs
    constants = (*FAMILIES[type(params)].pack(weight, params).values(), bias)
    return KernelCall(build(params, isa), constants, (inputs, outputs) if shape.residual else (inputs,), outputs)
