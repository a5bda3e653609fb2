"""What onnxruntime takes and ONNX's checker or shape inference does not, brought to a form that all of them take."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.errors import ModelError, UnsupportedOperatorError
from sparsec.graph.definition import GraphDefinition
from sparsec.graph.nodes import optional
from sparsec.graph.older import take_over

PER_GROUP, PER_CHANNEL = 18, 21
"""Opsets of GroupNormalization: a scale for every group, which ONNX has deprecated, and one for every channel."""


BATCHED = 2
"""The rank of a batch of signals without a dimension for their numbers."""


def check_kinds(model: onnx.ModelProto) -> None:
    """Refuse maps, which onnx-ir does not read.

    Raises:
        UnsupportedOperatorError: an input or output is a map, or a sequence of maps, as ZipMap gives them.

    """
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type
        while kind.HasField("sequence_type"):
            kind = kind.sequence_type.elem_type
        if kind.HasField("map_type"):
            raise UnsupportedOperatorError(f"'{value.name}' is a map or a sequence of maps, and sparsec computes on "
                                           "tensors; leave ZipMap out (skl2onnx does so by options={'zipmap': False})")


def settle(model: ir.Model) -> None:
    """Rewrite nodes in place, as far as that needs no shapes.

    An `auto_pad` without a word is none; RoiAlign's mode may be in capitals; STFT gives one side where it does not say;
    GroupNormalization of opsets 18 to 20; what Cast gives is of its type, whatever converters of precisions have noted.

    Raises:
        ModelError: a node normalises no groups.

    """
    version = model.graph.opset_imports[""]
    for node in list(model.graph.all_nodes()):
        if node.domain:
            continue
        padding = _word(node, "auto_pad")
        if padding == "":
            node.attributes.pop("auto_pad")
        if node.op_type == "RoiAlign" and (mode := _word(node, "mode")):
            node.attributes.add(ir.AttrString("mode", mode.lower()))
        if node.op_type == "Cast" and not node.outputs[0].is_graph_output():
            node.outputs[0].type = ir.TensorType(ir.DataType(node.attributes["to"].as_int()))
        if node.op_type == "STFT" and "onesided" not in node.attributes:
            node.attributes.add(ir.AttrInt64("onesided", 1))
        if node.op_type == "GroupNormalization" and PER_GROUP <= version < PER_CHANNEL:
            _write_out(node)


def scalars(model: ir.Model) -> bool:
    """Make scalars of the inputs of Range, which may have one element and a dimension; whether there are any."""
    found = False
    for node in list(model.graph.all_nodes()):
        places = [index for index, value in enumerate(node.inputs)
                  if value is not None and (value.shape is None or len(value.shape) > 0)]
        if node.op_type != "Range" or node.domain or not places:
            continue
        definition, found = GraphDefinition(node), True
        for index in places:
            shape = definition.constant([], np.int64)
            node.replace_input_with(index, definition.put("Reshape", node.inputs[index], shape))
    return found


def signals(model: ir.Model) -> bool:
    """Give signals of STFT a last dimension, of real numbers, where PyTorch leaves it out; whether there are any."""
    found = [node for node in model.graph.all_nodes() if node.op_type == "STFT" and not node.domain
             and (x := node.inputs[0]) is not None and x.shape is not None and len(x.shape) == BATCHED]
    for node in found:
        definition = GraphDefinition(node)
        node.replace_input_with(0, definition.put("Unsqueeze", node.inputs[0], definition.constant([2], np.int64)))
    return bool(found)


def _word(node: ir.Node, name: str) -> str | None:
    """An attribute that is a string; None where there is none."""
    given = node.attributes.get(name)
    return given.as_string() if given is not None and given.type == ir.AttributeType.STRING else None


def _write_out(node: ir.Node) -> None:
    """Every group of channels as one channel of InstanceNormalization."""
    x, scale, bias = (optional(node, index) for index in range(3))
    groups, epsilon = node.attributes.get_int("num_groups", 0), node.attributes.get_float("epsilon", 1e-5)
    if not groups or groups < 1:
        raise ModelError(f"node '{node.name}' (GroupNormalization) has {groups} groups; it needs one or more")
    definition = GraphDefinition(node)
    rows = definition.put("Reshape", x, definition.constant([0, groups, -1], np.int64))
    y = definition.put("InstanceNormalization", rows, scale, bias, epsilon=epsilon)
    take_over(node, definition.put("Reshape", y, definition.put("Shape", x)))
