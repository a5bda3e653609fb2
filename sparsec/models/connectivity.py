"""Effective sparsity: the weights on a path from an input to an output (Vysogorets & Kempe 2023, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsec.errors import CollapseError
from sparsec.models.linear_forms import Arithmetic
from sparsec.models.linearise import path_sum
from sparsec.models.masks import Masks


class Reachable(torch.autograd.Function):
    """1 where a count of paths is not zero, forwards and backwards, so that no depth overflows or vanishes."""

    @staticmethod
    def forward(ctx: Any, counts: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        """Counts are whole numbers up to the rounding of the convolution's algorithm."""
        return (counts > 0.5).to(counts.dtype)

    @staticmethod
    def backward(ctx: Any, *counts: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        """Reached or not, as forwards: a count of paths above one half is 1."""
        return (counts[0] > 0.5).to(counts[0].dtype)


BOOLEAN = Arithmetic(torch.float32, Reachable.apply, lambda weight: weight.ne(0).to(weight.dtype))


def active(model: nn.Module, masks: Masks, inputs: tuple[torch.Tensor, ...]) -> Masks:
    """The kept weights that lie on a path from an input to an output; kept weights are taken to be non-zero.

    `inputs` gives the shapes of the model's inputs. Biases and constants carry no path.
    Raises PruningError when the model uses an operation whose connectivity is not known.
    """
    weights = {name: mask.float().requires_grad_() for name, mask in masks.items()}
    paths = torch.autograd.grad(path_sum(model, weights, inputs, BOOLEAN), list(weights.values()), allow_unused=True)
    return {
        name: torch.zeros_like(mask) if path is None else mask & (path > 0.5)
        for (name, mask), path in zip(masks.items(), paths, strict=True)
    }


def collapsed(masks: Masks, reachable: Masks) -> str | None:
    """The layer that cuts every path, or None: an empty one if there is one, else the one that keeps least."""
    if any(mask.any() for mask in reachable.values()):
        return None
    return min(masks, key=lambda name: int(masks[name].sum()))


def check_connected(masks: Masks, reachable: Masks, what: str) -> None:
    """Raise CollapseError when no path is left; names the layer that collapsed."""
    layer = collapsed(masks, reachable)
    if layer is not None:
        kept = int(masks[layer].sum())
        raise CollapseError(
            f"{what} cuts every path: layer '{layer}' keeps {kept} of its {masks[layer].numel()} weights; "
            "ask for less sparsity, use quota igq or erk, or criterion synflow"
        )
