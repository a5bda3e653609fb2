"""What the plan and its explanation need of this backend: the options of every layer with a weight of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from sparsec.backends.cuda import attention, conv, matmul
from sparsec.backends.cuda.moving import VIEWS
from sparsec.backends.cuda.products import options
from sparsec.cost.option import GpuWork, Option
from sparsec.cost.plan import CHOICE
from sparsec.formats.nm import columns
from sparsec.graph.nodes import weight_array
from sparsec.graph.operators.schema import DOMAIN
from sparsec.kernels.cuda import arrange
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.cuda.metadata import GROUP
from sparsec.target import Target


def layer_of(node: ir.Node) -> GpuProduct | None:
    """A node of the planned graph as a product, None where it is none."""
    if node.domain != DOMAIN:
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
    return options(layer if columns is None else replace(layer, columns=columns), target, precision)


REST_LOSES = ("nothing was measured that it wins: BERT-base at 90 % zeros took an H200 791 us with it, and PyTorch's "
              "dense kernels 599 us")


def measured(found: list[Option], reasons: dict[str, str]) -> tuple[list[Option], dict[str, str]]:
    """The options of kernels that have been measured to win somewhere, with the reasons for the others.

    A bitmap of a weight that is 2:4 only adds its expansion, which predictions of tiny layers do not see.
    """
    if any(option.format == "nm 2:4" for option in found):
        found = [option for option in found if option.format != "bitmap"]

    def has_rest(option: Option) -> bool:
        return isinstance(option.work, GpuWork) and option.work.stage_items > 0

    lost = {option.format: REST_LOSES for option in found if has_rest(option)}
    return [option for option in found if not has_rest(option)], reasons | lost


def node_seconds(graph: ir.Graph, launch_s: float) -> Iterator[tuple[ir.Node, float]]:
    """The time of every node of a planned graph: of products what is known, of what is no view a launch."""
    for node in graph:
        choice = CHOICE.get(node)
        yield node, launch_s * (node.op_type not in VIEWS) if choice is None else choice.winner.time_s


def outside(node: ir.Node) -> str | None:
    """Why a node runs without the kernel that its operator has, or None."""
    return attention.refusal(node) if (node.domain, node.op_type) == (DOMAIN, "Attention") else None


def by_bucket(node: ir.Node, target: Target, precision: str) -> dict[int, list[Option]]:
    """The options of a linear layer for every number of tokens in `BUCKETS`; none for a convolution."""
    layer = layer_of(node)
    if layer is None or layer.window is not None:
        return {}
    return {columns: measured(*layer_options(node, target, precision, columns))[0] for columns in BUCKETS}


def project(node: ir.Node) -> float | None:
    """Give a product a 2:4 weight; the norm of what is lost relative to the weight's.

    None, and nothing changed, for another node and for a product whose inner size is no multiple of four, such as the
    first convolution of an RGB image.
    """
    if node.domain != DOMAIN or node.op_type not in ("MatMul", "Conv") or node.attributes.get_int("group", 1) != 1:
        return None
    weight = weight_array(node)
    if weight.shape[1] % GROUP:
        return None
    matrix = columns(weight)
    kept = arrange.project(matrix)
    moved = (weight.shape[0], *weight.shape[2:], weight.shape[1])
    value = node.inputs[1]
    assert value is not None  # it is the weight
    value.const_value = ir.tensor(np.ascontiguousarray(np.moveaxis(kept.reshape(moved), -1, 1)), name=value.name)
    norm = float(np.linalg.norm(matrix))
    return float(np.linalg.norm(matrix - kept)) / norm if norm else 0.0
