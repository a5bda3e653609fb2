"""Criteria of the first derivative of the loss."""

from __future__ import annotations

from sparsec.models.criteria.context import Context, Scores, gradients


def snip(context: Context) -> Scores:
    """|g w| (Lee et al. 2019); zero for what is cut off, which iterating thus drops (de Jorge et al. 2021)."""
    return {name: (g * context.weights[name].detach()).abs() for name, g in gradients(context).items()}


def force(context: Context) -> Scores:
    """|g w|, g of the network as pruned so far and w as it was: what has gone may come back (FORCE, de Jorge 2021)."""
    return {name: (g * context.initial[name]).abs() for name, g in gradients(context).items()}


def taylor(context: Context) -> Scores:
    """(g w)^2 (Taylor-FO, Molchanov et al. 2019)."""
    return {name: score.square() for name, score in snip(context).items()}
