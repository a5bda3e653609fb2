"""The operators that sessions run on numpy between compiled stages, for sizes that only the run tells."""

from __future__ import annotations

from sparsec.runtime.sized import elementwise, tensors
from sparsec.runtime.sized.elementwise import Operator

OPERATORS: dict[str, Operator] = {**elementwise.OPERATORS, **tensors.OPERATORS}
"""By ONNX's name."""

SINGLE = {"LayerNormalization"}
"""Those of several outputs that give the first one only."""
