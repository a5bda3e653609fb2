"""Element types of the C interface."""

from __future__ import annotations

from sparsec.errors import UsageError
from sparsec.machine.memory import carrier

TYPES = {"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
         "float64": 11, "uint32": 12, "uint64": 13, "bfloat16": 16}
"""By numpy's names, numbered as ONNX's TensorProto.DataType."""


def type_number(name: str) -> int:
    """The number of an element type.

    Raises:
        UsageError: the C interface has none.

    """
    number = TYPES.get(name)
    if number is None:
        raise UsageError(f"the model has elements of {name}; the C interface has {', '.join(TYPES)}")
    return number


def carrier_number(name: str) -> int:
    """The number of the element type that programs take in place of one, of as many bits."""
    return TYPES[carrier(name)]
