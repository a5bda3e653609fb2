"""Units that are zero for most inputs (APoZ, Hu et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsec.errors import PruningError
from sparsec.models.criteria.context import Context, Scores
from sparsec.models.criteria.structure import spread
from sparsec.models.masks import LAYERS


def activity(context: Context) -> Scores:
    """1 - APoZ: the share of a filter's outputs that are positive, spread evenly over its weights.

    What is positive behind the next ReLU is so before it, through a batch normalisation too.
    Raises PruningError when no layer has a ReLU behind it.
    """
    shares = _shares(context)
    if not shares:
        raise PruningError("criterion 'apoz' needs layers with a ReLU module behind them: the model has none")
    return {name: spread(torch.stack(parts).mean(0), context.weights[name]) for name, parts in shares.items()}


def _shares(context: Context) -> dict[str, list[torch.Tensor]]:
    """By weight, of every batch, the share of each filter's outputs that are positive behind the next ReLU."""
    found: dict[str, list[torch.Tensor]] = {}
    last = ""

    def passed(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, _output: torch.Tensor) -> None:
            nonlocal last
            last = name
        return hook

    def seen(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        weight = context.weights.get(last)
        if weight is not None and output.shape[1] == len(weight):
            found.setdefault(last, []).append((output > 0).float().movedim(1, 0).flatten(1).mean(1))
        passed("")(_module, _inputs, output)

    modules = [(module, passed(f"{name}.weight") if isinstance(module, LAYERS) else seen)
               for name, module in context.model.named_modules() if isinstance(module, LAYERS | nn.ReLU | nn.ReLU6)]
    hooks = [module.register_forward_hook(hook) for module, hook in modules]
    training = context.model.training
    context.model.eval()
    with torch.no_grad():
        for inputs, _ in context.data:
            context.model(inputs)
    context.model.train(training)
    for hook in hooks:
        hook.remove()
    return found
