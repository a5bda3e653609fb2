"""Which constants of a lowered program follow from a weight, so that an artifact can store the weight instead."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.conv import weight_matrix
from sparsec.backends.program import Packed
from sparsec.backends.relax.weights import chosen, weight_array
from sparsec.cost.plan import CHOICE
from sparsec.kernels.cpu.products import dense, spmm
from sparsec.kernels.cpu.rows import bitmap_vector, csr_vector, gemv, nm_vector, well
from sparsec.kernels.packing import Recipe

RECIPES: dict[type, Callable[[Any], Recipe]] = {
    spmm.SpmmParams: spmm.recipe, dense.DenseParams: dense.recipe, gemv.GemvParams: gemv.recipe,
    csr_vector.CsrParams: csr_vector.recipe, well.WellParams: well.recipe, nm_vector.NmParams: nm_vector.recipe,
    bitmap_vector.BitmapParams: bitmap_vector.recipe}
"""By the kernel's parameters; the arrays of other kernels are stored as they are."""


def packed_weights(model: ir.Model, constants: Sequence[np.ndarray]) -> tuple[Packed, ...]:
    """The weights of the layers that the plan chose a kernel for."""
    numbers = {_key(array): number for number, array in enumerate(constants)}
    found = []
    for node in model.graph:
        recipe_of = RECIPES.get(type(chosen(node))) if CHOICE.get(node) else None
        if recipe_of is None:
            continue
        recipe = recipe_of(chosen(node))
        weight = weight_matrix(node) if node.op_type == "Conv" else weight_array(node)
        places = [numbers.get(_key(array)) for array in recipe.pack(weight).values()]
        if None not in places:
            found.append(Packed(weight, recipe, tuple(place for place in places if place is not None)))
    return tuple(found)


def _key(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    array = np.ascontiguousarray(array)
    return array.dtype.name, array.shape, hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()
