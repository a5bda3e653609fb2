"""Pruning schedules: when to prune and when to train."""

from __future__ import annotations

from collections.abc import Callable

from sparsec.models.masks import Masks
from sparsec.models.schedules.dynamic import rigl, set_
from sparsec.models.schedules.gradual import gradual
from sparsec.models.schedules.hard_concrete import hard_concrete
from sparsec.models.schedules.movement import movement
from sparsec.models.schedules.rounds import imp, iterative, one_shot
from sparsec.models.schedules.task import Task

SCHEDULES: dict[str, Callable[[Task], Masks]] = {
    "one-shot": one_shot,
    "iterative": iterative,
    "gradual": gradual,
    "imp": imp,
    "set": set_,
    "rigl": rigl,
    "movement": movement,
    "l0": hard_concrete,
}
