"""The kernels for a linear layer on few rows of activations (batch 1 above all), as options."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.context import KernelCall
from sparsec.backends.cpu.weights import bias_vector, epilogue_of, weight_array
from sparsec.graph.shapes import static_shape
from sparsec.kernels import csr_vector, gemv, well
from sparsec.kernels.isa import Isa
from sparsec.kernels.matvec import Matvec
from sparsec.option import Option, Work

MAX_ROWS = 8  # rows of activations that a WELL kernel keeps in flight


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


def options(node: ir.Node, isa: Isa) -> list[Option]:
    """Every way to run the layer."""
    return options_of(weight_array(node), shape_of(node), isa)


def options_of(weight: np.ndarray, shape: Matvec, isa: Isa) -> list[Option]:
    """Every way to multiply a weight (outputs, inputs), small ones by one thread rather than waking the others."""
    shared = _options(weight, shape, isa)
    if isa.threads == 1:
        return shared
    alone = _options(weight, shape, replace(isa, threads=1))
    return [*shared, *(replace(each, detail=f"{each.detail} one thread", work=replace(each.work, serial=True))
                       for each in alone)]


def _options(weight: np.ndarray, shape: Matvec, isa: Isa) -> list[Option]:
    return [_dense_option(weight, shape, isa), _csr_option(weight, shape, isa), *_well_options(weight, shape, isa)]


def _dense_option(weight: np.ndarray, shape: Matvec, isa: Isa) -> Option:
    params = gemv.choose(shape, isa)
    vectors = weight.shape[1] * -(-weight.shape[0] // isa.lanes)
    rounds = -(-shape.batch // params.group)
    nbytes = 4 * weight.size
    work = Work(vectors * shape.batch, vectors * (rounds + shape.batch), params.blocks * rounds,
                memory_bytes=nbytes * rounds, family="gemv", pixels=shape.batch)
    return Option("dense", "gemv", f"V={params.vectors} group={params.group} U={params.unroll}", params, nbytes, work)


def _csr_option(weight: np.ndarray, shape: Matvec, isa: Isa) -> Option:
    params = csr_vector.CsrParams(shape, lanes=isa.lanes, threads=isa.threads)
    nonzeros = int(np.count_nonzero(weight))
    slots = nonzeros + shape.outputs * (params.unroll - 1) / 2
    nbytes = 6 * nonzeros + 4 * shape.outputs
    work = Work(slots * shape.batch, slots * (1 + 2 * shape.batch), shape.outputs / 2, memory_bytes=nbytes,
                family="csr/scalar", pixels=shape.batch, density=nonzeros / max(1, weight.size))
    return Option("csr", "csr/scalar", f"U={params.unroll}", params, nbytes, work)


def _well_options(weight: np.ndarray, shape: Matvec, isa: Isa) -> Iterator[Option]:
    if well.reject(isa) is not None or shape.batch > MAX_ROWS:
        return
    params = well.WellParams(shape, sort=well.sorting_pays(weight, isa.lanes), lanes=isa.lanes, threads=isa.threads)
    slots = well.slot_count(weight, params)
    nonzeros = int(np.count_nonzero(weight))
    with np.errstate(over="ignore"):
        exact = np.array_equal(weight.astype(np.float16), weight)  # as after storing it with the codec f16
    for codec, size in (("f32", 4), ("f16", 2)) if exact else (("f32", 4),):
        nbytes = slots * (isa.lanes * (size + 1) + 2)
        work = Work(slots * shape.batch, slots * (2.5 + 2 * shape.batch), params.groups, memory_bytes=nbytes,
                    family=f"well/{codec}", pixels=shape.batch, density=nonzeros / max(1, weight.size))
        fill = nonzeros / max(1, slots * isa.lanes)
        yield Option("well", f"well/{codec}", f"sort={params.sort} fill={fill:.2f}", replace(params, codec=codec),
                     nbytes, work)


FAMILIES: dict[type, Any] = {
    gemv.GemvParams: gemv, csr_vector.CsrParams: csr_vector, well.WellParams: well}


@functools.lru_cache(maxsize=256)
def build(params: Any) -> Any:
    """The kernel; layers with equal parameters share the object, and so the compiled code."""
    return FAMILIES[type(params)].build(params)


def call(node: ir.Node, params: Any) -> KernelCall:
    """The kernel of an option with the layer's constants."""
    return call_of(weight_array(node), bias_vector(node), params)


def call_of(weight: np.ndarray, bias: np.ndarray, params: Any) -> KernelCall:
    """The kernel of an option for a weight and a bias."""
    shape = params.shape
    inputs, outputs = shape.batch * shape.inputs, shape.batch * shape.outputs
    constants = (*FAMILIES[type(params)].pack(weight, params).values(), bias)
    return KernelCall(build(params), constants, (inputs, outputs) if shape.residual else (inputs,), outputs)
