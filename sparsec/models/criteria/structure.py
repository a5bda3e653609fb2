"""Criteria of whole filters."""

from __future__ import annotations

import torch
from torch import nn

from sparsec.errors import PruningError
from sparsec.models.criteria.context import Context, Scores
from sparsec.models.masks import LAYERS


def filter_norm(context: Context) -> Scores:
    """The l1 norm of the filter or neuron, spread evenly over its weights (Li et al. 2017)."""
    return {name: spread(weight.detach().abs().flatten(1).sum(1), weight) for name, weight in context.weights.items()}


def batchnorm_scale(context: Context) -> Scores:
    """|gamma| of the batch normalisation behind the filter (network slimming, Liu et al. 2017).

    Covers the layers that a batch normalisation follows directly; the others are left out.
    Raises PruningError when there is none.
    """
    scores = {
        name: spread(norm.weight.detach().abs(), context.weights[name])
        for name, norm in _normalised_by(context).items()
        if name in context.weights
    }
    if not scores:
        raise PruningError("criterion 'batchnorm' needs layers that a batch normalisation follows: the model has none")
    return scores


def spread(per_filter: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Scores that add up to `per_filter` (out,) over each filter of `weight` (out, ...)."""
    share = per_filter / weight[0].numel()
    return share.reshape(-1, *[1] * (weight.dim() - 1)).expand_as(weight)


def _normalised_by(context: Context) -> dict[str, nn.Module]:
    """Parameter name of a layer's weight -> the batch normalisation that reads the layer's output."""
    producers: dict[int, tuple[str, torch.Tensor]] = {}  # the tensors are held so that no id is used twice
    found: dict[str, nn.Module] = {}
    hooks = []
    for name, module in context.model.named_modules():
        if isinstance(module, LAYERS):

            def produced(_: nn.Module, __: object, output: torch.Tensor, name: str = f"{name}.weight") -> None:
                producers[id(output)] = (name, output)

            hooks.append(module.register_forward_hook(produced))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):

            def consumed(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
                if id(inputs[0]) in producers:
                    found[producers[id(inputs[0])][0]] = norm

            hooks.append(module.register_forward_pre_hook(consumed))
    with torch.no_grad():
        context.model.eval()(*context.inputs)
    for hook in hooks:
        hook.remove()
    return found
