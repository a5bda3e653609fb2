"""Compiling a planned graph for GPUs: a choice for every layer, the lowering, and the report's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.cuda.arrange import GROUP, project
from sparsec.backends.cuda.build import build
from sparsec.backends.cuda.lower import lower
from sparsec.backends.cuda.planning import layer_options
from sparsec.backends.program import Program
from sparsec.backends.relax.weights import weight_array
from sparsec.cost.option import Option
from sparsec.errors import UsageError
from sparsec.target import Target

Choose = Callable[[str, list[Option]], Any]
"""From a layer's name and its options to the plan's `Choice`."""


def build_model(graph: ir.Model, target: Target, precision: str, choose: Choose, announce: Callable[..., None], *,
                projected: bool = False, dense: bool = False) -> tuple[Program, list[dict[str, Any]]]:
    """The program, and the report's row of every layer; arguments as of `plan`.

    Raises:
        ToolchainError: nvcc or the linker is missing or fails.
        UnsupportedOperatorError: lists every node that cannot be lowered.
        UsageError: a layer to be projected has an inner size that is no multiple of four.

    """
    rows = plan(graph, target, precision, choose, announce, projected=projected, dense=dense)
    announce("lower")
    lowered = lower(graph, target, precision)
    announce("build")
    return build(lowered), rows


def plan(graph: ir.Model, target: Target, precision: str, choose: Choose, announce: Callable[..., None], *,
         projected: bool = False, dense: bool = False) -> list[dict[str, Any]]:
    """Choose the option that runs each layer, into `node.meta["choice"]`; returns the rows of the report.

    Args:
        graph: the rewritten graph.
        target: a CUDA target.
        precision: of activations and weights, a key of `lower.HALVES`.
        choose: decides for each layer.
        announce: told of every step.
        projected: set all but the two largest of every four weights to zero, whatever that costs in accuracy.
        dense: offer no way but dense.

    Raises:
        UsageError: a layer to be projected has an inner size that is no multiple of four.

    """
    rows = []
    for index, node in enumerate(graph.graph):
        announce("plan", index / len(graph.graph))
        error = _project(node) if projected else None
        options, _ = layer_options(node, target, precision)
        if dense:
            options = [option for option in options if option.is_dense]
        if options:
            choice = choose(node.name or node.op_type, options)
            node.meta["choice"] = choice
            rows.append({**_row(node, choice), **({} if error is None else {"projection_error": error})})
    return rows


def _row(node: ir.Node, choice: Any) -> dict[str, Any]:
    option, weight = choice.winner.option, weight_array(node)
    node.metadata_props["sparsec.format"], node.metadata_props["sparsec.kernel"] = option.name, option.kernel
    return {
        "layer": choice.layer, "operator": node.op_type, "shape": list(weight.shape), "format": option.name,
        "kernel": option.kernel, "detail": option.detail, "weights": weight.size,
        "nonzeros": int(np.count_nonzero(weight)), "bytes": option.nbytes,
        "predicted_us": round(choice.winner.predicted_s * 1e6, 3), "measured_us": None,
        "reason": choice.reason(choice.winner),
    }


def _project(node: ir.Node) -> float | None:
    """Give a product a 2:4 weight; the norm of what is lost relative to the weight's, None for another node."""
    if node.domain != "sparsec" or node.op_type not in ("MatMul", "Conv") or node.attributes.get_int("group", 1) != 1:
        return None
    weight = weight_array(node)
    matrix = np.moveaxis(weight, 1, -1).reshape(len(weight), -1)  # as products order it
    if weight.shape[1] % GROUP:
        raise UsageError(f"layer '{node.name}': its {weight.shape[1]} inputs are no multiple of {GROUP}, so its weight "
                         "cannot be projected to 2:4; compile without --project-2of4, or pad the layer")
    kept = project(matrix)
    moved = (weight.shape[0], *weight.shape[2:], weight.shape[1])
    value = node.inputs[1]
    assert value is not None  # it is the weight
    value.const_value = ir.tensor(np.ascontiguousarray(np.moveaxis(kept.reshape(moved), -1, 1)), name=value.name)
    norm = float(np.linalg.norm(matrix))
    return float(np.linalg.norm(matrix - kept)) / norm if norm else 0.0
