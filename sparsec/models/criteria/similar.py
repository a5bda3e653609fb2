"""Units that resemble another are merged into it (Srinivas & Babu 2015)."""

from __future__ import annotations

import torch

from sparsec.errors import PruningError
from sparsec.models.criteria.chains import per_input, readers
from sparsec.models.criteria.context import Context, Scores
from sparsec.models.criteria.structure import spread
from sparsec.models.masks import Masks


def similar_units(context: Context) -> Scores:
    """How late a unit goes where each time that of a pair goes which its like replaces best.

    The cost of replacing unit j by i is the mean square of what j's reader multiplies it with, times the squared
    distance of their weights and biases (eq. 8). Data-free. Covers the layers that one layer alone reads.
    Raises PruningError when there is none.
    """
    pairs = readers(context)
    if not pairs:
        raise PruningError(
            "criterion 'similar-units' needs layers whose outputs one layer alone reads: the model has none"
        )
    scores = {}
    for first, second in pairs.items():
        cost, place = _costs(context, first, second), torch.zeros(len(context.weights[first]))
        for number in range(1, len(place)):
            best = cost.min(1).values
            chosen = int(best.argmin())
            place[chosen] = number
            cost[chosen], cost[:, chosen] = torch.inf, torch.inf
        place[place == 0] = len(place)
        scores[first] = spread(place, context.weights[first])
    return scores


def merge(context: Context, masks: Masks) -> None:
    """The reader's weights for a unit that goes are added to those for the unit that is left and most like it."""
    pairs = readers(context)
    with torch.no_grad():
        for first, second in pairs.items():
            left = masks[first].flatten(1).any(1)
            if left.all() or not left.any():
                continue
            cost = _costs(context, first, second)
            cost[:, ~left] = torch.inf
            reader = context.weights[second]
            parts = per_input(reader, len(left)).clone()
            for unit in (~left).nonzero().flatten().tolist():
                parts[cost[unit].argmin()] += parts[unit]
                parts[unit] = 0
            reader.copy_(parts.movedim(0, 1).reshape(reader.shape))


def _costs(context: Context, first: str, second: str) -> torch.Tensor:
    """What replacing unit j by i costs, (j, i); infinite on the diagonal."""
    weight = context.weights[first].detach()
    bias = getattr(context.model.get_submodule(first.rpartition(".")[0]), "bias", None)
    rows = weight.flatten(1) if bias is None else torch.cat([weight.flatten(1), bias.detach()[:, None]], 1)
    read = per_input(context.weights[second].detach(), len(weight)).square().mean((1, 2))
    return (read[:, None] * torch.cdist(rows, rows).square()).fill_diagonal_(torch.inf)
