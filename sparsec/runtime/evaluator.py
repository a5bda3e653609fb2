"""A model of ONNX's operators on numpy, node by node, with little work around each.

Common operators are the functions that sessions run between stages of sizes that only the run tells; the rest are those
of ONNX's reference implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import load_op

from sparsec.runtime.interpreted import OPERATORS
from sparsec.runtime.sized import operators

SINCE = 13
"""The opset from which on the functions take what ONNX's operators do."""
PARTIAL = ("GRU", "LSTM", "RNN")
"""Operators of which ONNX's reference leaves out attributes and inputs, such as clips and the lengths of sequences."""
Values = dict[str, Any]
Step = Callable[[Sequence[Any], Values], Sequence[Any]]
"""From what a node reads, and all values so far, to what it gives."""


def knows(operator: str) -> bool:
    """Whether an operator of ONNX's has an implementation, which does all that the operator may be asked for."""
    if operator in PARTIAL:
        return False
    try:
        load_op("", operator, evaluator_cls=ReferenceEvaluator)
    except (NotImplementedError, RuntimeError, ValueError):  # what it has of operators that it does not know
        return False
    return True


class Evaluator:
    """A model, ready to run; calls may overlap.

    Args:
        model: of ONNX's operators, whose shapes may be unknown.

    """

    def __init__(self, model: ModelProto) -> None:
        reference: Any = ReferenceEvaluator(model, new_ops=list(OPERATORS))
        self.output_names: list[str] = list(reference.output_names)
        self._constants: Values = {"": None, **reference.rt_inits_}
        newer = all(each.version >= SINCE for each in model.opset_import if not each.domain)
        self._steps = [((_function(proto) if newer else None) or _by_reference(node), list(proto.input),
                        list(proto.output))
                       for proto, node in zip(model.graph.node, reference.rt_nodes_, strict=True)]

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs, arrays or the lists that sequences are, for inputs by name."""
        values = {**self._constants, **feeds}
        with np.errstate(all="ignore"):
            for step, inputs, outputs in self._steps:
                results = step([values[name] for name in inputs], values)
                for name, result in zip(outputs, results, strict=False):
                    values[name] = result if isinstance(result, np.ndarray | list) else np.asarray(result)
        return [values[name] for name in self.output_names]


def _by_reference(node: Any) -> Step:
    """What ONNX's reference does for a node, with the values that its bodies read."""
    if node.need_context():
        return lambda inputs, values: node.run(*inputs, context=values)
    return lambda inputs, _values: node.run(*inputs)


def _function(node: NodeProto) -> Step | None:
    """The function of a node, None where there is none for its form."""
    several = any(name for name in node.output[1:])
    function = None if node.domain else operators.OPERATORS.get(node.op_type)
    if function is None or (several and node.op_type in operators.SINGLE) or not _has_plain_codes(node):
        return None
    attributes = {each.name: _value(each) for each in node.attribute}
    if node.op_type == "Split":
        attributes.setdefault("num_outputs", len(node.output))
    given = function  # a name of its own, for mypy
    return lambda inputs, _values: given(inputs, attributes)


def _has_plain_codes(node: NodeProto) -> bool:
    """Whether codes are as the functions take them; types are not told here, so that quantising is the reference's."""
    return node.op_type != "QuantizeLinear" and (
        node.op_type != "DequantizeLinear" or all(each.name == "axis" for each in node.attribute))


def _value(attribute: AttributeProto) -> Any:
    """An attribute as the functions take it."""
    if attribute.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(attribute.t)
    if attribute.name == "to":
        return helper.tensor_dtype_to_np_dtype(attribute.i)
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value
