"""What a pruning criterion may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sparsec.models.masks import Masks
from sparsec.models.training import Data, Loss

Scores = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Context:
    """A model that is being pruned.

    Attributes:
        model: its pruned weights are zero.
        weights: the prunable weights by parameter name.
        masks: the weights that are left.
        inputs: examples that give the shapes of the model's inputs.
        data: batches of (inputs, targets), iterated over as often as needed; empty where there is none.
        loss: of the model's output and the targets; the mean over a batch.
        generator: source of all randomness.
        initial: for criteria that revive weights, what they were before any went.

    """

    model: nn.Module
    weights: dict[str, nn.Parameter]
    masks: Masks
    inputs: tuple[torch.Tensor, ...]
    data: Data = ()
    loss: Loss = F.cross_entropy
    generator: torch.Generator = field(default_factory=torch.Generator)
    initial: Scores = field(default_factory=dict)


Score = Callable[[Context], Scores]


def gradients(context: Context) -> Scores:
    """Gradient of the mean loss over the data with respect to the weights, pruned ones included."""
    return _mean_over_batches(context, torch.autograd.grad)


def hessian_product(context: Context, vector: Scores) -> Scores:
    """Hessian of the mean loss over the data times `vector`."""

    def product(loss: torch.Tensor, weights: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        gradient = torch.autograd.grad(loss, weights, create_graph=True)
        inner = [(g * vector[name]).sum() for name, g in zip(context.weights, gradient, strict=True)]
        second: tuple[torch.Tensor, ...] = torch.autograd.grad(torch.stack(inner).sum(), weights)
        return second

    return _mean_over_batches(context, product)


def _mean_over_batches(
    context: Context, differentiate: Callable[[torch.Tensor, list[torch.Tensor]], tuple[torch.Tensor, ...]]
) -> Scores:
    """Mean of a derivative of the loss over all examples, with batch statistics as in training."""
    names, weights = list(context.weights), list(context.weights.values())
    total = [torch.zeros_like(weight) for weight in weights]
    examples = 0
    training = context.model.training
    context.model.train()
    for inputs, targets in context.data:
        buffers = {name: buffer.clone() for name, buffer in context.model.named_buffers()}
        output = functional_call(context.model, buffers, (inputs,))
        parts = differentiate(context.loss(output, targets), weights)
        total = [sofar + len(inputs) * part.detach() for sofar, part in zip(total, parts, strict=True)]
        examples += len(inputs)
    context.model.train(training)
    return {name: part / examples for name, part in zip(names, total, strict=True)}
