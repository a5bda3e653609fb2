"""Sequences of tensors whose lengths and places are known when compiling become Split, Concat and the tensors.

Exporters write chunk, unbind, split and stack so. What is left has a length that only the run tells: it is interpreted.
Optional values are sequences of one tensor, or of none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.constants import add_constant, constant
from sparsec.graph.nodes import bodies
from sparsec.graph.quiet import quiet

MAKERS = ("SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap", "SplitToSequence")
"""Operators whose outputs are sequences."""
SIZES_SINCE = 13
"""The opset from which Split, Squeeze and Unsqueeze take sizes and axes as an input."""

Known = dict[ir.Value, list[ir.Value]]
Elements = dict[ir.Value, ir.DataType | None]
"""Sequences with the type of their tensors."""


def resolve(model: ir.Model) -> None:
    """Replaces every operator on sequences, in place, as far as lengths are known; a model without any stays as it is.

    Raises:
        UnsupportedOperatorError: lists the inputs and outputs of the model that are sequences.

    """
    outside = [f"'{value.name}'" for value in (*model.graph.inputs, *model.graph.outputs)
               if isinstance(value.type, ir.SequenceType | ir.OptionalType)]
    if outside:
        raise UnsupportedOperatorError(f"inputs and outputs that are sequences or optional, {', '.join(outside)}; "
                                       "export the model with a fixed number of parts, as tensors")
    if not any(_is_on_sequences(node) for node in model.graph.all_nodes()):
        return
    known: Known = {}
    progress = True
    while progress:
        with quiet():
            ShapeInferencePass(strict_mode=False)(model)
        tell_types(model)
        progress = False
        for node in [node for node in model.graph.all_nodes() if _is_on_sequences(node)
                     and node.outputs[0] not in known]:
            progress |= OPERATORS[node.op_type](_Place(node, model.graph.opset_imports[""]), known)
    RemoveUnusedNodesPass()(model)


def tell_types(model: ir.Model) -> None:
    """Gives sequences their type, of which shape inference keeps that of the elements only."""
    found: Elements = {}
    count = -1
    while count < len(found):
        count = len(found)
        for node in model.graph.all_nodes():
            if node.domain == "":
                found.update(_sequences(node, found))
    for value, dtype in found.items():
        if dtype is not None:
            value.type = ir.SequenceType(ir.TensorType(dtype))


def _sequences(node: ir.Node, found: Elements) -> Iterator[tuple[ir.Value, ir.DataType | None]]:
    """The values at a node that are sequences, given those found before, and the type of their tensors."""
    if node.op_type in MAKERS or (node.op_type == "Identity" and node.inputs[0] in found):
        yield from ((value, _elements(node, value, found)) for value in node.outputs)
    elif node.op_type == "If":
        for branch in bodies(node):
            yield from ((out, found[inner]) for out, inner in zip(node.outputs, branch.outputs, strict=True)
                        if inner in found)
    elif node.op_type == "Loop":
        body, = bodies(node)
        for index, start in enumerate(node.inputs[2:]):
            if start is not None and start in found:
                yield from ((each, found[start]) for each in (body.inputs[index + 2], body.outputs[index + 1],
                                                              node.outputs[index]))


def _elements(node: ir.Node, value: ir.Value, found: Elements) -> ir.DataType | None:
    """The type of the tensors in a sequence that a node makes."""
    if node.op_type == "SequenceEmpty":
        return ir.DataType(node.attributes.get_int("dtype", ir.DataType.FLOAT) or ir.DataType.FLOAT)
    if node.op_type == "SequenceMap":
        return next(iter(bodies(node))).outputs[list(node.outputs).index(value)].dtype or value.dtype
    source = node.inputs[1 if node.op_type == "SequenceInsert" else 0]
    return value.dtype if source is None else found.get(source, source.dtype) or value.dtype


def of_the_run(node: ir.Node) -> bool:
    """Whether a node takes or gives a sequence, whose length only the run tells."""
    return _is_on_sequences(node) or any(isinstance(value.type, ir.SequenceType | ir.OptionalType)
                                         for value in (*node.inputs, *node.outputs) if value is not None)


def _is_on_sequences(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in OPERATORS


class _Place:
    """A node that is to be replaced."""

    def __init__(self, node: ir.Node, opset: int) -> None:
        assert node.graph is not None
        self.node, self.graph, self.opset = node, node.graph, opset

    def sequence(self, known: Known) -> list[ir.Value] | None:
        """The first input, a sequence, None where its length is not known."""
        value = self.node.inputs[0] if self.node.inputs else None
        return None if value is None else known.get(value)

    def position(self, index: int, default: int | None) -> int | None:
        """A constant input, the default where there is none, None where it is computed."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            return default
        array = constant(value)
        return None if array is None else int(array.reshape(()))

    def put(self, op_type: str, inputs: Sequence[ir.Value | None], outputs: int = 1,
            **attributes: int | list[int]) -> list[ir.Value]:
        """The outputs of a new node."""
        node = ir.node(op_type, list(inputs), attributes, num_outputs=outputs)
        self.node.prepend(node)
        return list(node.outputs)

    def sized(self, op_type: str, x: ir.Value, name: str, sizes: list[int], outputs: int = 1,
              **attributes: int) -> list[ir.Value]:
        """A node whose sizes or axes are an input or an attribute, as the opset has it."""
        if self.opset < SIZES_SINCE:
            return self.put(op_type, [x], outputs, **attributes, **{name: sizes})
        given = add_constant(self.graph, f"{self.node.outputs[0].name}.{name}", np.array(sizes, np.int64))
        return self.put(op_type, [x, given], outputs, **attributes)

    def replace(self, value: ir.Value) -> None:
        """Lets a value stand for the output of the node, under its name where that is an output of the model."""
        old = self.node.outputs[0]
        if old.is_graph_output():
            (value,) = self.put("Identity", [value])
            name, old.name = old.name, None
            value.name, value.type, value.shape = name, old.type, old.shape
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        self.graph.remove(self.node, safe=True)


