"""Gates: what learns beside the weights of a model which of them stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

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
