"""Storage formats for tensor cores as arrangements of a weight's columns, so that families need not know each.

Most make every four columns in a row hold at most two non-zeros, without losing any. The kernels gather the features
of the activations by index, so a column may be repeated or moved for free:

    windows   N:M with M = N + 2 (4:6, 6:8): overlapping windows of four columns, each taking up to two of what the
              windows before it have left (SlideSparse)
    permuted  channels reordered, found by a greedy search (Pool and Yu, Channel Permutations for N:M Sparsity, 2021)

Where no arrangement is 2:4, few weights too many may be a rest that the kernel adds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sparsec.formats.nm import best_of_groups, group_counts
from sparsec.kernels.cuda.fragments import ROWS
from sparsec.kernels.cuda.metadata import GROUP, KEPT
from sparsec.kernels.family import WeightedProduct

CANDIDATES = 256
"""Columns, about, that one step of the search tries."""
SEARCHED = 1 << 31
"""Multiply-adds from which on a search would take minutes."""


def _as_it_is(weight: np.ndarray) -> np.ndarray:
    return weight


@dataclass(frozen=True)
class Arranged:
    """How a product takes a weight; it holds no weights, so that it may be kept as long as the graph.

    Attributes:
        depth: columns of the arranged weight.
        of: the weight (outputs, inputs) as (outputs, columns), 2:4 unless the kernel takes others.
        gather: the input that each column multiplies (columns,), None for its own number.
        run: the length of aligned runs of columns that are aligned runs of inputs.
        rest: the share of the weights that 2:4 leaves over, where the kernel adds them.

    """

    depth: int
    of: Callable[[np.ndarray], np.ndarray] = field(default=_as_it_is, repr=False)
    gather: np.ndarray | None = field(default=None, repr=False)
    run: int = 1
    rest: float = 0.0


def any_weight(weight: np.ndarray) -> Arranged:
    """The weight as it is, whatever it holds."""
    return Arranged(weight.shape[1])


def plain(weight: np.ndarray) -> Arranged | str:
    """The weight as it is, or why it is not 2:4."""
    if weight.shape[1] % GROUP:
        return f"K = {weight.shape[1]} is not a multiple of {GROUP}"
    if crowded := int((group_counts(weight, GROUP) > KEPT).sum()):
        return f"{crowded} of {weight.size // GROUP} groups have more than {KEPT} non-zeros"
    return any_weight(weight)


def windows(weight: np.ndarray, size: int) -> Arranged | str:
    """An N:`size` weight, N = size - 2, as overlapping windows of four, or why it is not such."""
    if weight.shape[1] % size:
        return f"K = {weight.shape[1]} is not a multiple of {size}"
    if crowded := int((group_counts(weight, size) > size - 2).sum()):
        return f"{crowded} of {weight.size // size} groups have more than {size - 2} non-zeros of {size}"
    starts = (np.arange(0, weight.shape[1], size)[:, np.newaxis] + np.arange(0, size - GROUP + 1, 2)).ravel()
    gather = (starts[:, np.newaxis] + np.arange(GROUP)).ravel()
    return Arranged(len(gather), functools.partial(_windowed, starts), gather, run=2)


def _windowed(starts: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The windows of four columns that begin at `starts`, each with what those before it have left."""
    left, arranged = weight.copy(), np.zeros((len(weight), starts.size, GROUP), weight.dtype)
    for index, start in enumerate(starts):
        window = left[:, start:start + GROUP]
        taken = (window != 0) & (np.cumsum(window != 0, axis=1) <= KEPT)
        arranged[:, index] = window * taken
        window[taken] = 0
    assert not left.any()  # pairs of columns hold at most two, so the windows take all
    return arranged.reshape(len(weight), -1)


def permuted(weight: np.ndarray) -> Arranged | str:
    """The weight with its columns reordered, or why no order is known that makes it 2:4."""
    rows, columns = weight.shape
    if columns % GROUP:
        return f"K = {columns} is not a multiple of {GROUP}"
    if np.count_nonzero(weight) * GROUP > KEPT * weight.size:
        return f"more than {KEPT} of {GROUP} weights are non-zeros, so that no order is 2:4"
    if columns // 2 * min(columns, CANDIDATES) * rows > SEARCHED:
        return "the matrix is too large to search"
    used = np.ascontiguousarray((weight != 0).T, np.float32)  # (columns, rows)
    free = list(np.argsort(-used.sum(axis=1), kind="stable"))  # the fullest first
    order: list[int] = []
    while free:
        group = [free.pop(0)]
        counts = used[group[0]].copy()
        while len(group) < GROUP:
            tried = np.array(free[::max(1, len(free) // CANDIDATES)])
            full, sums = used[tried] @ (counts >= KEPT), used[tried].sum(axis=1)  # non-zeros too many, and all
            overlap = np.round(used[tried] @ counts - sums * counts.mean(), 3)  # beyond chance
            best = int(np.lexsort((-sums, overlap, full))[0])
            if full[best]:
                return "no order of the channels was found that leaves two of four"
            group.append(int(tried[best]))
            counts += used[tried[best]]
            free.remove(tried[best])
        order += group
    gather = np.array(order)
    return Arranged(columns, lambda own: np.ascontiguousarray(own[:, gather]), gather)


def with_rest(weight: np.ndarray) -> Arranged | str:
    """The weight as it is, for a kernel that adds what 2:4 leaves over, or why that could not pay.

    A 2:4 product takes half of dense's multiply-adds, and every weight of the rest those of a fragment's rows.
    """
    if weight.shape[1] % GROUP:
        return f"K = {weight.shape[1]} is not a multiple of {GROUP}"
    share = int(np.maximum(group_counts(weight, GROUP) - KEPT, 0).sum()) / weight.size
    if share * ROWS >= 1 - KEPT / GROUP:
        return f"the {100 * share:.1f} % of weights left over would take all that 2:4 saves"
    return Arranged(weight.shape[1], rest=share)


@dataclass(frozen=True)
class Arrangement:
    """How a storage format arranges a weight (outputs, inputs).

    Attributes:
        arrange: how, or the reason why not.
        unless: the arrangements that make it pointless for a weight, where they are possible.

    """

    arrange: Callable[[np.ndarray], Arranged | str] = any_weight
    unless: tuple[str, ...] = ()


ARRANGEMENTS: dict[str, Arrangement] = {
    "nm 2:4": Arrangement(plain),
    "nm 2:4 permuted": Arrangement(permuted, unless=("nm 2:4",)),
    "nm 2:4 + rest": Arrangement(with_rest, unless=("nm 2:4", "nm 2:4 permuted")),
    "nm 4:6": Arrangement(functools.partial(windows, size=6), unless=("nm 2:4", "nm 2:4 permuted")),
    "nm 6:8": Arrangement(functools.partial(windows, size=8), unless=("nm 2:4", "nm 2:4 permuted", "nm 4:6")),
}
"""By storage format; those that are not here take any weight as it is."""


def arranged(layer: WeightedProduct, name: str) -> Arranged | str:
    """How a storage format arranges a layer's weight, or why it is not stored so."""
    arrangement = ARRANGEMENTS.get(name, Arrangement())
    better = next((other for other in arrangement.unless if isinstance(arranged(layer, other), Arranged)), None)
    return layer.memoised(arrangement.arrange) if better is None else f"the weight is {better}"


def project(weight: np.ndarray) -> np.ndarray:
    """The weight (outputs, inputs) with all but the two largest of every four set to zero; the first of equals stay."""
    result: np.ndarray = np.where(best_of_groups(np.abs(weight), KEPT, GROUP), weight, 0)
    return result
