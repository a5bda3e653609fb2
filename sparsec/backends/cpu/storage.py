"""Which constants of a lowered program follow from a weight, so that an artifact can store the weight instead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.layers import matrix_of
from sparsec.backends.program import Packed
from sparsec.backends.relax.weights import chosen
from sparsec.cost.plan import CHOICE
from sparsec.graph.large import key_of
from sparsec.kernels.cpu.families import FAMILIES
from sparsec.kernels.packing import RECIPES


def packed_weights(model: ir.Model, constants: Sequence[np.ndarray]) -> tuple[Packed, ...]:
    """The weights of the layers whose kernels have a recipe that artifacts repeat; other arrays are stored as such."""
    numbers = {key_of(array): number for number, array in enumerate(constants)}
    found = []
    for node in model.graph:
        if CHOICE.get(node) is None:
            continue
        option = chosen(node)
        recipe = FAMILIES[option.family].recipe(option.params)
        if type(recipe) not in RECIPES.values():
            continue
        weight = matrix_of(node)
        places = [numbers.get(key_of(array)) for array in recipe.pack(weight).values()]
        if None not in places:
            found.append(Packed(weight, recipe, tuple(place for place in places if place is not None)))
    return tuple(found)
