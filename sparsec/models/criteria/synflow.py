"""Synaptic flow (Tanaka et al. 2020)."""

from __future__ import annotations

import torch

from sparsec.models.criteria.context import Context, Scores
from sparsec.models.linear_forms import Arithmetic
from sparsec.models.linearise import path_sum

PATH_NORM = Arithmetic(torch.float64, lambda x: x, torch.abs)


def synflow(context: Context) -> Scores:
    """|w| dR / d|w|, R the sum over all paths of the product of |w|: zero for a weight that is on no path."""
    weights = {
        name: (weight.detach() * context.masks[name]).double().abs().requires_grad_()
        for name, weight in context.weights.items()
    }
    total = path_sum(context.model, weights, context.inputs, PATH_NORM)
    parts = torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)
    return {name: w.detach() * part for (name, w), part in zip(weights.items(), parts, strict=True)}
