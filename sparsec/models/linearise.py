"""Run a PyTorch model as a network of weighted paths: |weights|, no biases, every activation the identity.

The result sums, over all paths from an input to an output, the product of the weights along the path (the l1 path norm
of Tanaka et al. 2020 and Vysogorets & Kempe 2023, section 3). The operations are replaced while the model's own
`forward` runs, so any module made of known operations works. What couples elements (normalisation over features,
softmax, attention, products of activations) counts as a sum over everything it may depend on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from sparsec.errors import PruningError
from sparsec.models.linear_forms import LINEAR_FORMS, Arithmetic, live

IDENTITY = frozenset((
    "relu", "relu_", "relu6", "gelu", "silu", "mish", "tanh", "sigmoid", "hardtanh", "hardswish", "hardsigmoid",
    "leaky_relu", "elu", "selu", "celu", "softplus", "prelu", "clamp", "clip", "dropout", "dropout1d",
    "dropout2d", "abs", "neg", "exp", "sqrt", "rsqrt", "pow", "square", "__neg__", "__pow__",
))  # fmt: skip
STRUCTURE = frozenset((
    "reshape", "view", "flatten", "unflatten", "transpose", "permute", "contiguous", "squeeze", "unsqueeze",
    "expand", "expand_as", "cat", "concat", "stack", "split", "chunk", "unbind", "narrow", "select",
    "__getitem__", "clone", "to", "float", "type", "size", "dim", "numel", "__get__", "__len__", "repeat",
    "repeat_interleave", "roll", "movedim", "t", "pad", "sum", "is_floating_point",
))  # fmt: skip


def path_sum(
    model: torch.nn.Module, weights: dict[str, torch.Tensor], inputs: tuple[torch.Tensor, ...], how: Arithmetic
) -> torch.Tensor:
    """Sum of the outputs of the linearised model on inputs of ones.

    Args:
        model: gives `forward` and the parameters that `weights` does not replace; left as it is.
        weights: non-negative replacements of parameters by name.
        inputs: examples that give the shapes, batch included; token numbers are used as they are.
        how: the arithmetic.

    Raises:
        PruningError: the model calls an operation without a linear form; names it.

    """
    ones = [torch.ones_like(x, dtype=how.dtype).requires_grad_() if x.is_floating_point() else x for x in inputs]
    constants = {name: p.detach() for name, p in model.named_parameters() if name not in weights}
    training = model.training
    model.eval()
    with torch.enable_grad(), Linearised(how):
        output = functional_call(model, {**constants, **weights}, tuple(ones))
    model.train(training)
    return torch.stack([x.sum() for x in _leaves(output)]).sum()


class Linearised(TorchFunctionMode):
    """While active, every operation on a tensor that depends on an input is replaced by its linear form."""

    def __init__(self, how: Arithmetic) -> None:
        super().__init__()
        self.how = how

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by PyTorch in place of `func`."""
        kwargs, name = kwargs or {}, func.__name__
        if name != "embedding" and not any(live(x) for x in _leaves([*args, *kwargs.values()])):
            return func(*args, **kwargs)
        if name in IDENTITY:
            return args[0]
        if name in LINEAR_FORMS:
            return LINEAR_FORMS[name](self.how, *args, **kwargs)
        if name in STRUCTURE:
            return func(*args, **kwargs)
        raise PruningError(
            f"connectivity through the operation '{name}' is not known: "
            "add its linear form to sparsec.models.linear_forms.LINEAR_FORMS"
        )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
