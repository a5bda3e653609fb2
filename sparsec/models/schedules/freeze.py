"""FreezeNet: the weights that pruning would remove stay at their random start instead (Wimmer et al. 2020)."""

from __future__ import annotations

import torch

from sparsec.models.masks import Masks
from sparsec.models.schedules.task import Task


def freeze(task: Task) -> Masks:
    """Choose as pruning at initialisation does, put the others back, and train only what was chosen.

    The network stays dense, but all its frozen weights are what a seed draws; the masks say which are trained.
    """
    train = task.training("freeze")
    start = {name: task.model.get_parameter(name).detach().clone() for name in task.masks}
    masks = task.choose(task.masks, task.sparsity, last=True)

    def hook(step: int, total: int) -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                weight = task.model.get_parameter(name)
                weight.copy_(torch.where(mask, weight, start[name]))
        task.progress("training", step, total)

    with torch.no_grad():
        for name in masks:
            task.model.get_parameter(name).copy_(start[name])
    train(task.model, hook)
    return masks
