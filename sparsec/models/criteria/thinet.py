"""ThiNet: the filters whose loss the next layer notices least (Luo et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsec.errors import PruningError
from sparsec.models.criteria.chains import hooked, per_input, readers
from sparsec.models.criteria.context import Context, Scores
from sparsec.models.criteria.obs import columns
from sparsec.models.criteria.structure import spread

SAMPLES = 1000  # sums of the next layer that are looked at


def thinet(context: Context) -> Scores:
    """How late a filter goes where each time the one goes that changes the next layer's sums least (eq. 6).

    Of sums drawn at random over the data, outputs and positions. Covers the layers that one layer alone reads.
    Raises PruningError when there is none.
    """
    pairs = {first: second for first, second in readers(context).items()
             if getattr(context.model.get_submodule(second.rpartition(".")[0]), "groups", 1) == 1}
    if not pairs:
        raise PruningError("criterion 'thinet' needs layers whose outputs one layer alone reads: the model has none")
    return {first: spread(_lateness(_parts(context, first, second)), context.weights[first])
            for first, second in pairs.items()}


def _parts(context: Context, first: str, second: str) -> torch.Tensor:
    """What every filter of the first layer adds to sums of the second, (samples, filters)."""
    found: list[torch.Tensor] = []

    def hook(_name: str) -> Any:
        def seen(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = columns(layer, inputs[0])[0]
            found.append(rows[torch.randint(len(rows), (SAMPLES,), generator=context.generator)])
        return seen

    with hooked(context, [second], hook, before=True), torch.no_grad():
        for inputs, _ in context.data:
            context.model(inputs)
    seen = torch.cat(found)[:SAMPLES]
    weight = context.weights[second].detach()
    rows = weight.flatten(1)[torch.randint(len(weight), (len(seen),), generator=context.generator)]
    units = len(context.weights[first])
    return per_input(seen * rows, units).sum(2).T


def _lateness(parts: torch.Tensor) -> torch.Tensor:
    """Greedy removal: 1 for the filter that goes first, and so on, (filters,)."""
    gone, place = torch.zeros(len(parts)), torch.zeros(parts.shape[1])
    for number in range(1, parts.shape[1] + 1):
        cost = (gone[:, None] + parts).square().sum(0).masked_fill(place > 0, torch.inf)
        chosen = int(cost.argmin())
        gone += parts[:, chosen]
        place[chosen] = number
    return place
