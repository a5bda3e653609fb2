"""Which units go: what the layers that read a unit lose without it, for the multiplications that go with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsec.oneshot.criteria.moments import Moments
from sparsec.oneshot.structured.parts import NONE, Part
from sparsec.oneshot.structured.units import Unit

LEAST = 0.1
"""The share of the units of the same axes that stay."""


@dataclass(frozen=True)
class Work:
    """A layer and how many products of its matrix a run has."""

    part: Part
    positions: int


def losses(part: Part, matrix: np.ndarray, moments: Sequence[Moments], count: int) -> np.ndarray:
    """By unit the squared error of a layer's outputs over their squares, were it removed and the others moved.

    Removing the columns S of W costs tr(W_S ([H^-1]_SS)^-1 W_S^T) (Kurtic et al. 2023, ZipLM, eq. 2).
    """
    found = np.zeros(count)
    for weight, own, numbers in zip(matrix, moments, part.columns, strict=True):
        named = np.unique(numbers[numbers != NONE])
        if not len(named):
            continue
        inverse = own.factor.T @ own.factor * (1 / own.scale)
        whole = float(np.sum((weight @ own.hessian) * weight)) or 1.0
        for number in named:
            places = np.flatnonzero(numbers == number)
            lost = weight[:, places].astype(np.float64)
            found[number] += np.sum(np.linalg.solve(inverse[np.ix_(places, places)], lost.T) * lost.T) / whole
    return found


def chosen(units: Sequence[Unit], works: Sequence[Work], lost: np.ndarray, share: float) -> np.ndarray:
    """Which units stay: those go that lose least for what they save, until the layers do a share of the products.

    Args:
        units: all units.
        works: the layers.
        lost: by unit the losses of all layers.
        share: of the multiplications, which stays.

    """
    alive = np.ones(len(units), bool)
    total = sum(work.part.multiplies(alive) * work.positions for work in works)
    touching = _touching(units, works)
    saved = np.zeros(len(units))
    for number, pieces in touching.items():
        saved[number] = sum((rows * work.part.columns.shape[1] + columns * work.part.rows.shape[1]) * work.positions
                            for work, rows, columns in pieces)
    families = np.array([unit.family for unit in units])
    left = np.bincount(families)
    least = np.maximum(np.ceil(left * LEAST), 1)
    now = total
    for number in np.argsort(lost / np.maximum(saved, 1e-30), kind="stable"):
        if now <= share * total:
            break
        family = families[number]
        if saved[number] and left[family] > least[family]:
            before = sum(work.part.multiplies(alive) * work.positions for work, *_ in touching[number])
            alive[number] = False
            left[family] -= 1
            now -= before - sum(work.part.multiplies(alive) * work.positions for work, *_ in touching[number])
    return alive


def _touching(units: Sequence[Unit], works: Sequence[Work]) -> Mapping[int, list[tuple[Work, int, int]]]:
    """By unit the layers that it is part of, with its rows and columns there."""
    found: dict[int, list[tuple[Work, int, int]]] = {number: [] for number in range(len(units))}
    for work in works:
        counts = [np.bincount(side[side != NONE], minlength=len(units)) for side in (
            work.part.rows.reshape(-1), work.part.columns.reshape(-1))]
        for number in np.flatnonzero(counts[0] + counts[1]):
            found[int(number)].append((work, int(counts[0][number]), int(counts[1][number])))
    return found
