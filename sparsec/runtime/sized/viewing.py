"""Operators of which a device has the result without computing it: its memory in another shape or order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

VIEWS = ("Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""By ONNX's name; `looks` says when."""
SHAPE = "Shape"
"""The operator whose result follows from its operand's shape alone."""
_STEPS = 3
"""Where a Slice has its steps behind the first operand."""


def looks(operator: str, others: Sequence[Any]) -> bool:
    """Whether an operator only looks at its first operand, in its order or another.

    Args:
        operator: by its name.
        others: the other operands, None for those that are absent.

    """
    if operator == "Gather":
        return np.ndim(others[0]) == 0
    if operator == "Slice":  # backwards lies before where it begins
        return all(each is None or bool(np.all(np.asarray(each) > 0)) for each in others[_STEPS:])
    return operator in VIEWS
