"""Units of a network: channels, hidden features and heads, each with all that can only go together.

A slab is all elements at one index of one axis of a tensor. What operators say about axes that go together
(`sparsec.analysis.liveness`) links slabs; a unit is a set of linked slabs of which none has to stay. So a channel that
a residual connection carries is one unit in all layers that write or read it, a channel of a depthwise convolution is
one with that before it, a group of a grouped convolution one as a whole, and a head one with its queries, keys and
values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sparsec.analysis.liveness.analysis import RULES, analyse, captured
from sparsec.analysis.liveness.conv import groups_of
from sparsec.analysis.liveness.coupling import axes
from sparsec.analysis.liveness.slabs import Key, Relation, length

Pairs = Iterable[tuple[Key, np.ndarray, Key, np.ndarray]]
"""Axes with indices of slabs that go together, one by one."""


@dataclass(frozen=True)
class Unit:
    """What goes together: by name and axis of a constant the indices; `family` numbers units of the same axes."""

    slabs: Mapping[tuple[str, int], np.ndarray]
    family: int


class _Slabs:
    """Numbers for all slabs, links between them, and those that stay."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.first: dict[Key, int] = {}
        self.total = 0
        for key in keys:
            self.first[key] = self.total
            self.total += length(key) or 0
        self.stays = np.zeros(self.total, bool)
        self.links: list[np.ndarray] = []

    def freeze(self, key: Key, which: np.ndarray | slice = slice(None)) -> None:
        first = self.first[key]
        self.stays[first:first + (length(key) or 0)][which] = True

    def link(self, pairs: Pairs) -> None:
        for one, at, other, there in pairs:
            self.links.append(np.stack([self.first[one] + at, self.first[other] + there]))

    def numbers(self) -> np.ndarray:
        """The number of the set of linked slabs that each belongs to."""
        rows, columns = np.concatenate(self.links, axis=1) if self.links else np.zeros((2, 0), np.int64)
        graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(self.total, self.total))
        return np.asarray(connected_components(graph, directed=False)[1])


def units(model: ir.Model) -> list[Unit]:
    """The units of a model as `graph.reader.load` returns it that can go, in the order of its tensors."""
    graph, liveness = model.graph, analyse(model)
    slabs = _Slabs(key for value in liveness.known for key in axes(value))
    for value in (*graph.inputs, *graph.outputs, *captured(graph)):
        for key in axes(value):
            slabs.freeze(key)
    for node in graph:
        everything = [key for value in (*node.inputs, *node.outputs) if value is not None for key in axes(value)]
        relations = [] if node in liveness.opaque else list(RULES[node.op_type].couple(node))
        for relation in relations:
            _read(node, relation, slabs)
        named = {key for relation in relations for key in relation.keys}
        for key in everything:
            if key not in named:
                slabs.freeze(key)
    return list(_collected(graph, slabs))


def _read(node: ir.Node, relation: Relation, slabs: _Slabs) -> None:
    """Add the links of a relation, and the slabs that stay because of it."""
    if relation.chooses:
        if len(relation.keys) == 2 and node.op_type.startswith("Conv") and groups_of(node) > 1:
            slabs.link(_groups(*relation.keys, groups_of(node)))
        return
    holds = [np.zeros(length(key) or 0, np.int32) for key in relation.keys]
    relation.shrink(holds, 1)
    if any(hold.any() for hold in holds):
        for key, hold in zip(relation.keys, holds, strict=True):
            slabs.freeze(key, hold > 0)
    elif len({value for value, _ in relation.keys}) == 2 and len(relation.keys) > 2 and not relation.slabwise:
        _rectangles(relation.keys, slabs)
    else:
        slabs.link(_probed(relation))


def _groups(x: Key, y: Key, groups: int) -> Pairs:
    """All channels of a group, on both sides."""
    for key in (x, y):
        places = np.arange(length(key) or 0)
        yield key, places, y, places // (len(places) // groups) * ((length(y) or 0) // groups)


def _rectangles(keys: Sequence[Key], slabs: _Slabs) -> None:
    """Axes that are split or joined: slabs of the outermost of one side go with what they hold of the other."""
    sides = [[key for key in keys if key[0] is value] for value in dict.fromkeys(value for value, _ in keys)]
    outer = [side[0] for side in sides]
    few, many = sorted(outer, key=lambda key: length(key) or 0)
    ratio, rest = divmod(length(many) or 0, length(few) or 1)
    for side in sides:
        for key in side[1:]:
            slabs.freeze(key)
    if rest:
        slabs.freeze(few)
        slabs.freeze(many)
    else:
        places = np.arange(length(many) or 0)
        slabs.link([(many, places, few, places // ratio)])


def _probed(relation: Relation) -> Pairs:
    """What stays where a slab does goes where it goes; slabs marked with their numbers mark the others."""
    for place, key in enumerate(relation.keys):
        holds = [np.zeros(length(each) or 0, np.int32) for each in relation.keys]
        holds[place][:] = np.arange(len(holds[place])) + 1
        relation.shrink(holds, 1)
        for other, marks in zip(relation.keys, holds, strict=True):
            if other != key:
                marked = np.flatnonzero(marks)
                yield key, marks[marked] - 1, other, marked


def _collected(graph: ir.Graph, slabs: _Slabs) -> Iterator[Unit]:
    """The sets of linked slabs of which none stays, with their slabs of constants."""
    numbers = slabs.numbers()
    staying = np.zeros(slabs.total + 1, bool)
    staying[numbers[slabs.stays]] = True
    found: dict[int, dict[tuple[str, int], np.ndarray]] = {}
    for value in graph.initializers.values():
        for key in axes(value):
            if key in slabs.first and value.dtype is not None and value.dtype.is_floating_point():
                own = numbers[slabs.first[key]:slabs.first[key] + (length(key) or 0)]
                for number in np.unique(own[~staying[own]]):
                    found.setdefault(int(number), {})[str(value.name), key[1]] = np.flatnonzero(own == number)
    families: dict[tuple[tuple[str, int], ...], int] = {}
    for parts in found.values():
        yield Unit(parts, families.setdefault(tuple(parts), len(families)))
