"""From a layer and the option that runs it to a kernel with its arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.cost.option import Option
from sparsec.kernels.cpu.families import FAMILIES
from sparsec.kernels.cpu.images.stem import StemProduct
from sparsec.kernels.cpu.layer import Activations, CpuProduct
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.walk import IN_PLACE
from sparsec.kernels.cpu.tensors import copying
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.packing.recipe import Recipe, Unstored


@dataclass(frozen=True)
class KernelCall:
    """A kernel with its constant arguments; the activations follow, the output and the ends of its range last."""

    kernel: tirx.PrimFunc
    constants: tuple[np.ndarray, ...]
    inputs: tuple[Activations, ...]
    output: Activations
    ends: Activations | None = None

    def activations(self) -> list[np.ndarray]:
        """Random inputs and room for the output, for a measurement."""
        rng = np.random.default_rng(0)
        written = () if self.in_place else (self.output, self.ends)
        return [each.random(rng) for each in (*self.inputs, *written) if each is not None]

    @property
    def in_place(self) -> bool:
        """Whether the last input is the output as well."""
        return IN_PLACE in self.kernel.attrs


@functools.lru_cache(maxsize=512)
def build(family: str, params: Hashable, isa: Isa) -> tirx.PrimFunc:
    """The kernel; layers with equal parameters share the object, and so the compiled code."""
    return FAMILIES[family].build(params, isa)


def call(layer: CpuProduct, option: Option, isa: Isa, keep: Callable[[np.ndarray], np.ndarray] | None = None,
         ) -> KernelCall:
    """The kernel of an option with the layer's constants.

    With `keep`, what it makes of the arrays is kept for the other layers of this weight whose kernels read it alike.
    """
    recipe = FAMILIES[option.family].recipe(option.params)
    if option.joined and isinstance(layer, StencilProduct | StemProduct):
        layer = replace(layer, joined=True)
    shared = keep is not None and not isinstance(recipe, Unstored)
    packed = layer.memoised(_packed, recipe, keep) if shared else recipe.pack(layer.weight)
    kernel = build(option.family, option.params, isa)
    return KernelCall(kernel, (*packed.values(), *layer.constants), layer.inputs, layer.output, layer.ends(isa))


def _packed(weight: np.ndarray, recipe: Recipe, keep: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    return {name: keep(array) for name, array in recipe.pack(weight).items()}


def emit(context: LoweringContext, kernel: KernelCall, inputs: Sequence[relax.Expr]) -> relax.Expr:
    """Run a kernel on its constants and on activations: its output, or a tuple of that and the ends of its range.

    What a kernel writes in place of its last input must be a tensor that the function made; of others it gets a copy.
    """
    if kernel.in_place:
        *others, last = inputs
        if not isinstance(last, relax.DataflowVar):
            copy = copying.build(copying.CopyParams(kernel.output.size, kernel.output.dtype), context.isa)
            last = context.call(copy, [last], kernel.output.size)
        return context.overwrite(kernel.kernel, [*map(context.constant, kernel.constants), *others, last])
    sizes = [each.size for each in (kernel.output, kernel.ends) if each is not None]
    return context.call(kernel.kernel, [*map(context.constant, kernel.constants), *inputs], *sizes,
                        dtype=kernel.output.dtype)
