"""Lowering an operator through its definition as an ONNX function."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir import serde

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import imports_of, input_types, opset_of
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.nodes import optional

POSITIVE = ("softcap",)
"""Attributes that mean nothing unless they are positive, whatever the functions make of them."""


def decompose(context: LoweringContext, node: ir.Node) -> None:
    """Lower the nodes of the operator's function body and bind the node's outputs to its results.

    Raises:
        UnsupportedOperatorError: ONNX defines the operator by no function, or a node of it cannot be lowered.

    """
    function = _function(context, node)
    for index, value in enumerate(function.inputs):
        argument = optional(node, index)
        if argument is None:
            for user, position in tuple(value.uses()):
                user.replace_input_with(position, None)
        else:
            _alias(context, value, argument)
    for inner in function:
        try:
            context.lower_node(context, inner)
        except UnsupportedOperatorError as error:
            raise UnsupportedOperatorError(f"its definition needs {inner.op_type}: {error}") from error
    for value, result in zip([value for value in node.outputs if value.name], function.outputs, strict=False):
        _alias(context, value, result)


def _alias(context: LoweringContext, value: ir.Value, other: ir.Value) -> None:
    """Give a value the type and contents of another."""
    array = context.array(other)
    if array is not None:
        context.know(value, array)
    else:
        value.type, value.shape = other.type, other.shape
        context.bind(value, context.tensor(other))


def _function(context: LoweringContext, node: ir.Node) -> ir.Function:
    """The function that defines the operator, its attributes filled in."""
    opset = opset_of(node)
    schema: Any = onnx.defs.get_schema(node.op_type, opset, node.domain)  # its stubs lack the functions
    if schema.has_function:
        content = schema.get_function_with_opset_version(_latest(schema.function_opset_versions, opset))
    elif schema.has_context_dependent_function:
        proto, types = _with_constant_nodes(context, node), input_types(context, node)
        content = schema.get_context_dependent_function_with_opset_version(
            _latest(schema.context_dependent_function_opset_versions, opset), proto.SerializeToString(),
            [types[name].SerializeToString() if name else b"" for name in proto.input])
    else:
        raise UnsupportedOperatorError("no implementation of this operator")
    proto = onnx.FunctionProto.FromString(content)
    computed = {name for inner in proto.node for name in inner.output}
    for output in [name for name in proto.output if name not in computed]:  # optional ones that nobody asked for
        proto.output.remove(output)
    function = serde.deserialize_function(proto)
    for inner in function.all_nodes():
        inner.version = function.opset_imports.get(inner.domain) or imports_of(node).get(inner.domain, opset)
        for name, attribute in tuple(inner.attributes.items()):
            if attribute.is_ref():
                _fill_in(inner, name, node.attributes.get(attribute.ref_attr_name or ""), schema)
    return function


def _with_constant_nodes(context: LoweringContext, node: ir.Node) -> onnx.NodeProto:
    """The node with the constants that its subgraphs read as nodes of theirs, as ONNX copies only nodes into a body."""
    proto = serde.serialize_node(node)
    for attribute in [each for each in proto.attribute if each.name in POSITIVE and each.f <= 0]:
        proto.attribute.remove(attribute)
    for attribute in proto.attribute:
        if attribute.HasField("g"):
            graph = node.attributes[attribute.name].as_graph()
            used = {str(value.name): context.array(value) for inner in graph.all_nodes() for value in inner.inputs
                    if value is not None}
            nodes = [onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array))
                     for name, array in used.items() if array is not None]
            nodes += attribute.g.node
            del attribute.g.node[:], attribute.g.initializer[:]
            attribute.g.node.extend(nodes)
    return proto


def _latest(versions: list[int], opset: int) -> int:
    """The newest function body that an opset may use."""
    return max(version for version in versions if version <= opset)


def _fill_in(inner: ir.Node, name: str, given: ir.Attr | None, schema: onnx.defs.OpSchema) -> None:
    """Replace an attribute of the body that refers to one of the operator: by the node's, the default, or nothing."""
    reference = inner.attributes.pop(name).ref_attr_name
    if given is not None:
        inner.attributes.add(ir.Attr(name, given.type, given.value))
    elif reference in schema.attributes and schema.attributes[reference].default_value.name:
        default = serde.deserialize_attribute(schema.attributes[reference].default_value)
        inner.attributes.add(ir.Attr(name, default.type, default.value))
