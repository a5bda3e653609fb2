"""Adding a constant to what a layer computes: into its bias where it has or can have one, else by an Add behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.edit import replace_input
from sparsec.analysis.liveness.facts import Array, dims
from sparsec.analysis.liveness.node import constant_of, is_constant
from sparsec.graph.constants import add_constant
from sparsec.graph.nodes import optional
from sparsec.passes.rewrite import only_use


@dataclass(frozen=True)
class Target:
    """An input that can take one number per output unit, and what it is multiplied by on the way to the output."""

    node: ir.Node
    index: int
    factor: float

    @property
    def constant(self) -> Array | None:
        """The constant that the input holds already, None where there is none."""
        return constant_of(self.node.inputs[self.index]) if self.index < len(self.node.inputs) else None


def is_free(node: ir.Node, total: Array) -> bool:
    """Adding `total` changes an existing constant of the same size."""
    target = _target(node, total)
    if target is None or target.constant is None:
        return False
    value = target.node.inputs[target.index]
    return value is not None and len(value.uses()) == 1 and target.constant.size == total.size


def add(node: ir.Node, total: Array) -> None:
    """Adds `total`, which broadcasts to the node's output, to a Conv, ConvTranspose, Gemm or MatMul."""
    target = _target(node, total)
    if target is None:
        _add_behind(node, total)
        return
    delta = total.reshape(-1) / target.factor
    if target.constant is None:
        replace_input(target.node, target.index, delta.astype(_dtype(node)))
    else:
        replace_input(target.node, target.index, (target.constant + delta).astype(target.constant.dtype))


def _target(node: ir.Node, total: Array) -> Target | None:
    """Where `total` can go, if it is one number per output unit."""
    rank = len(dims(node.outputs[0]))
    units = total.ndim - rank + (1 if node.op_type.startswith("Conv") else rank - 1)
    if total.size != total.shape[units]:
        return None
    follower = only_use(node.outputs[0])
    if node.op_type == "MatMul":
        return None if follower is None else _next_constant(node, follower, total.size)
    bias = optional(node, 2)
    if bias is None and follower is not None and follower.op_type == "BatchNormalization" and is_constant(
            follower.inputs[3]) and not follower.attributes.get_int("training_mode", 0):
        return Target(follower, 3, -1.0)
    beta = node.attributes.get_float("beta", 1.0)
    return Target(node, 2, beta) if beta and (bias is None or is_constant(bias)) else None


def _next_constant(node: ir.Node, follower: ir.Node, units: int) -> Target | None:
    """The constant of the Add that follows, if it is one number per unit or one for all."""
    if follower.op_type != "Add" or follower.domain != "":
        return None
    index = 1 - follower.inputs.index(node.outputs[0])
    bias = constant_of(follower.inputs[index])
    fits = bias is not None and bias.size == (bias.shape or (1,))[-1] in (1, units)
    return Target(follower, index, 1.0) if fits else None


def _dtype(node: ir.Node) -> np.dtype:
    assert node.outputs[0].dtype is not None
    return node.outputs[0].dtype.numpy()


def _add_behind(node: ir.Node, constant: Array) -> None:
    old, graph = node.outputs[0], node.graph
    assert graph is not None
    value = add_constant(graph, f"{old.name}_constant", constant.astype(_dtype(node)))
    adder = ir.node("Add", [old, value], name=f"{node.name or old.name}_constant")
    new = adder.outputs[0]
    node.append(adder)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    adder.replace_input_with(0, old)
    new.name, old.name = old.name, f"{old.name}_before_constant"
    new.shape, new.type = old.shape, old.type
