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
ALIGNED = {64: 16, 24: 8}
"""Axes of at least so many channels keep a multiple of so many, which kernels of most runtimes take at once."""


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

    Those of the same axes go in bundles that leave as many channels as `ALIGNED` says.

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
    left = np.bincount([unit.family for unit in units])
    least, now = np.maximum(np.ceil(left * LEAST), 1), total
    for bundle in _bundles(units, lost, saved):
        if now <= share * total:
            break
        family = units[int(bundle[0])].family
        if left[family] - len(bundle) >= least[family]:
            now -= _remove(bundle, alive, touching)
            left[family] -= len(bundle)
    return alive


def _remove(bundle: np.ndarray, alive: np.ndarray, touching: Mapping[int, list[tuple[Work, int, int]]]) -> float:
    """Strike units from those alive; what their layers do less."""
    works = {id(work): work for number in bundle for work, *_ in touching[int(number)]}.values()
    before = sum(work.part.multiplies(alive) * work.positions for work in works)
    alive[bundle] = False
    return before - sum(work.part.multiplies(alive) * work.positions for work in works)


def _bundles(units: Sequence[Unit], lost: np.ndarray, saved: np.ndarray) -> list[np.ndarray]:
    """Units that go together, by what they lose for what they save; what they leave of a family is aligned."""
    families: dict[int, list[int]] = {}
    for number, unit in enumerate(units):
        if saved[number]:
            families.setdefault(unit.family, []).append(number)
    found = list[np.ndarray]()
    for numbers in families.values():
        width = max(len(places) for places in units[numbers[0]].slabs.values())
        multiple = next((size for least, size in ALIGNED.items() if width * len(numbers) >= least), 1)
        step = max(multiple // width, 1)
        order = np.array(numbers)[np.argsort(lost[numbers], kind="stable")]
        first = len(order) % step or step
        found += np.split(order, np.arange(first, len(order), step))
    return sorted(found, key=lambda bundle: float(lost[bundle].sum() / saved[bundle].sum()))


def _touching(units: Sequence[Unit], works: Sequence[Work]) -> Mapping[int, list[tuple[Work, int, int]]]:
    """By unit the layers that it is part of, with its rows and columns there."""
    found: dict[int, list[tuple[Work, int, int]]] = {number: [] for number in range(len(units))}
    for work in works:
        counts = [np.bincount(side[side != NONE], minlength=len(units)) for side in (
            work.part.rows.reshape(-1), work.part.columns.reshape(-1))]
        for number in np.flatnonzero(counts[0] + counts[1]):
            found[int(number)].append((work, int(counts[0][number]), int(counts[1][number])))
    return found
