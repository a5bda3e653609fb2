"""Filters near the geometric median of their layer say what the others say (FPGM, He et al. 2019)."""

from __future__ import annotations

import torch

from sparsec.models.criteria.context import Context, Scores
from sparsec.models.criteria.structure import spread


def geometric_median(context: Context) -> Scores:
    """The sum of a filter's distances to all filters of its layer (eq. 6), spread evenly over its weights."""
    scores = {}
    for name, weight in context.weights.items():
        rows = weight.detach().flatten(1)
        scores[name] = spread(torch.cdist(rows, rows).sum(1), weight)
    return scores
