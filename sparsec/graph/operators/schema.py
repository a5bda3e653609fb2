"""What the schemas of the operators have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx.defs import OpSchema
from onnx.shape_inference import InferenceContext

DOMAIN = "sparsec"
VERSION = 1

Shape = tuple[int, ...]
OutputShape = Callable[[Sequence[Shape | None], Mapping[str, Any]], Shape]
"""(shapes of the inputs, None if absent; attributes given) -> the shape of Y; raises ValueError for a misfit."""


def optional(name: str, doc: str) -> OpSchema.FormalParameter:
    """An input that may be absent."""
    return OpSchema.FormalParameter(name, "T", doc, param_option=OpSchema.FormalParameterOption.Optional)


def static(kind: onnx.TypeProto | None) -> Shape | None:
    """The shape of a tensor type, or None where any of it is unknown."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def make(name: str, doc: str, inputs: Sequence[OpSchema.FormalParameter], attributes: Sequence[OpSchema.Attribute],
         output_shape: OutputShape) -> OpSchema:
    """A schema of one float32 output Y, whose shape `output_shape` tells ONNX's shape inference."""
    schema = OpSchema(
        name, DOMAIN, VERSION, doc, inputs=inputs, attributes=attributes,
        outputs=[OpSchema.FormalParameter("Y", "T", "The result.")],
        type_constraints=[("T", ["tensor(float)"], "float32")],
    )
    required = sum(parameter.option == OpSchema.FormalParameterOption.Single for parameter in inputs)

    def infer(context: InferenceContext) -> None:
        shapes = [static(context.get_input_type(index)) if context.has_input(index) else None
                  for index in range(context.get_num_inputs())]
        if None in shapes[:required]:
            return
        given = {key: onnx.helper.get_attribute_value(value) for key in schema.attributes
                 if (value := context.get_attribute(key)) is not None}
        texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in given.items()}
        result = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, output_shape(shapes, texts))
        context.set_output_type(0, result)

    schema.set_type_and_shape_inference_function(infer)
    return schema
