"""Optimal Brain Surgeon over all layers at once, by the empirical Fisher matrix (WoodFisher, Singh & Alistarh 2020).

F = damping I + G^T G / n, the rows of G gradients of n parts of the data. Woodbury's identity needs n x n matrices
only, so that no block of F is left out: this is the global OBS of small networks (Hassibi & Stork 1992).
"""

from __future__ import annotations

import torch
from torch.func import functional_call

from sparsec.errors import PruningError
from sparsec.models.criteria.context import Context, Scores
from sparsec.models.masks import Masks

PARTS = 256
"""Gradients at most; each is the mean over a part of the data."""
DAMPING = 1e-3
"""Of the mean of F's diagonal."""
LARGEST = 2**28
"""Numbers in G at most: 1 GiB."""


def woodfisher(context: Context) -> Scores:
    """w^2 / (2 [F^-1]_ww), what the loss grows by when the weight goes and all others make up for it."""
    rows, damping = _gradients(context)
    scaled = rows / len(rows) ** 0.5
    inner = torch.linalg.solve(damping * torch.eye(len(rows)) + scaled @ scaled.T, scaled)
    diagonal = (1 - (scaled * inner).sum(0)) / damping
    weights = torch.cat([weight.detach().flatten() for weight in context.weights.values()])
    return _split(context, weights.square() / (2 * diagonal.clamp(min=1e-30)))


def move_by_fisher(context: Context, masks: Masks) -> None:
    """Move the kept weights so that the removal of the others costs the quadratic model of the loss least.

    With a = G_Q w_Q of the removed weights Q, the kept move by G_K^T (n damping I + G_K G_K^T)^-1 a.
    """
    rows, damping = _gradients(context)
    kept = torch.cat([masks[name].flatten() for name in context.weights])
    weights = torch.cat([weight.detach().flatten() for weight in context.weights.values()])
    removed = rows @ weights.masked_fill(kept, 0.0)
    left = rows * kept
    step = left.T @ torch.linalg.solve(len(rows) * damping * torch.eye(len(rows)) + left @ left.T, removed)
    with torch.no_grad():
        for name, part in _split(context, weights + step).items():
            context.weights[name].copy_(part.masked_fill(~masks[name], 0.0))


def _gradients(context: Context) -> tuple[torch.Tensor, float]:
    """G (n, weights) and the damping. Raises PruningError when the network is too large for it."""
    count = sum(weight.numel() for weight in context.weights.values())
    examples = sum(len(inputs) for inputs, _ in context.data)
    parts = min(PARTS, examples, LARGEST // count)
    if parts < 2:
        raise PruningError(f"criterion 'woodfisher' is for small networks and two examples at least: {count} weights, "
                           f"{examples} examples; `obs` goes layer by layer")
    size = -(-examples // parts)
    inputs, targets = (torch.cat(part) for part in zip(*context.data, strict=True))
    weights = list(context.weights.values())
    training = context.model.training
    context.model.eval()
    rows = []
    for some, wanted in zip(inputs.split(size), targets.split(size), strict=True):
        loss = context.loss(functional_call(context.model, {}, (some,)), wanted)
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)]))
    context.model.train(training)
    stacked = torch.stack(rows)
    return stacked, max(DAMPING * float(stacked.square().mean()), 1e-12)


def _split(context: Context, flat: torch.Tensor) -> Scores:
    parts = flat.split([weight.numel() for weight in context.weights.values()])
    return {name: part.reshape(weight.shape)
            for (name, weight), part in zip(context.weights.items(), parts, strict=True)}
