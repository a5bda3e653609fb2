"""Layer-wise Optimal Brain Surgeon (Dong et al. 2017).

The error of a layer y = W x on calibration inputs is quadratic in W with the Hessian H = mean of x x^T, the same for
every row. Removing w_q costs w_q^2 / (2 [H^-1]_qq) when the others move by -w_q / [H^-1]_qq [H^-1]_:q.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from sparsec.models.criteria.context import Context, Scores
from sparsec.models.masks import Masks

DAMPING = 0.01  # of the mean of the diagonal
BLOCK = 128  # columns between updates of the rest of the matrix


def obs(context: Context) -> Scores:
    """w_q^2 / (2 [H^-1]_qq), each layer with the inputs that it gets now."""
    scores = {}
    for name, hessian in _hessians(context, list(context.weights)).items():
        weight = context.weights[name].detach()
        cost = torch.stack([_inverse(h).diagonal() for h in hessian])  # (groups, in)
        rows = weight.reshape(len(hessian), -1, cost.shape[1])  # (groups, out / groups, in)
        scores[name] = (rows.square() / (2 * cost[:, None])).reshape(weight.shape)
    return scores


def compensate(context: Context, masks: Masks) -> None:
    """Move the weights that remain so that each layer's outputs change least, given the inputs it gets by then."""
    for name in masks:
        hessian = _hessians(context, [name])[name]
        weight = context.weights[name]
        rows = weight.detach().reshape(len(hessian), -1, hessian.shape[1])
        kept = masks[name].reshape(rows.shape)
        updated = [_eliminate(*parts) for parts in zip(rows, kept, hessian, strict=True)]
        with torch.no_grad():
            weight.copy_(torch.stack(updated).reshape(weight.shape))


def _eliminate(weight: torch.Tensor, kept: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Remove the weights outside `kept`, (out, in) each, column by column; a removal moves the columns that follow.

    The columns that keep least go first. The update of the columns beyond a block is one matrix product, as in
    Frantar & Alistarh (2023).
    """
    order = kept.sum(0).argsort()
    weight, kept = weight[:, order].clone(), kept[:, order]
    factor = torch.linalg.cholesky(_inverse(hessian[order][:, order]), upper=True)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        errors = torch.zeros(len(weight), stop - start)
        for column in range(start, stop):
            error = (weight[:, column] / factor[column, column]).masked_fill(kept[:, column], 0.0)
            weight[:, column:stop] -= error[:, None] * factor[column, column:stop]
            errors[:, column - start] = error
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return weight.masked_fill(~kept, 0.0)[:, order.argsort()]


def _inverse(hessian: torch.Tensor) -> torch.Tensor:
    damping = DAMPING * hessian.diagonal().mean().clamp(min=1e-12)
    return torch.cholesky_inverse(torch.linalg.cholesky(hessian + damping * torch.eye(len(hessian))))


def _hessians(context: Context, names: list[str]) -> dict[str, torch.Tensor]:
    """Mean of x x^T over the calibration inputs of every layer, (groups, in, in)."""
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def collect(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = columns(layer, inputs[0])  # (groups, samples, in)
            sums[name] = sums.get(name, 0) + x.transpose(1, 2) @ x
            counts[name] = counts.get(name, 0) + x.shape[1]

        return hook

    layers = {name: context.model.get_submodule(name.rpartition(".")[0]) for name in names}
    hooks = [layer.register_forward_pre_hook(collect(name)) for name, layer in layers.items()]
    context.model.eval()
    with torch.no_grad():
        for inputs, _ in context.data:
            context.model(inputs)
    for hook in hooks:
        hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}


def columns(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The inputs of a layer as (groups, samples, in): what each row of its weight is multiplied with."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    x = F.pad(x, layer._reversed_padding_repeated_twice)  # noqa: SLF001 - the only form that covers padding="same"
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if isinstance(layer, nn.Conv1d):
        x, kernel, stride, dilation = x.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    patches = F.unfold(x, kernel, dilation, 0, stride)  # (n, in * kh * kw, positions)
    return patches.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
