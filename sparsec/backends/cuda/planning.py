"""What the plan and its explanation need of this backend: the options of every layer with a weight of its own."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from sparsec.backends.cuda import attention, conv, matmul
from sparsec.backends.cuda.lower import HALVES
from sparsec.backends.cuda.products import Layer, options
from sparsec.cost.option import Option
from sparsec.target import Target


def layer_of(node: ir.Node) -> Layer | None:
    """A node of the planned graph as a product, None where it is none."""
    if node.domain != "sparsec":
        return None
    if node.op_type == "MatMul":
        return matmul.layer_of(node)
    return conv.layer_of(node) if node.op_type == "Conv" else None


BUCKETS = (1, 16, 128, 1024, 4096)
"""Numbers of tokens that explanations give the choice for."""


def layer_options(node: ir.Node, target: Target, precision: str, columns: int | None = None,
                  ) -> tuple[list[Option], dict[str, str]]:
    """The options of a layer, none where it is no product, and why formats are not among them.

    `columns` asks for another number of tokens or pixels than the model's.
    """
    layer = layer_of(node)
    if layer is None:
        return [], {}
    return options(layer if columns is None else replace(layer, columns=columns), target.archs, HALVES[precision])


def outside(node: ir.Node) -> str | None:
    """Why a node runs without the kernel that its operator has, or None."""
    return attention.refusal(node) if (node.domain, node.op_type) == ("sparsec", "Attention") else None


def by_bucket(node: ir.Node, target: Target, precision: str) -> dict[int, list[Option]]:
    """The options of a linear layer for every number of tokens in `BUCKETS`; none for a convolution."""
    layer = layer_of(node)
    if layer is None or layer.window is not None:
        return {}
    return {columns: layer_options(node, target, precision, columns)[0] for columns in BUCKETS}
