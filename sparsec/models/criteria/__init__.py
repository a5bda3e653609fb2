"""Pruning criteria: a score for every weight, the higher the more it is worth (Wang et al. 2022, table 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparsec.errors import UsageError, meant
from sparsec.models.criteria.activity import activity
from sparsec.models.criteria.context import Context, Score
from sparsec.models.criteria.curvature import grasp, obd
from sparsec.models.criteria.fisher import move_by_fisher, woodfisher
from sparsec.models.criteria.gradient import force, snip, taylor
from sparsec.models.criteria.magnitude import lamp, magnitude, random
from sparsec.models.criteria.median import geometric_median
from sparsec.models.criteria.obs import compensate, obs
from sparsec.models.criteria.phew import phew
from sparsec.models.criteria.prospr import prospr
from sparsec.models.criteria.similar import merge, similar_units
from sparsec.models.criteria.structure import batchnorm_scale, filter_norm
from sparsec.models.criteria.synflow import synflow
from sparsec.models.criteria.thinet import thinet
from sparsec.models.masks import Masks


@dataclass(frozen=True)
class Criterion:
    """A score and how it is meant to be used.

    Attributes:
        score: the score of every weight that the criterion covers.
        trained: whether it ranks trained weights; the others prune a network at initialisation.
        needs_data: whether it needs batches of data.
        rounds: how often it is evaluated on the way to the target.
        quota: its usual layer-wise quota, or `global` to rank all layers together; None leaves it to the pattern.
        pattern: its usual pattern.
        compensate: changes the weights that remain once the masks are known.
        revives: whether weights that have gone may come back in a later round.

    """

    score: Score
    trained: bool
    needs_data: bool = False
    rounds: int = 1
    quota: str | None = None
    pattern: str = "unstructured"
    compensate: Callable[[Context, Masks], None] | None = None
    revives: bool = False


CRITERIA = {
    "magnitude": Criterion(magnitude, trained=True),
    "lamp": Criterion(lamp, trained=True),
    "random": Criterion(random, trained=False, quota="uniform"),
    "snip": Criterion(snip, trained=False, needs_data=True),
    "snip-iterative": Criterion(snip, trained=False, needs_data=True, rounds=300),
    "force": Criterion(force, trained=False, needs_data=True, rounds=60, revives=True),
    "prospr": Criterion(prospr, trained=False, needs_data=True),
    "phew": Criterion(phew, trained=False, quota="global"),
    "grasp": Criterion(grasp, trained=False, needs_data=True),
    "synflow": Criterion(synflow, trained=False, rounds=100),
    "obd": Criterion(obd, trained=True, needs_data=True),
    "obs": Criterion(obs, trained=True, needs_data=True, rounds=4, quota="uniform", compensate=compensate),
    "woodfisher": Criterion(woodfisher, trained=True, needs_data=True, quota="global", compensate=move_by_fisher),
    "taylor": Criterion(taylor, trained=True, needs_data=True),
    "filter-norm": Criterion(filter_norm, trained=True, pattern="filters"),
    "apoz": Criterion(activity, trained=True, needs_data=True, pattern="filters"),
    "geometric-median": Criterion(geometric_median, trained=True, pattern="filters"),
    "thinet": Criterion(thinet, trained=True, needs_data=True, pattern="filters"),
    "similar-units": Criterion(similar_units, trained=True, pattern="filters", compensate=merge),
    "batchnorm": Criterion(batchnorm_scale, trained=True, quota="global", pattern="filters"),
}


def criterion(name: str) -> Criterion:
    """Look up a criterion. Raises UsageError that lists the known names."""
    if name not in CRITERIA:
        raise UsageError(f"unknown criterion '{name}': {meant(name, CRITERIA)}choose from {', '.join(CRITERIA)}")
    return CRITERIA[name]
