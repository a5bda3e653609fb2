"""A layer with a constant weight as a product on tensor cores: the options that there are, and its launch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from sparsec.backends.cuda import coded
from sparsec.backends.cuda.context import CudaContext
from sparsec.backends.relax.weights import chosen
from sparsec.cost.option import Option
from sparsec.kernels.cuda import eight_bits
from sparsec.kernels.cuda.arrange import Arranged, arranged
from sparsec.kernels.cuda.families import FAMILIES
from sparsec.kernels.cuda.family import Arrays, GpuProduct
from sparsec.kernels.cuda.params import MmaParams
from sparsec.kernels.family import offers
from sparsec.target import Target


def options(layer: GpuProduct, target: Target, precision: str) -> tuple[list[Option], dict[str, str]]:
    """Every way to run a layer on all architectures, with each of its tiles, and why formats and families have none.

    Families for an architecture or of a library that is not among the target's are not mentioned.
    """
    families = {name: each for name, each in FAMILIES.items() if not each.library or target.has(each.library)}
    found, refused = offers(families, layer, target, target.archs, precision)
    reasons: dict[str, str] = {}
    for family in families.values():
        unstored = {form: how for form in family.formats if isinstance(how := arranged(layer, form), str)}
        why = refused.get(family.name)
        if family.library:
            reasons |= {family.name: why} if why else {}
        elif family.dtype:  # beside those of half precision, which take the same formats
            here = not family.architecture or family.architecture.removesuffix("a") in target.archs
            if why and here and family.permits(layer, precision) and len(unstored) < len(family.formats):
                reasons[family.name] = why
        elif not family.architecture:
            given = {form: unstored.get(form, why) for form in family.formats}
            reasons |= {form: reason for form, reason in given.items() if reason is not None}
        elif why and family.architecture.removesuffix("a") in target.archs and len(unstored) < len(family.formats):
            reasons[family.name] = why
    offered = {option.format for option in found}
    return found, {name: reason for name, reason in reasons.items() if name not in offered}


def emit(context: CudaContext, node: ir.Node, layer: GpuProduct, inputs: Sequence[relax.Expr]) -> relax.Expr:
    """Launch a planned layer's product on flat activations (columns * k) and residual; returns the flat output."""
    option, written = chosen(node), coded.written(node)
    family, params = FAMILIES[option.family], option.params
    constants = _kept(context, layer, option)
    if written is not None:
        assert isinstance(params, MmaParams)
        codes = written[1]
        params, constants = replace(params, coded=codes.dtype), [*constants, codes.numbers]
    outputs = [shape for name, shape in family.arguments(params).items() if name in ("partial", "y")]
    kernel = kernel_of(option.family, params)
    return context.launch(kernel, [*map(context.constant, constants), *inputs], outputs)


def _kept(context: CudaContext, layer: GpuProduct, option: Option) -> list[np.ndarray]:
    """`weight_arrays`, of which those of the weight in half precision are packed once for all numbers of rows."""
    family = FAMILIES[option.family]
    if family.dtype:
        return weight_arrays(layer, option, context.half)
    key = weight_arrays, option.format, context.half, family.packed_by(option.params)
    if key not in layer.facts:
        layer.facts[key] = list(map(context.keep, _packed(layer, option, context.half)[0].values()))
    return [*layer.facts[key], *_beside(layer, option, [])]


def weight_arrays(layer: GpuProduct, option: Option, half: str) -> list[np.ndarray]:
    """The kernel's first arguments: the packed weight, its gather, what scales sums of 8 bits, and the bias."""
    packed, sums = _packed(layer, option, half)
    return [*packed.values(), *_beside(layer, option, sums)]


def _packed(layer: GpuProduct, option: Option, half: str) -> tuple[Arrays, list[np.ndarray]]:
    """The packed weight, and what scales sums of 8 bits."""
    family, found = FAMILIES[option.family], arranged(layer, option.format)
    assert isinstance(found, Arranged)  # it was offered
    weight = found.of(layer.weight)
    weight, sums = eight_bits.constants(layer, weight, family.dtype) if family.dtype else (
        weight.astype(np.dtype(half)), [])
    return family.recipe(option.params).pack(weight), sums


def _beside(layer: GpuProduct, option: Option, sums: list[np.ndarray]) -> list[np.ndarray]:
    """The constants behind the weight: its gather, what scales sums, and the bias."""
    found = arranged(layer, option.format)
    assert isinstance(found, Arranged)
    gather = [] if found.gather is None else [found.gather.astype(np.int32)]
    bias = layer.bias.astype(np.dtype(FAMILIES[option.family].arguments(option.params)["bias"][1]))
    return [*gather, *sums, bias]


@functools.lru_cache(maxsize=512)
def kernel_of(family: str, params: MmaParams) -> tirx.PrimFunc:
    """The kernel; layers with equal parameters share the object, and so the compiled code."""
    return FAMILIES[family].build(params, ())
