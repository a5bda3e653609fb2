"""Criteria of the second derivative of the loss."""

from __future__ import annotations

import torch

from sparsec.models.criteria.context import Context, Scores, gradients, hessian_product

PROBES = 32


def grasp(context: Context) -> Scores:
    """W H g: the loss of gradient norm when the weight is removed (Wang et al. 2020, who remove the largest -w H g)."""
    product = hessian_product(context, gradients(context))
    return {name: context.weights[name].detach() * part for name, part in product.items()}


def obd(context: Context) -> Scores:
    """H_ii w^2 / 2 (Optimal Brain Damage, LeCun et al. 1990).

    The diagonal is Hutchinson's estimate, the mean of v * H v over random signs v; exact where H is diagonal.
    """
    scores = {name: torch.zeros_like(weight) for name, weight in context.weights.items()}
    for _ in range(PROBES):
        signs = {
            name: torch.randint(0, 2, weight.shape, generator=context.generator) * 2.0 - 1.0
            for name, weight in context.weights.items()
        }
        for name, part in hessian_product(context, signs).items():
            scores[name] += signs[name] * part * context.weights[name].detach().square() / (2 * PROBES)
    return scores
