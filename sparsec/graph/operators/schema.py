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
TYPES = {"T": ["tensor(float)"], "Q": ["tensor(uint8)", "tensor(int8)"],
         "R": ["tensor(uint8)", "tensor(int8)", "tensor(float)"], "W": ["tensor(int8)"], "I": ["tensor(int32)"],
         "F": ["tensor(float)"]}
"""What a parameter's kind may be: T float32, as all of an operator on floats; of operators on quantised tensors Q codes
of an activation, W of a weight, R codes or float32, I int32 and F float32, each parameter by itself."""

Parameter = OpSchema.FormalParameter
OutputShape = Callable[[Sequence[Shape | None], Mapping[str, Any]], Shape]
"""(shapes of the inputs, None if absent; attributes given) -> the shape of Y; raises ValueError for a misfit."""
OutputType = Callable[[Sequence[int], Mapping[str, Any]], int]
"""(ONNX's element types of the inputs, 0 if absent; attributes given) -> that of Y; raises ValueError for a misfit."""


def required(name: str, kind: str, doc: str) -> OpSchema.FormalParameter:
    """An input of a kind of `TYPES`."""
    return Parameter(name, kind if kind == "T" else f"{kind}_{name}", doc)


def optional(name: str, kind: str, doc: str) -> OpSchema.FormalParameter:
    """An input that may be absent."""
    absent = OpSchema.FormalParameterOption.Optional
    return Parameter(name, required(name, kind, doc).type_str, doc, param_option=absent)


def variadic(name: str, kind: str, doc: str) -> OpSchema.FormalParameter:
    """The last input, given once or more often."""
    many = OpSchema.FormalParameterOption.Variadic
    return Parameter(name, required(name, kind, doc).type_str, doc, param_option=many)


def float_type(_inputs: Sequence[int], _attributes: Mapping[str, Any]) -> int:
    """The element type of Y of operators on floats."""
    return int(onnx.TensorProto.FLOAT)


def static(kind: onnx.TypeProto | None) -> Shape | None:
    """The shape of a tensor type, or None where any of it is unknown."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def make(name: str, doc: str, inputs: Sequence[OpSchema.FormalParameter], attributes: Sequence[OpSchema.Attribute],
         output_shape: OutputShape, output_type: OutputType = float_type) -> OpSchema:
    """A schema of one output Y, whose shape and element type ONNX's shape inference learns from the two functions."""
    y = required("Y", "T" if output_type is float_type else "R", "The result.")
    schema = OpSchema(
        name, DOMAIN, VERSION, doc, inputs=inputs, attributes=attributes, outputs=[y],
        type_constraints=[(kind, TYPES[kind[0]], "") for kind in dict.fromkeys(each.type_str for each in (*inputs, y))],
    )
    count = sum(parameter.option == OpSchema.FormalParameterOption.Single for parameter in inputs)

    def infer(context: InferenceContext) -> None:
        types = [context.get_input_type(index) if context.has_input(index) else None
                 for index in range(context.get_num_inputs())]
        shapes = [static(kind) for kind in types]
        if None in shapes[:count]:
            return
        given = {key: onnx.helper.get_attribute_value(value) for key in schema.attributes
                 if (value := context.get_attribute(key)) is not None}
        texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in given.items()}
        kinds = [0 if kind is None else kind.tensor_type.elem_type for kind in types]
        found = onnx.helper.make_tensor_type_proto(output_type(kinds, texts), output_shape(shapes, texts))
        context.set_output_type(0, found)

    schema.set_type_and_shape_inference_function(infer)
    return schema
