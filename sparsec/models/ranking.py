"""From scores to masks: globally or by layer-wise quotas, to a direct or to an effective sparsity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sparsec.errors import PruningError
from sparsec.models.criteria.context import Scores
from sparsec.models.masks import Masks, kept, size
from sparsec.models.patterns import Pattern
from sparsec.models.quotas import Quota, layer_sparsities


@dataclass(frozen=True)
class Ranking:
    """The groups of every unit in one order, from which the masks of any sparsity are cut: sparser masks are subsets.

    Attributes:
        scores: (groups,) by unit; minus infinity for what has been removed before.
        sizes: weights in every group, likewise.
        shapes: of the units.
        quota: layer-wise quota, by name or as a rule, or None to compare the groups of all units.

    """

    model: nn.Module
    pattern: Pattern
    scores: dict[str, torch.Tensor]
    sizes: dict[str, torch.Tensor]
    shapes: dict[str, torch.Size]
    quota: str | Quota | None


def rank(
    model: nn.Module, scores: Scores, masks: Masks, pattern: Pattern, quota: str | Quota | None
) -> Ranking:
    """Rank the weights under `masks` by their scores. Raises PruningError when a score is not a number."""
    for name, score in scores.items():
        if score.isnan().any():
            raise PruningError(f"the scores of layer '{name}' are not numbers: the loss or the weights overflow")
    units = pattern.join(model, scores)
    left = pattern.join(model, {name: masks[name].float() for name in scores})
    pooled = {
        unit: pattern.pool(score * left[unit]).masked_fill(pattern.pool(left[unit]) == 0, -torch.inf)
        for unit, score in units.items()
    }
    sizes = {unit: pattern.pool(torch.ones_like(part)) for unit, part in left.items()}
    return Ranking(model, pattern, pooled, sizes, {unit: score.shape for unit, score in units.items()}, quota)


def masks_at(ranking: Ranking, sparsity: float) -> Masks:
    """Masks of a direct sparsity of the ranked layers, to the nearest group; a quota leaves every layer one group."""
    if ranking.quota is None:
        scores, sizes = (torch.cat(list(parts.values())) for parts in (ranking.scores, ranking.sizes))
        chosen = _best(scores, sizes, (1 - sparsity) * float(sizes.sum()))
        groups = dict(zip(ranking.scores, chosen.split([len(part) for part in ranking.scores.values()]), strict=True))
    else:
        shapes = list(ranking.shapes.values())
        shares = (layer_sparsities(ranking.quota, shapes, sparsity) if isinstance(ranking.quota, str)
                  else ranking.quota(shapes, sparsity))
        groups = {}
        for (unit, scores), share in zip(ranking.scores.items(), shares, strict=True):
            sizes = ranking.sizes[unit]
            budget = (1 - share) * float(sizes.sum())
            groups[unit] = _best(scores, sizes, max(budget, float(sizes.max()) if sparsity < 1 else 0.0))
    masks = {unit: ranking.pattern.expand(groups[unit], shape) for unit, shape in ranking.shapes.items()}
    return ranking.pattern.split(ranking.model, masks)


def masks_at_effective(
    ranking: Ranking, sparsity: float, reachable: Callable[[Masks], Masks], tolerance: float
) -> Masks:
    """Masks whose effective sparsity is the target (Vysogorets & Kempe 2023, section 5).

    Bisects the number of removed weights, which needs O(log weights) evaluations of `reachable`. For random scores with
    a quota this is their algorithm 1: in a random order fixed once, what lies between two prefixes is a uniform sample.

    Raises PruningError when no threshold comes within `tolerance` of the effective density; names the nearest.
    """
    total = size(masks_at(ranking, 0.0))
    target = (1 - sparsity) * total
    few, many = 0, total  # removed weights that leave more, and not more, than the target
    while many - few > 1:
        middle = (few + many) // 2
        if kept(reachable(masks_at(ranking, middle / total))) > target:
            few = middle
        else:
            many = middle
    found = {removed: kept(reachable(masks_at(ranking, removed / total))) for removed in (few, many)}
    best = min(found, key=lambda removed: abs(found[removed] - target))
    if found[best] == 0 or abs(found[best] - target) > max(1.0, tolerance * target):
        nearest = " and ".join(sorted({f"{1 - left / total:.6f}" for left in found.values() if left})) or "none"
        raise PruningError(
            f"no threshold reaches effective sparsity {sparsity}: the nearest are {nearest}"
            f"{', then every path is cut' if found[many] == 0 else ''}; ask for one of these or widen the tolerance"
        )
    return masks_at(ranking, best / total)


def _best(scores: torch.Tensor, sizes: torch.Tensor, budget: float) -> torch.Tensor:
    """Mask of the highest scores whose sizes add up to the budget; of equal ones the first, none of minus infinity."""
    if sizes.min() < sizes.max():
        order = scores.argsort(descending=True, stable=True)
        ordered = sizes[order].double()
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        chosen[order[ordered.cumsum(0) - ordered / 2 <= budget]] = True
        return chosen & (scores > -torch.inf)
    count = round(budget / float(sizes[0]))
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = float(np.partition(scores.numpy(), -count)[-count])  # several times faster than kthvalue
    chosen = scores > threshold
    ties = (scores == threshold).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen & (scores > -torch.inf)
