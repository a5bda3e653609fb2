"""Gates: what learns beside the weights of a model which of them stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from sparsec.models.schedules.task import Task

Gate = TypeVar("Gate", bound=nn.Module)


@contextmanager
def gated(task: Task, make: Callable[[torch.Tensor], Gate]) -> Iterator[dict[str, Gate]]:
    """By weight a gate that it goes through; in the end weights are what their gates let through."""
    layers = {name: task.model.get_submodule(name.rpartition(".")[0]) for name in task.masks}
    gates = {name: make(layer.get_parameter("weight")) for name, layer in layers.items()}
    for name, layer in layers.items():
        parametrize.register_parametrization(layer, "weight", gates[name])
    try:
        yield gates
    finally:
        for layer in layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """None of the parameters that the model has now learns."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def largest(score: torch.Tensor, count: int) -> torch.Tensor:
    """The mask of the `count` largest scores; of equal ones the first."""
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[score.flatten().argsort(descending=True, stable=True)[:count]] = True
    return mask.reshape(score.shape)


def penalised(output: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """`output`; where it takes part in a loss, the gradients are those of the loss plus `penalty`."""
    passed: torch.Tensor = Penalty.apply(output, penalty)
    return passed


class Penalty(torch.autograd.Function):
    """Passes its first argument on, and gives the second a gradient of one."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        """The output as it is."""
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ARG004
        """The penalty is added to the loss once."""
        return gradient, torch.ones(())
