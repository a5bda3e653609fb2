"""The layout of all images and tokens: images that meet in one stencil share a row stride and an image pitch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from sparsec.graph.codes import CODE_TYPES, padding_code
from sparsec.graph.layout import PaddedFlat, Tiled, round_up
from sparsec.graph.nodes import is_depthwise, operand
from sparsec.graph.shapes import static_shape
from sparsec.passes.layout.quantized import RESHAPES
from sparsec.passes.layout.roles import Kind, Role

CODE_VECTORS = (8, 4)  # of a token tile in models with codes, two vectors of bytes or one
TOKEN_VECTORS = (4, 5, 6, 7, 8, 3, 2, 1)  # vectors of a token tile, in the order of preference
WIDE_VECTORS = (8, 4, 5, 6, 7, 3, 2, 1)  # where rows of weights run in pairs and share what they load: fewest loads


def token_layouts(roles: Mapping[ir.Node, Role], lanes: int, tile: int = 0, *,
                  wide: bool = False) -> dict[ir.Value, Tiled]:
    """A layout for every value that some node of a region reads or writes as tokens; `tile` is the context's.

    Of equally good widths `wide` prefers one of eight vectors.

    All dimensions but the last are tokens of one sequence, so that no tile is padded but the last; only what meets in
    an attention is told apart by sequences. What nodes join has tiles of one width.
    """
    groups, joined = _Groups(), _Groups()
    apart: set[ir.Value] = set()
    members = {node: [*(operand(node, i) for i in role.inputs), node.outputs[0]] for node, role in roles.items()
               if role.kind is Kind.TOKENS}
    for node, (*inputs, output) in members.items():
        for value in (output, *inputs):
            groups.add(value)
            joined.add(value)
            joined.tie(value, output)
        if node.op_type in ("Attention", "QAttention"):
            apart.update(inputs)
            groups.tie(inputs[0], output)
            groups.tie(inputs[1], inputs[2])
        elif node.op_type not in RESHAPES:
            for value in inputs:
                groups.tie(value, output)
    sequences = {value: not apart.isdisjoint(group) for group in groups.all() for value in group}
    shapes = {value: _token_shape(value, apart=each) for value, each in sequences.items()}
    outputs = [output for *_, output in members.values()]
    layouts: dict[ir.Value, Tiled] = {}
    for region in map(set, joined.all()):
        own = [shapes[value] for value in outputs if value in region]
        codes = any(value.dtype in CODE_TYPES for value in region)
        fits = not codes and all(tile < 2 * tokens <= 2 * tile for _, tokens, _ in own)
        preferred = CODE_VECTORS if codes else WIDE_VECTORS if wide else TOKEN_VECTORS
        width = tile if fits else _token_width(own, lanes, preferred)
        layouts |= {value: Tiled(*shapes[value], width, "uint8" if value.dtype in CODE_TYPES else "float32")
                    for value in region}
    return layouts


def _token_width(shapes: Sequence[tuple[int, int, int]], lanes: int, widths: Sequence[int]) -> int:
    """Tokens of a tile, one width for a region: the one with the least padding.

    Products bring a weight for every row of a tile, so that tokens of narrow tiles count for more.
    """
    def cost(vectors: int) -> float:
        share = max(1.0, (vectors + 2) / (1.5 * vectors))
        return share * sum(batch * round_up(tokens, vectors * lanes) for batch, tokens, _ in shapes)

    return lanes * min(widths, key=cost)


def _token_shape(value: ir.Value, *, apart: bool) -> tuple[int, int, int]:
    """(batch, tokens, features), with a batch of 1 where sequences need not be told apart."""
    *lead, features = static_shape(value) or ()
    return (1, math.prod(lead), features) if not apart else (math.prod(lead[:-1]), lead[-1], features)


def image_shape(value: ir.Value) -> tuple[int, int, int, int]:
    """(batch, channels, height, width); a sequence (batch, channels, length) is an image of height 1."""
    shape = static_shape(value) or ()
    batch, channels, *spatial = shape
    height, width = (1, *spatial)[-2:]
    return batch, channels, height, width


def image_layouts(roles: Mapping[ir.Node, Role], lanes: int) -> dict[ir.Value, PaddedFlat]:
    """A layout for every value that some node of the region reads or writes as an image."""
    groups = _Groups()
    room: dict[ir.Value, int] = defaultdict(int)
    clean: dict[ir.Value, int] = {}
    for node, role in roles.items():
        if role.kind is not Kind.IMAGE:
            continue
        values = [operand(node, i) for i in role.inputs] + (list(node.outputs[:1]) if role.output else [])
        for value in values:
            groups.add(value)
        for value in _tied(node, values):
            groups.tie(values[-1], value)
        if node.op_type == "QConv":
            _claim(node, room, clean, padding_code(node))
        elif node.op_type == "Conv" and 0 in role.inputs and not is_depthwise(node):
            _claim(node, room, clean)
    layouts: dict[ir.Value, PaddedFlat] = {}
    for members in groups.all():
        layouts.update(_group_layouts(members, room, clean, lanes))
    return layouts


def _tied(node: ir.Node, values: list[ir.Value]) -> list[ir.Value]:
    """The values that share the last one's row stride and image pitch."""
    if node.op_type == "QConv":
        return values if unit_strides(node) else values[1:]
    if node.op_type == "Conv":
        return values if dense_stencil(node) else values[1:]
    return [] if node.op_type in ("MaxPool", "AveragePool", "GlobalAveragePool", "QAveragePool") else values


