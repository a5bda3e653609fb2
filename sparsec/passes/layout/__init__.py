"""Choose a physical layout for every value, and mark each change of layout with a sparsec::Reformat.

Regions of convolutions keep their images in the padded flat layout, transformers their tokens in tiles; conversions
stand only at the borders of a region, once for each value and layout. Values keep their ONNX shapes;
`graph.layout.LAYOUT` holds the layout, and `metadata_props["sparsec.layout"]` shows it in dumped models.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sparsec.graph.layout import LAYOUT, PLAIN, Layout, Tiled, layout_of
from sparsec.graph.nodes import operand, operator_of, weight_array, weight_facts
from sparsec.graph.operators.schema import DOMAIN
from sparsec.passes.context import Context, Report
from sparsec.passes.layout.geometry import image_layouts, token_layouts
from sparsec.passes.layout.quantized import RESHAPES
from sparsec.passes.layout.regions import assign
from sparsec.passes.layout.roles import Kind, Role

MOSTLY = 0.75
"""The density of a weight from which on no sparse kernel of tiles makes up for the copies into them and back."""

HALVED = (0.3, MOSTLY)
"""Densities between which kernels for pairs of rows (`kernels.cpu.products.spmm_pairs`) are the fastest."""
PAIRED_LANES = 16  # of the vectors whose processors were measured with tiles of eight
SAMPLED = 16  # rows of a weight, of which one is looked at


def run(model: ir.Model, context: Context) -> Report:
    """Lay out a model in place; reports how many values are in which kind of layout and how many conversions stand.

    A target without vectors takes every value as ONNX lays it out.
    """
    lanes = context.target.lanes
    if not lanes:
        return Report("layout", modified=False)
    roles = {node: role for node, role in assign(model, lanes).items() if context.spared.reason(node) is None}
    roles = {node: role for node, role in roles.items() if not _alone(node, roles, context)}
    images = image_layouts(roles, lanes)
    tokens = token_layouts(roles, lanes, context.tile, wide=_halved(roles, context))
    roles = {node: role for node, role in roles.items() if not _moves(node, tokens)}
    borders = _Borders(model.graph)
    for node in list(model.graph):
        role = roles.get(node)
        for index, value in enumerate(node.inputs):
            kind = role.kind if role is not None and index in role.inputs else Kind.PLAIN
            if value is None or (value.const_value is not None and kind is Kind.PLAIN):
                continue
            wanted = _layout(value, kind, images, tokens)
            node.replace_input_with(index, borders.convert(value, wanted, node))
        if role is not None and role.output:
            _set(node.outputs[0], _layout(node.outputs[0], role.kind, images, tokens))
    for index, output in enumerate(model.graph.outputs):
        converted = borders.convert(output, PLAIN, None)
        if converted is not output:
            converted.name, output.name = output.name, converted.name
            model.graph.outputs[index] = converted
    model.opset_imports.setdefault(DOMAIN, 1)
    counts = {kind.value: sum(role.kind is kind for role in roles.values()) for kind in (Kind.IMAGE, Kind.TOKENS)}
    return Report("layout", modified=bool(roles), counts={**counts, "conversions": borders.count})


def _layout(value: ir.Value, kind: Kind, images: Mapping[ir.Value, Layout],
            tokens: Mapping[ir.Value, Layout]) -> Layout:
    if kind is Kind.IMAGE:
        return images[value]
    return tokens[value] if kind is Kind.TOKENS else PLAIN


def _alone(node: ir.Node, roles: Mapping[ir.Node, Role], context: Context) -> bool:
    """Whether a linear layer of few zeros stands between row-major values: tiles would be made for it alone.

    Dense products of float32 are as fast on rows as they lie, whatever their number.
    """
    if operator_of(node) != "sparsec::MatMul" or roles[node].kind is not Kind.TOKENS or context.precision != "fp32":
        return False
    sources = (operand(node, index).producer() for index in roles[node].inputs)
    if any(source in roles and roles[source].output for source in sources if source is not None):
        return False
    if any(user in roles and index in roles[user].inputs for user, index in node.outputs[0].uses()):
        return False
    facts, weight = weight_facts(node), weight_array(node)
    if "density" not in facts:
        facts["density"] = np.count_nonzero(weight) / max(1, weight.size)
    return bool(facts["density"] >= MOSTLY)


def _halved(roles: Mapping[ir.Node, Role], context: Context) -> bool:
    """Whether about half of the weights of linear layers on tokens are zeros, so that their rows run in pairs.

    Only for one thread: several share the tokens, and wider tiles would leave some without one.
    """
    if context.precision != "fp32" or context.threads > 1 or context.target.lanes != PAIRED_LANES:
        return False
    nonzeros = size = 0
    for node, role in roles.items():
        if role.kind is Kind.TOKENS and operator_of(node) == "sparsec::MatMul":
            sample = weight_array(node)[::SAMPLED]
            nonzeros, size = nonzeros + int(np.count_nonzero(sample)), size + sample.size
    return HALVED[0] * size < nonzeros < HALVED[1] * size


def _moves(node: ir.Node, tokens: Mapping[ir.Value, Tiled]) -> bool:
    """Whether a reshape of tokens has to move them, as its sequences are padded one by one."""
    if node.op_type not in RESHAPES or node.outputs[0] not in tokens:
        return False
    layouts = [tokens[value] for value in (operand(node, 0), node.outputs[0])]
    return layouts[0] != layouts[1] and any(each.batch > 1 and each.tokens % each.width for each in layouts)


def _set(value: ir.Value, layout: Layout) -> None:
    LAYOUT.set(value, layout)
    if layout != PLAIN:
        value.metadata_props["sparsec.layout"] = str(layout)


class _Borders:
    """The conversions so far, so that a value is converted to a layout once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._converted: dict[tuple[ir.Value, Layout], ir.Value] = {}
        self.count = 0

    def convert(self, value: ir.Value, wanted: Layout, before: ir.Node | None) -> ir.Value:
        """The value in the wanted layout: itself, or the output of a Reformat in front of a node (or at the end)."""
        if layout_of(value) == wanted:
            return value
        key = (value, wanted)
        if key not in self._converted:
            node = ir.node("Reformat", [value], domain=DOMAIN, name=f"{value.name}_reformat{self.count}")
            output = node.outputs[0]
            output.name, output.type, output.shape = f"{value.name}_as{self.count}", value.type, value.shape
            _set(output, wanted)
            self._graph.insert_before(before, node) if before is not None else self._graph.append(node)
            self._converted[key] = output
            self.count += 1
        return self._converted[key]
