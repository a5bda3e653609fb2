"""The padded flat layout of every image value: values that meet in one stencil share a row stride and an image pitch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import onnx_ir as ir

from sparsec.graph.layout import PaddedFlat, Tiled, round_up
from sparsec.graph.shapes import static_shape
from sparsec.passes.layout.regions import Kind, Role

TOKEN_VECTORS = (4, 5, 6, 7, 8, 3, 2, 1)  # vectors of a token tile, in the order of preference


def token_layout(shape: tuple[int, ...], lanes: int) -> Tiled:
    """The tiles for tokens of shape (tokens, features) or (batch, tokens, features): as little padding as possible."""
    batch, tokens, features = (1, *shape)[-3:]
    width = min((v * lanes for v in TOKEN_VECTORS), key=lambda width: round_up(tokens, width))
    return Tiled(batch, tokens, features, width)


def image_shape(value: ir.Value) -> tuple[int, int, int, int]:
    """(batch, channels, height, width); a sequence (batch, channels, length) is an image of height 1."""
    shape = static_shape(value) or ()
    batch, channels, *spatial = shape
    height, width = (1, *spatial)[-2:]
    return batch, channels, height, width


def image_layouts(roles: Mapping[ir.Node, Role], lanes: int) -> dict[ir.Value, PaddedFlat]:
    """A layout for every value that some node of the region reads or writes as an image."""
    groups = _Groups()
    pads: dict[ir.Value, int] = defaultdict(int)
    for node, role in roles.items():
        if role.kind is not Kind.IMAGE:
            continue
        values = [node.inputs[i] for i in role.inputs] + (list(node.outputs) if role.output else [])
        for value in values:
            groups.add(value)
        for value in _tied(node, values):
            groups.tie(values[-1], value)
        if node.op_type == "Conv" and role.inputs and role.inputs[0] == 0:
            pads[node.inputs[0]] = max(pads[node.inputs[0]], _padding(node))
    layouts: dict[ir.Value, PaddedFlat] = {}
    for members in groups.all():
        layouts.update(_group_layouts(members, pads, lanes))
    return layouts


def _tied(node: ir.Node, values: list[ir.Value]) -> list[ir.Value]:
    """The values that share the last one's row stride and image pitch."""
    if node.op_type == "Conv":
        return values if dense_stencil(node) else values[1:]
    return [] if node.op_type in ("MaxPool", "AveragePool", "GlobalAveragePool") else values


def dense_stencil(node: ir.Node) -> bool:
    """Whether a convolution reads its input in the output's geometry: stride 1, and not depthwise."""
    return all(s == 1 for s in node.attributes.get_ints("strides", ())) and not depthwise(node)


def depthwise(node: ir.Node) -> bool:
    """Whether every channel of a convolution is a group of its own."""
    group = node.attributes.get_int("group", 1)
    return group > 1 and group == image_shape(node.inputs[0])[1]


def _padding(node: ir.Node) -> int:
    """The padding that a convolution wants to find in its input."""
    return max(node.attributes.get_ints("pads", (0,)))


def _group_layouts(members: list[ir.Value], pads: Mapping[ir.Value, int],
                   lanes: int) -> dict[ir.Value, PaddedFlat]:
    """One row stride and one pitch for all members; a smaller image gets more padding instead."""
    shapes = {value: image_shape(value) for value in members}
    need = {value: pads.get(value, 0) for value in members}
    pitch = max(shapes[value][2] + need[value] for value in members)
    flat = any(shapes[value][2] == 1 for value in members)
    pad = {value: max(need.values()) if flat else pitch - shapes[value][2] for value in members}
    stride = max(shapes[value][3] + pad[value] for value in members)
    widest = max(members, key=lambda value: shapes[value][3])
    stride = _row_stride(PaddedFlat(*shapes[widest], pad[widest], stride, lanes))
    return {value: PaddedFlat(*shapes[value], pad[value], stride, lanes, clean=need[value] > 0) for value in members}


def _row_stride(layout: PaddedFlat) -> int:
    """The row stride, rounded up to half or whole vectors where that costs no more vectors: aligned rows load faster."""
    for multiple in (layout.lanes, layout.lanes // 2):
        stride = round_up(layout.row_stride, max(multiple, 1))
        wider = PaddedFlat(layout.batch, layout.channels, layout.height, layout.width, layout.pad, stride, layout.lanes)
        if wider.vectors <= layout.vectors:
            return stride
    return layout.row_stride


class _Groups:
    """Disjoint sets of values."""

    def __init__(self) -> None:
        self._parent: dict[ir.Value, ir.Value] = {}

    def add(self, value: ir.Value) -> None:
        self._parent.setdefault(value, value)

    def _root(self, value: ir.Value) -> ir.Value:
        while self._parent[value] is not value:
            self._parent[value] = self._parent[self._parent[value]]
            value = self._parent[value]
        return value

    def tie(self, a: ir.Value, b: ir.Value) -> None:
        self._parent[self._root(a)] = self._root(b)

    def all(self) -> list[list[ir.Value]]:
        sets: dict[ir.Value, list[ir.Value]] = defaultdict(list)
        for value in self._parent:
            sets[self._root(value)].append(value)
        return list(sets.values())
