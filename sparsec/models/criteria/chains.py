"""Which layer alone reads the outputs of another."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsec.models.criteria.context import Context
from sparsec.models.masks import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def readers(context: Context) -> dict[str, str]:
    """By weight, that of the layer which reads its outputs, all of them and nothing else, and alone.

    Found by running the model: of two layers that run one after the other, the second is the reader where the model's
    output no longer depends on the first once the second's input is cut off, nor the second's input on what is before
    the first once its output is. An output is several inputs where a convolution is flattened.
    """
    order = _order(context)
    found = {}
    for first, second in itertools.pairwise(order):
        made, read = context.weights[first], context.weights[second]
        if read.shape[1] % len(made) == 0 and _alone(context, first, second):
            found[first] = second
    return found


def per_input(weight: torch.Tensor, units: int) -> torch.Tensor:
    """A reader's weight (out, in, ...) by the unit whose outputs it multiplies, (units, out, places)."""
    return weight.reshape(len(weight), units, -1).movedim(1, 0)


@contextmanager
def hooked(context: Context, names: list[str], hook: Callable[[str], Any], *, before: bool = False) -> Iterator[None]:
    """Hooks on the layers of some weights, made by name; `before` hooks see a layer's inputs."""
    layers = {name: context.model.get_submodule(name.rpartition(".")[0]) for name in names}
    handles = [layer.register_forward_pre_hook(hook(name)) if before else layer.register_forward_hook(hook(name))
               for name, layer in layers.items()]
    training = context.model.training
    context.model.eval()
    try:
        yield
    finally:
        context.model.train(training)
        for handle in handles:
            handle.remove()


def _order(context: Context) -> list[str]:
    """The weights in the order of their use, without those that are used twice."""
    uses: list[str] = []

    def seen(name: str) -> Any:
        return lambda *_: uses.append(name)

    names = [name for name in context.weights
             if isinstance(context.model.get_submodule(name.rpartition(".")[0]), LAYERS)]
    with hooked(context, names, seen), torch.no_grad():
        context.model(*context.inputs)
    return [name for name in uses if uses.count(name) == 1]


def _alone(context: Context, first: str, second: str) -> bool:
    """Whether the model's output depends on the first layer's only through the second's input, and that on no other."""
    made: list[torch.Tensor] = []
    read: list[torch.Tensor] = []

    def mark(_name: str) -> Any:
        def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
            made.append(output.detach().requires_grad_())
            return made[-1]
        return hook

    def cut(_name: str) -> Any:
        def hook(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            read.append(inputs[0])
            return tuple(each.detach() for each in inputs)
        return hook

    inputs = tuple(each.requires_grad_() if each.is_floating_point() else each
                   for each in (part.detach().clone() for part in context.inputs))
    with hooked(context, [first], mark), hooked(context, [second], cut, before=True):
        output = context.model(*inputs)
    before = [each for each in [*context.weights.values(), *inputs] if each.requires_grad]
    return not _depends(output, made) and _depends(read[0], made) and not _depends(read[0], before)


def _depends(output: torch.Tensor, sources: list[torch.Tensor]) -> bool:
    """Whether any gradient of the output arrives at a source."""
    if not output.requires_grad or not sources:
        return False
    found = torch.autograd.grad(output.sum(), sources, allow_unused=True, retain_graph=True)
    return any(each is not None for each in found)