def _construct(place: _Place, known: Known) -> bool:
    known[place.node.outputs[0]] = [value for value in place.node.inputs if value is not None]
    return True



def _insert(place: _Place, known: Known) -> bool:
    parts, tensor = place.sequence(known), place.node.inputs[1]
    position = place.position(2, len(parts or ()))
    if parts is None or position is None or tensor is None:
        return False
    position += len(parts) if position < 0 else 0
    known[place.node.outputs[0]] = [*parts[:position], tensor, *parts[position:]]
    return True


def _erase(place: _Place, known: Known) -> bool:
    parts, position = place.sequence(known), place.position(1, -1)
    if parts is None or position is None:
        return False
    position %= len(parts)
    known[place.node.outputs[0]] = [*parts[:position], *parts[position + 1:]]
    return True


def _at(place: _Place, known: Known) -> bool:
    parts, position = place.sequence(known), place.position(1, None)
    if parts is None or position is None or not -len(parts) <= position < len(parts):
        return False
    place.replace(parts[position])
    return True


def _given(place: _Place, known: Known) -> bool:
    """Of an optional value that there is, or of a tensor, which always is."""
    parts, x = place.sequence(known), place.node.inputs[0]
    if x is None or (parts is None and not isinstance(x.type, ir.TensorType)) or parts == []:
        return False
    place.replace(x if parts is None else parts[0])
    return True


def _is_there(place: _Place, known: Known) -> bool:
    parts, x = place.sequence(known), place.node.inputs[0] if place.node.inputs else None
    if x is not None and parts is None and not isinstance(x.type, ir.TensorType):
        return False
    there = x is not None and parts != []
    place.replace(add_constant(place.graph, f"{place.node.outputs[0].name}.there", np.array(there)))
    return True


def _length(place: _Place, known: Known) -> bool:
    parts = place.sequence(known)
    if parts is None:
        return False
    place.replace(add_constant(place.graph, f"{place.node.outputs[0].name}.length", np.array(len(parts), np.int64)))
    return True


def _concat(place: _Place, known: Known) -> bool:
    parts = place.sequence(known)
    if not parts:
        return False
    axis = place.node.attributes.get_int("axis") or 0
    if place.node.attributes.get_int("new_axis", 0):
        parts = [place.sized("Unsqueeze", part, "axes", [axis])[0] for part in parts]
    place.replace(place.put("Concat", parts, axis=axis)[0])
    return True


def _split(place: _Place, known: Known) -> bool:
    x, axis = place.node.inputs[0], place.node.attributes.get_int("axis", 0) or 0
    given = place.node.inputs[1] if len(place.node.inputs) > 1 else None
    total = None if x is None or x.shape is None else x.shape[axis]
    sizes = constant(given)
    if x is None or not isinstance(total, int) or (given is not None and sizes is None):
        return False
    if sizes is None:
        sizes = np.ones(total, np.int64)
    elif sizes.ndim == 0:
        sizes = np.diff([*range(0, total, int(sizes)), total])
    parts = place.sized("Split", x, "split", [int(size) for size in sizes], len(sizes), axis=axis)
    if given is None and not place.node.attributes.get_int("keepdims", 1):
        parts = [place.sized("Squeeze", part, "axes", [axis])[0] for part in parts]
    known[place.node.outputs[0]] = parts
    return True


OPERATORS: dict[str, Callable[[_Place, Known], bool]] = {
    "SequenceConstruct": _construct, "SequenceEmpty": _construct, "SequenceInsert": _insert, "SequenceErase": _erase,
    "Optional": _construct, "OptionalGetElement": _given, "OptionalHasElement": _is_there,
    "SequenceAt": _at, "SequenceLength": _length, "ConcatFromSequence": _concat, "SplitToSequence": _split,
}
"""By operator: replaces the node or notes its sequence; false where something that it needs is not known yet."""
