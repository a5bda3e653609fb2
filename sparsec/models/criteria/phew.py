"""PHEW: paths of higher edge weights, walked at random (Patil & Dovrolis 2021)."""

from __future__ import annotations

import torch

from sparsec.errors import PruningError
from sparsec.models.criteria.chains import per_input, readers
from sparsec.models.criteria.context import Context, Scores

WALKS = 4096  # at once
DENSEST = 0.5
"""The share of the weights up to which walks rank them; the others follow by magnitude."""
TRIES = 200


def phew(context: Context) -> Scores:
    """How early a weight is first walked on, from an input to an output or from an output to an input.

    A walk leaves a unit by a weight of a probability proportional to its magnitude; one in two goes backwards. Needs
    neither data nor training. Raises PruningError when the layers are no chain.
    """
    chain = _chain(context)
    forwards = [_table(per_input(weight, weight.shape[1])) for weight in chain.values()]  # by input: (out, places)
    backwards = [_table(weight.flatten(1)[:, :, None]) for weight in chain.values()]  # by output: (in, places)
    first = {name: torch.full((weight.numel(),), torch.inf) for name, weight in chain.items()}
    total = sum(len(part) for part in first.values())
    for number in range(TRIES):
        if sum(int(part.isfinite().sum()) for part in first.values()) >= DENSEST * total:
            break
        when = number * WALKS + torch.arange(WALKS, dtype=torch.float32)
        for name, walked in _walk(context, chain, backwards if number % 2 else forwards, up=number % 2 == 1).items():
            first[name].scatter_reduce_(0, walked, when, "amin")
    return {name: _scores(first[name].reshape(weight.shape), weight) for name, weight in chain.items()}


def _scores(first: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Above one for what was walked on, the earlier the higher; below for the rest, by magnitude."""
    rest = weight.abs() / (1 + weight.abs())
    return torch.where(first.isfinite(), 2 - first.nan_to_num(posinf=0.0) / (TRIES * WALKS), rest)


def _chain(context: Context) -> dict[str, torch.Tensor]:
    """The weights in order, each read by the next alone."""
    pairs = readers(context)
    heads = set(context.weights) - set(pairs.values())
    chain: dict[str, torch.Tensor] = {}
    name = heads.pop() if len(heads) == 1 else None
    while name is not None:
        chain[name] = context.weights[name].detach()
        name = pairs.get(name)
    if len(chain) < len(context.weights):
        raise PruningError("criterion 'phew' walks through layers that are read one by the next: the model's are not; "
                           "synflow ranks by paths in any network")
    return chain


def _table(parts: torch.Tensor) -> torch.Tensor:
    """Sums of the magnitudes along each row, (units, edges), from which edges are drawn."""
    magnitude = parts.flatten(1).abs().double() + 1e-12
    return (magnitude / magnitude.sum(1, keepdim=True)).cumsum(1)


def _walk(context: Context, chain: dict[str, torch.Tensor], tables: list[torch.Tensor], *, up: bool
          ) -> dict[str, torch.Tensor]:
    """By weight, the flat places of the edges that a batch of walks takes."""
    order = list(zip(chain.items(), tables, strict=True))
    order = order[::-1] if up else order
    count = len(order[0][1])
    unit = torch.randint(count, (WALKS,), generator=context.generator)
    taken = {}
    for (name, weight), table in order:
        unit = _among(unit, count, len(table), context.generator)
        draw = torch.rand((WALKS, 1), generator=context.generator, dtype=torch.float64)
        edge = torch.searchsorted(table[unit], draw).squeeze(1).clamp(max=table.shape[1] - 1)
        inside = weight[0, 0].numel()
        if up:
            taken[name] = unit * table.shape[1] + edge
            unit, count = edge // inside, weight.shape[1]
        else:
            out, place = edge // inside, edge % inside
            taken[name] = (out * weight.shape[1] + unit) * inside + place
            unit, count = out, len(weight)
    return taken


def _among(unit: torch.Tensor, count: int, units: int, generator: torch.Generator) -> torch.Tensor:
    """Units of one layer as the next counts them: of a flattened convolution any position, or the channel of one."""
    if units <= count:
        return unit // (count // units)
    places = units // count
    return unit * places + torch.randint(places, unit.shape, generator=generator)
