"""The operators that sessions run on numpy between compiled stages, for sizes that only the run tells."""

from __future__ import annotations

from sparsec.graph.sized import APPEND, SIZED_DOMAIN
from sparsec.runtime.sized import elementwise, images, ordering, quantized, scattering, tensors
from sparsec.runtime.sized.elementwise import Operator
from sparsec.runtime.sized.growing import append_at

OPERATORS: dict[str, Operator] = {**elementwise.OPERATORS, **tensors.OPERATORS, **images.OPERATORS,
                                  **quantized.OPERATORS, **scattering.OPERATORS, **ordering.OPERATORS,
                                  f"{SIZED_DOMAIN}::{APPEND}": append_at}
"""By ONNX's name, or domain::name."""

GROWS = ("append", f"{SIZED_DOMAIN}::{APPEND}")
"""The steps that append to caches: Concat, and the operator that is told where each text begins."""
CHAIN = "chain"
"""The step of several element-wise operators, its `nodes`, of which the last one's result is what it gives."""
SINGLE = {"LayerNormalization", "MaxPool", "BatchNormalization"}
"""Those of several outputs that give the first one only."""