def dense_stencil(node: ir.Node) -> bool:
    """Whether a convolution reads its input in the output's geometry: stride 1, and not depthwise."""
    return unit_strides(node) and not is_depthwise(node)


def unit_strides(node: ir.Node) -> bool:
    """Whether a convolution has stride 1."""
    return all(s == 1 for s in node.attributes.get_ints("strides", ()))


def _claim(node: ir.Node, room: dict[ir.Value, int], clean: dict[ir.Value, int], padding_code: int = 0) -> None:
    """The padding that a convolution needs: zeros in its input, or rows for its phase planes in its output."""
    source, target = operand(node, 0), node.outputs[0]
    if unit_strides(node):
        padding = max(node.attributes.get_ints("pads", (0,)))
        room[source] = max(room[source], padding)
        if padding:
            clean[source] = padding_code
        return
    strides = node.attributes.get_ints("strides", (1, 1))
    dilations = node.attributes.get_ints("dilations", (1,) * len(strides))
    taps = (static_shape(node.inputs[1]) or ())[2:]
    reach = ((t - 1) * d // s for t, d, s in zip(taps, dilations, strides, strict=True))
    room[target] = max(room[target], *reach)


def _group_layouts(members: list[ir.Value], room: Mapping[ir.Value, int], clean: Mapping[ir.Value, int],
                   lanes: int) -> dict[ir.Value, PaddedFlat]:
    """One row stride and one pitch for all members; a smaller image gets more padding instead."""
    shapes = {value: image_shape(value) for value in members}
    need = {value: room.get(value, 0) for value in members}
    pitch = max(shapes[value][2] + need[value] for value in members)
    sequence = len(static_shape(members[0]) or ()) == 3
    pad = {value: max(need.values()) if sequence else pitch - shapes[value][2] for value in members}
    widest = max(members, key=lambda value: shapes[value][3] + pad[value])
    stride = shapes[widest][3] + pad[widest]
    if members[0].dtype in CODE_TYPES:
        return {value: PaddedFlat(*shapes[value], pad[value], stride, 4 * lanes, value in clean, sequence, "uint8",
                                  clean.get(value, 0)) for value in members}
    stride = _row_stride(PaddedFlat(*shapes[widest], pad[widest], stride, lanes, sequence=sequence))
    return {value: PaddedFlat(*shapes[value], pad[value], stride, lanes, value in clean, sequence)
            for value in members}


def _row_stride(layout: PaddedFlat) -> int:
    """The row stride, rounded up to half or whole vectors where that costs no vectors: aligned rows load faster."""
    for multiple in (layout.lanes, layout.lanes // 2):
        stride = round_up(layout.row_stride, max(multiple, 1))
        wider = replace(layout, row_stride=stride)
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
