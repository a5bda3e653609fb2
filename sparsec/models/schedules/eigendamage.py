"""EigenDamage: rows and columns go where the Fisher matrix is nearly diagonal (Wang et al. 2019, sections 3 and 4).

Of a layer with inputs a and gradients g of its outputs the Fisher matrix is about the Kronecker product of
A = mean of a a^T and S = mean of g g^T. In their eigenvectors, W = Q_S V Q_A^T, it is nearly diagonal, so that rows and
columns of V hardly need each other, and 1/2 V_ij^2 s_i a_j says what removing one costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from sparsec.errors import PruningError
from sparsec.models.criteria.obs import columns
from sparsec.models.masks import Masks
from sparsec.models.schedules.gates import gated
from sparsec.models.schedules.task import Task

BISECTIONS = 60


@dataclass(frozen=True)
class Rotated:
    """A weight as a matrix V in another basis, and what each of its elements costs; W = left V right^T."""

    inner: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    cost: torch.Tensor


def eigendamage(task: Task) -> Masks:
    """Remove the cheapest rows and columns of all layers in the eigenbasis, then train what is left of V.

    Of every layer one row and one column stay. The masks are V's: a layer with r rows and c columns left is three
    smaller ones, of c, r and as many outputs as before. Grouped convolutions stay dense.
    """
    if not task.data:
        raise PruningError("schedule 'eigendamage' needs data: pass `data`, or --data to `sparsec prune`")
    rotated = bases(task, factors(task))
    masks = {name: torch.ones_like(task.masks[name]) for name in task.masks}
    masks |= chosen(rotated, task.sparsity, sum(mask.numel() for mask in masks.values()))
    waiting = iter([Gate(rotated[name], masks[name]) if name in rotated else nn.Identity() for name in task.masks])
    with gated(task, lambda _: next(waiting)):
        if task.train is not None:
            task.train(task.model, lambda step, total: task.progress("training", step, total))
    return masks


class Gate(nn.Module):
    """What is left of V, which learns, between its bases."""

    left: torch.Tensor
    right: torch.Tensor
    mask: torch.Tensor

    def __init__(self, rotated: Rotated, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.reshape(rotated.inner.shape).clone())
        self.register_buffer("left", rotated.left)
        self.register_buffer("right", rotated.right)
        self.inner = nn.Parameter(rotated.inner * self.mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """W without the rows and columns of V that have gone."""
        return (self.left @ (self.inner * self.mask) @ self.right.T).reshape(weight.shape)


def factors(task: Task) -> Mapping[str, tuple[torch.Tensor, torch.Tensor]]:
    """By weight A (inputs, inputs) and S (outputs, outputs), with classes drawn from what the model predicts."""
    layers = {name: task.model.get_submodule(name.rpartition(".")[0]) for name in task.masks}
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    hooks = [layer.register_forward_hook(_collect(name, found)) for name, layer in layers.items()
             if getattr(layer, "groups", 1) == 1]
    task.model.eval()
    for inputs, targets in task.data:
        output = task.model(inputs)
        if not targets.is_floating_point() and output.dim() == 2:
            targets = torch.multinomial(output.detach().softmax(1), 1, generator=task.generator).squeeze(1)  # noqa: PLW2901
        task.loss(output, targets).backward()
    for hook in hooks:
        hook.remove()
    task.model.zero_grad()
    return found


def _collect(name: str, found: dict[str, tuple[torch.Tensor, torch.Tensor]],
             ) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen = columns(layer, inputs[0].detach())[0]

        def add(gradient: torch.Tensor) -> None:
            rows = gradient if isinstance(layer, nn.Linear) else gradient.movedim(1, -1)
            rows = rows.reshape(-1, rows.shape[-1]) * len(gradient)  # the loss is a mean over the batch
            parts = seen.T @ seen / len(seen), rows.T @ rows / len(gradient)
            found[name] = (found[name][0] + parts[0], found[name][1] + parts[1]) if name in found else parts

        output.register_hook(add)

    return hook


def bases(task: Task, moments: Mapping[str, tuple[torch.Tensor, torch.Tensor]], *, eigen: bool = True,
          ) -> dict[str, Rotated]:
    """By weight V in the eigenvectors of A and S, or W itself with the diagonals of these."""
    result = {}
    for name, (inputs, outputs) in moments.items():
        matrix = task.model.get_parameter(name).detach().flatten(1)
        (s, left), (a, right) = (torch.linalg.eigh(each.double()) if eigen else (
            each.double().diagonal(), torch.eye(len(each), dtype=torch.float64)) for each in (outputs, inputs))
        inner = left.T @ matrix.double() @ right
        cost = inner.square() * s.clamp(min=0)[:, None] * a.clamp(min=0) / 2
        result[name] = Rotated(inner.float(), left.float(), right.float(), cost)
    return result


def chosen(rotated: Mapping[str, Rotated], sparsity: float, elements: int) -> Masks:
    """The elements that stay, of whole rows and columns of the highest costs in all layers."""
    wanted, low, high = sparsity * elements, 0.0, max(float(each.cost.sum()) for each in rotated.values())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        gone = sum(int((~mask).sum()) for mask in _above(rotated, middle).values())
        low, high = (middle, high) if gone < wanted else (low, middle)
    return _above(rotated, high)


def _above(rotated: Mapping[str, Rotated], threshold: float) -> Masks:
    """The rows and columns whose elements cost more than this together; at least the best of each."""
    masks = {}
    for name, each in rotated.items():
        rows, across = (each.cost.sum(axis) for axis in (1, 0))
        kept = [sums > threshold for sums in (rows, across)]
        for part, sums in zip(kept, (rows, across), strict=True):
            part[sums.argmax()] = True
        masks[name] = kept[0][:, None] & kept[1]
    return masks
