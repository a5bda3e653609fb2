"""Criteria of the weights alone."""

from __future__ import annotations

import torch

from sparsec.models.criteria.context import Context, Scores


def magnitude(context: Context) -> Scores:
    """|w| (Han et al. 2015)."""
    return {name: weight.detach().abs() for name, weight in context.weights.items()}


def lamp(context: Context) -> Scores:
    """w^2 over the sum of the squares that are not smaller in its layer (Lee et al. 2021)."""
    return {name: _lamp(weight.detach() * context.masks[name]) for name, weight in context.weights.items()}


def _lamp(weight: torch.Tensor) -> torch.Tensor:
    squares, order = weight.double().square().flatten().sort(descending=True)
    scores = torch.empty_like(squares)
    scores[order] = squares / squares.cumsum(0)
    return scores.nan_to_num().reshape(weight.shape)  # 0 / 0 in a layer of zeros


def random(context: Context) -> Scores:
    """Uniform on 0 ... 1."""
    return {name: torch.rand(weight.shape, generator=context.generator) for name, weight in context.weights.items()}
