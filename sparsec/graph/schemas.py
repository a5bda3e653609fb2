"""Nodes of ONNX's domain against the definitions of their operators, where ONNX's checker does not look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir

from sparsec.errors import ModelError

Words = dict[str, tuple[str, ...]]

_PADDED: Words = {"auto_pad": ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")}
_RECURRENT: Words = {"direction": ("forward", "reverse", "bidirectional")}
_SCATTERED: Words = {"reduction": ("none", "add", "mul", "max", "min")}
_LOSS: Words = {"reduction": ("none", "sum", "mean")}
WORDS: dict[str, Words] = {
    **dict.fromkeys(("Conv", "ConvInteger", "ConvTranspose", "QLinearConv"), _PADDED),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _PADDED),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _RECURRENT),
    **dict.fromkeys(("ScatterElements", "ScatterND"), _SCATTERED),
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), _LOSS),
    "BitShift": {"direction": ("LEFT", "RIGHT")}, "DepthToSpace": {"mode": ("DCR", "CRD")},
    "Gelu": {"approximate": ("none", "tanh")}, "Upsample": {"mode": ("nearest", "linear", "cubic")},
    "GridSample": {"mode": ("linear", "nearest", "cubic", "bilinear", "bicubic"),
                   "padding_mode": ("zeros", "border", "reflection")},
    "Pad": {"mode": ("constant", "reflect", "edge", "wrap")},
    "Resize": {"mode": ("nearest", "linear", "cubic"),
               "coordinate_transformation_mode": (
                   "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
                   "tf_half_pixel_for_nn", "tf_crop_and_resize"),
               "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple"),
               "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller")},
    "RoiAlign": {"mode": ("avg", "max"), "coordinate_transformation_mode": ("half_pixel", "output_half_pixel")},
}
"""The words that attributes may have, by operator: ONNX's schemas have them in prose alone."""


def check_words(model: ir.Model, where: str) -> None:
    """Check the attributes that choose by a word, and the types that Cast and BitCast give.

    Raises:
        ModelError: a word or type is none of those that there are; names node and attribute.

    """
    types = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
    for node, _ in _defined(model):
        if node.op_type in ("Cast", "BitCast") and (to := node.attributes.get_int("to", 0)) not in types:
            raise ModelError(f"{where}: not a valid ONNX graph: node '{node.name}' ({node.op_type}) gives the element "
                             f"type {to}, which there is not")
        for attribute, words in WORDS.get(node.op_type, {}).items():
            given = node.attributes.get(attribute)
            if given is not None and given.type == ir.AttributeType.STRING and given.as_string() not in words:
                raise ModelError(f"{where}: not a valid ONNX graph: node '{node.name}' ({node.op_type}) has the "
                                 f"{attribute} '{given.as_string()}'; it is one of {', '.join(words)}")


def check_inputs(model: ir.Model, where: str) -> None:
    """Check that no input is absent that an operator needs: ONNX's shape inference reads those unseen.

    Raises:
        ModelError: one is; names node and input.

    """
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    for node, schema in _defined(model):
        for index, parameter in enumerate(schema.inputs):
            if parameter.option == single and (index >= len(node.inputs) or node.inputs[index] is None):
                raise ModelError(f"{where}: not a valid ONNX graph: node '{node.name}' ({node.op_type}) lacks its "
                                 f"input {index} ({parameter.name})")


def check_types(model: ir.Model, where: str) -> None:
    """Check that operators take the types of their inputs, and that inputs share those that they are to share.

    Raises:
        ModelError: they do not; names node and input.

    """
    for node, schema in _defined(model):
        allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
        found: dict[str, str] = {}
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype is None or not isinstance(value.type, ir.TensorType):
                continue
            parameter = schema.inputs[min(index, len(schema.inputs) - 1)]
            kind, name = parameter.type_str, f"tensor({value.dtype.name.lower()})"
            shared = found.setdefault(kind, name) if parameter.is_homogeneous else name
            if name not in allowed.get(kind, [kind]) or shared != name:
                beside = f" beside {shared}" if shared != name else ""
                raise ModelError(f"{where}: not a valid ONNX graph: node '{node.name}' ({node.op_type}) of opset "
                                 f"{schema.since_version} takes no {name}{beside} as its input {index} "
                                 f"({parameter.name})")


def _defined(model: ir.Model) -> Iterator[tuple[ir.Node, Any]]:
    """The nodes of ONNX's domain with their operators' schemas, whose attributes ONNX's stubs lack."""
    version = model.graph.opset_imports[""]
    for node in model.graph.all_nodes():
        if node.domain == "":
            yield node, onnx.defs.get_schema(node.op_type, version)
