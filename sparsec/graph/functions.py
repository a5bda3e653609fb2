"""Model functions of another opset version than the model: inlined, and every node brought to the newest of them.

A node keeps its version through inlining in its metadata; those whose operator changed since are converted one by one,
when the types of their inputs are known, by ONNX's converter.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from sparsec.graph.constants import constant
from sparsec.graph.quiet import quiet

VERSION = "sparsec.opset"
SMALL = 1 << 16
"""Elements up to which a constant input is shown to the converter, which may turn it into an attribute."""


def inline(model: ir.Model) -> None:
    """Puts the bodies of all functions where they are called, in place.

    Raises:
        RuntimeError: ONNX's converter cannot bring a node to the newest opset of model and functions.

    """
    versions = {function.opset_imports.get("", 0) for function in model.functions.values()} - {0}
    newest = max(versions | {model.opset_imports[""]})
    if versions <= {model.opset_imports[""]}:
        InlinePass()(model)
        return
    for graph, version in [(model.graph, model.opset_imports[""]),
                           *((each.graph, each.opset_imports.get("", newest)) for each in model.functions.values())]:
        for node in graph.all_nodes():
            node.metadata_props[VERSION] = str(version)
        graph.opset_imports[""] = newest
    InlinePass()(model)
    for node in list(model.graph.all_nodes()):
        version = int(node.metadata_props.pop(VERSION, newest))
        if node.domain == "" and _changed(node.op_type, version, newest):
            with quiet():
                ShapeInferencePass(strict_mode=False)(model)
            _convert(node, version, newest)


def _changed(operator: str, old: int, new: int) -> bool:
    """Whether an operator has a newer definition."""
    if not (onnx.defs.has(operator, old) and onnx.defs.has(operator, new)):
        return False
    first, last = onnx.defs.get_schema(operator, old), onnx.defs.get_schema(operator, new)
    return first.since_version != last.since_version


def _convert(node: ir.Node, old: int, new: int) -> None:
    """Replaces a node by what ONNX's converter makes of it."""
    assert node.graph is not None
    given = {f"in{index}": value for index, value in enumerate(node.inputs) if value is not None}
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(f"in{index}" if value is not None else "" for index, value in enumerate(node.inputs))
    proto.output.extend(f"out{index}" if value.name else "" for index, value in enumerate(node.outputs))
    graph = onnx.helper.make_graph([proto], "one", [_info(name, value) for name, value in given.items()],
                                   [_info(name, value) for name, value in
                                    zip(proto.output, node.outputs, strict=True) if name])
    for name, value in given.items():
        array = constant(value)
        if array is not None and array.size <= SMALL:
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    single = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", old)], ir_version=10)
    single = onnx.version_converter.convert_version(single, new)
    if [each.op_type for each in single.graph.node] == [node.op_type] and single.graph.node[0] == proto:
        return
    _splice(node, ir.from_proto(single), given)


def _splice(node: ir.Node, single: ir.Model, given: dict[str, ir.Value]) -> None:
    """Puts the nodes of a model of the node's own inputs and outputs in its place."""
    assert node.graph is not None
    body, root = single.graph, node.graph
    results = {str(value.name): value for value in body.outputs}
    for value in list(body.initializers.values()):
        name = str(value.name)
        if name in given:
            value.replace_all_uses_with(given[name])
        else:
            tensor = value.const_value
            const = ir.node("Constant", [], {"value": ir.AttrTensor("value", tensor)} if tensor is not None else {})
            const.outputs[0].type, const.outputs[0].shape = value.type, value.shape
            value.replace_all_uses_with(const.outputs[0])
            node.prepend(const)
    for value in list(body.inputs):
        value.replace_all_uses_with(given[str(value.name)])
    nodes = list(body)
    body.outputs.clear()
    body.remove(nodes)
    for each in nodes:
        each.name = None
        for value in each.outputs:
            value.name = None
    node.prepend(nodes)
    for index, old in enumerate(node.outputs):
        if (new := results.get(f"out{index}")) is not None:
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            new.name, old.name = old.name, None
            new.type, new.shape = old.type, old.shape
    root.remove(node, safe=True)


def _info(name: str, value: ir.Value) -> onnx.ValueInfoProto:
    """A value's name with what is known of its type."""
    info = ir.to_proto(value)
    if not info.type.WhichOneof("value"):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    info.name = name
    return info
