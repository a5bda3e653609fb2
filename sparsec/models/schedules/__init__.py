"""Pruning schedules: when to prune and when to train. A family a file."""

from __future__ import annotations

from sparsec.errors import UsageError, meant
from sparsec.models.schedules.deep_rewiring import deep_rewiring
from sparsec.models.schedules.dynamic import itop, rigl, set_
from sparsec.models.schedules.edge_popup import edge_popup
from sparsec.models.schedules.eigendamage import eigendamage
from sparsec.models.schedules.freeze import freeze
from sparsec.models.schedules.gradual import gradual
from sparsec.models.schedules.hard_concrete import hard_concrete
from sparsec.models.schedules.movement import movement
from sparsec.models.schedules.reallocation import dsr, snfs
from sparsec.models.schedules.rounds import imp, iterative, one_shot
from sparsec.models.schedules.schedule import Schedule
from sparsec.models.schedules.shrinkage import group_lasso, lasso, ridge
from sparsec.models.schedules.signs import signs
from sparsec.models.schedules.top_kast import top_kast
from sparsec.models.schedules.variational import variational_dropout

SCHEDULES: dict[str, Schedule] = {
    "one-shot": Schedule(one_shot, pretrained=True),
    "iterative": Schedule(iterative, pretrained=True),
    "gradual": Schedule(gradual, pretrained=True),
    "imp": Schedule(imp),
    "set": Schedule(set_, effective=False, criterion="random", quota="erk"),
    "rigl": Schedule(rigl, effective=False, criterion="random", quota="erk"),
    "itop": Schedule(itop, effective=False, criterion="random", quota="erk"),
    "deepr": Schedule(deep_rewiring, effective=False, single=True, criterion="random", quota="uniform"),
    "dsr": Schedule(dsr, effective=False, single=True, criterion="random", quota="uniform"),
    "snfs": Schedule(snfs, effective=False, single=True, criterion="random", quota="uniform"),
    "top-kast": Schedule(top_kast, effective=False, single=True),
    "movement": Schedule(movement, effective=False, single=True),
    "l0": Schedule(hard_concrete, effective=False, single=True),
    "variational-dropout": Schedule(variational_dropout, effective=False, single=True),
    "eigendamage": Schedule(eigendamage, effective=False, single=True, pretrained=True, final=True, zeros=False),
    "lasso": Schedule(lasso),
    "ridge": Schedule(ridge),
    "group-lasso": Schedule(group_lasso, pattern="filters"),
    "edge-popup": Schedule(edge_popup, effective=False, single=True, final=True, seeded=True),
    "signs": Schedule(signs, criterion="random", quota="erk", final=True, seeded=True),
    "freeze": Schedule(freeze, criterion="snip", final=True, zeros=False, seeded=True),
}


def schedule(name: str) -> Schedule:
    """Look up a schedule. Raises UsageError that lists the known names."""
    if name not in SCHEDULES:
        raise UsageError(f"unknown schedule '{name}': {meant(name, SCHEDULES)}choose from {', '.join(SCHEDULES)}")
    return SCHEDULES[name]
