"""ProsPr: what a weight is worth once the network has been trained a little (Alizadeh et al. 2022)."""

from __future__ import annotations

import torch
from torch.func import functional_call

from sparsec.models.criteria.context import Context, Scores

STEPS = 3
RATE = 0.1


def prospr(context: Context) -> Scores:
    """|dL / dc| behind three steps of gradient descent, c factors of one on the initial weights (section 3.1).

    The steps and the loss behind them see different parts of the data.
    """
    inputs, targets = (torch.cat(part) for part in zip(*context.data, strict=True))
    parts = list(zip(inputs.tensor_split(STEPS + 1), targets.tensor_split(STEPS + 1), strict=True))
    factors = {name: torch.ones_like(weight, requires_grad=True) for name, weight in context.weights.items()}
    now = {name: weight.detach() * factors[name] for name, weight in context.weights.items()}
    training = context.model.training
    context.model.train()
    for some, wanted in parts[:-1]:
        steps = torch.autograd.grad(_loss(context, now, some, wanted), list(now.values()), create_graph=True)
        now = {name: weight - RATE * step * factors[name]
               for (name, weight), step in zip(now.items(), steps, strict=True)}
    found = torch.autograd.grad(_loss(context, now, *parts[-1]), list(factors.values()))
    context.model.train(training)
    return {name: gradient.abs() for name, gradient in zip(factors, found, strict=True)}


def _loss(context: Context, weights: Scores, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss with other weights; batch statistics stay what they are in the model."""
    buffers = {name: buffer.clone() for name, buffer in context.model.named_buffers()}
    return context.loss(functional_call(context.model, {**buffers, **weights}, (inputs,)), targets)
