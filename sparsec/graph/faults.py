"""What is wrong with a damaged graph, told by its nodes and values: names and types, and what ONNX's checker says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import onnx

from sparsec.errors import ModelError

_SIZES = re.compile(r"Node(\((?P<name>.*)\))? with schema\((.*::)?(?P<kind>\w*):\d+\) has "
                    r"(?P<what>\w+ size \d+ not in range \[min=\d+, max=\d+\])\..*")
_NODE = re.compile(r"(?P<what>.*?)\.? ==> Context: Bad node spec for node\. Name: ((?P<name>.*) )?OpType: "
                   r"(?P<kind>\S*)")
_INFERENCE = re.compile(r"\[\w+\] Inference error\(s\): \(op_type:(?P<kind>[^,)]*)(, node name: (?P<name>.*?))?\): "
                        r"(\[\w+\] )?(?P<what>.*?)( \(op_type:.*)?")
_PATTERNS = {
    r"(?P<node>node '[^']*' \(\S*\)): Mismatched attribute type in '.* : (.*)'\. Expected: '(.*)', actual: '(.*)'":
        r"\g<node>: attribute '\2' is of type \4, and should be \3",
    r"(?P<node>node '[^']*' \(\S*\)): Unrecognized attribute: (.*) for operator .*": r"\g<node> has no attribute '\2'",
    r"(?P<node>node '[^']*' \(\S*\)): Required attribute '(.*)' is missing": r"\g<node> lacks its attribute '\2'",
    r"(?P<node>node '[^']*' \(\S*\)): Field '(.*)' of 'attr' is required .*": r"\g<node> has an attribute without \2",
    r"Graph must be in single static assignment \(SSA\) form, however '(.*)' has been used as .* multiple times\.?":
        r"the name '\1' stands for several values",
    r"(?P<node>node '[^']*' \(\S*\)): (\w+) size (\d+) not in range \[min=(\d+), max=\4\]":
        r"\g<node> has \3 \2s, and not \4",
    r"(?P<node>node '[^']*' \(\S*\)): (\w+) size (\d+) not in range \[min=(\d+), max=(\d+)\]":
        r"\g<node> has \3 \2s, and not from \4 to \5",
    r"TensorProto \(tensor name: (.*)\) raw_data size \((\d+) bytes\).*\((\d+) bytes required\)\.?":
        r"tensor '\1' has \2 bytes where its shape and type take \3",
    r"TensorProto \(tensor name: (.*)\) should contain one and only one value field\.?":
        r"tensor '\1' has its values twice, or none",
    r"Negative dimension value \(tensor name: (.*)\)": r"tensor '\1' has a negative dimension",
    r"\[ShapeInferenceError\] Inferred shape and existing shape differ in (\w+)( \d+)?: \((-?\d+)\) vs \((-?\d+)\)":
        r"a value is declared with another \1\2 than follows from what computes it, \4 and not \3",
    r"Your model ir_version (\d+) is higher than the checker's \((\d+)\)\.?":
        r"its IR version \1 is newer than \2, the newest that the installed onnx package knows; upgrade onnx",
    r"Field 'name' of 'graph' is required to be non-empty\.?": "its graph has no name",
}
"""What ONNX's checker says, by pattern, in our words; the first that fits."""


def plain(text: str) -> str:
    """A text of ONNX's checker or shape inference as one sentence that begins with the node, where it names one."""
    for around in (_SIZES, _NODE, _INFERENCE):
        if found := around.fullmatch(text):
            text = f"node '{found['name'] or ''}' ({found['kind']}): {found['what']}"
            break
    for pattern, template in _PATTERNS.items():
        if found := re.fullmatch(pattern, text):
            return found.expand(template)
    return text.removesuffix(".")


def check_names(model: onnx.ModelProto) -> None:
    """Check the names and types of a model's values, which later steps take for granted.

    Raises:
        ModelError: a node reads what nothing before it gives, two values of a graph have one name, a node has no
            outputs, an output is nowhere computed, or a type is none.

    """
    for value in model.graph.input:
        kind = value.type.tensor_type
        if not value.name or value.type.WhichOneof("value") is None or (
                value.type.HasField("tensor_type") and not kind.elem_type):
            raise ModelError(f"its input '{value.name}' has no {'type' if value.name else 'name'}")
    _check_graph(model.graph, frozenset())


def _check_graph(graph: onnx.GraphProto, outer: AbstractSet[str]) -> None:
    """Check a graph whose nodes may read `outer` values, too."""
    _check_tensors(graph.initializer)
    constants = {each.name for each in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    known = {*outer, *constants, *(each.name for each in graph.input)}
    own = {*constants, *(each.name for each in graph.input)}
    for index, node in enumerate(graph.node):
        titled = f"node '{node.name}' ({node.op_type})" if node.name else f"its {_ordinal(index)} node ({node.op_type})"
        if missing := [name for name in node.input if name and name not in known]:
            raise ModelError(f"{titled} reads '{missing[0]}', which nothing before it gives")
        if not node.output:
            raise ModelError(f"{titled} has no outputs")
        if untyped := [each.name for each in node.attribute if not each.type and not each.ref_attr_name]:
            raise ModelError(f"attribute '{untyped[0]}' of {titled} has no type")
        for nested in _nested(node):
            _check_graph(nested, known)
        if twice := [name for name in node.output if name in own]:
            raise ModelError(f"{titled} gives its output the name '{twice[0]}', which another value has")
        fresh = [name for name in node.output if name]
        own.update(fresh)
        known.update(fresh)
    if missing := [value.name for value in graph.output if value.name not in known]:
        raise ModelError(f"its output '{missing[0]}' is computed by no node")


def _check_tensors(tensors: Sequence[onnx.TensorProto]) -> None:
    types = onnx.TensorProto.DataType.values()
    for tensor in tensors:
        if not tensor.name:
            raise ModelError("one of its initializers has no name")
        if tensor.data_type not in types or not tensor.data_type:
            raise ModelError(f"tensor '{tensor.name}' has the element type {tensor.data_type}, which there is not")


def _nested(node: onnx.NodeProto) -> Sequence[onnx.GraphProto]:
    return [graph for each in node.attribute
            for graph in (*([each.g] if each.HasField("g") else []), *each.graphs)]


def _ordinal(index: int) -> str:
    """The place of a node, counted from one: "1st", "22nd", "113th"."""
    number = index + 1
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else endings.get(number % 10, 'th')}"
