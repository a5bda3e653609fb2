"""Adding a constant to what a layer computes: into its bias where it has or can have one, else by an Add behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.graph.liveness.edit import add_initializer, replace_input
from sparsec.graph.liveness.facts import Array, constant_of, dims
from sparsec.passes.rewrite import only_use


def add(node: ir.Node, total: Array) -> None:
    """Adds `total`, which broadcasts to the node's output, to a Conv, ConvTranspose, Gemm or MatMul."""
    units = 1 if node.op_type.startswith("Conv") else len(dims(node.outputs[0])) - 1
    axis = total.ndim - len(dims(node.outputs[0])) + units
    per_unit = total.size == total.shape[axis]
    if not per_unit or not (_into_next(node, total.reshape(-1)) if node.op_type == "MatMul"
                            else _into_bias(node, total.reshape(-1))):
        _behind(node, total)


def _into_bias(node: ir.Node, delta: Array) -> bool:
    beta = node.attributes.get_float("beta", 1.0)
    if len(node.inputs) < 3 or node.inputs[2] is None:
        node.attributes.pop("beta", None)
        replace_input(node, 2, delta.astype(_dtype(node)))
        return True
    bias = constant_of(node.inputs[2])
    if bias is None or beta == 0:
        return False
    replace_input(node, 2, (bias + delta / beta).astype(bias.dtype))
    return True


def _into_next(node: ir.Node, delta: Array) -> bool:
    """Adds to the constant of the Add that follows, if it is one number per unit or one for all."""
    follower = only_use(node.outputs[0])
    if follower is None or follower.op_type != "Add" or follower.domain != "":
        return False
    index = 1 - follower.inputs.index(node.outputs[0])
    bias = constant_of(follower.inputs[index])
    if bias is None or bias.size not in (1, delta.size) or bias.shape[-1:] not in ((), (1,), delta.shape):
        return False
    replace_input(follower, index, (bias + delta).astype(bias.dtype))
    return True


def _dtype(node: ir.Node) -> np.dtype:
    assert node.outputs[0].dtype is not None
    return node.outputs[0].dtype.numpy()


def _behind(node: ir.Node, constant: Array) -> None:
    old, graph = node.outputs[0], node.graph
    assert graph is not None
    value = add_initializer(graph, f"{old.name}_constant", constant.astype(_dtype(node)))
    adder = ir.node("Add", [old, value], name=f"{node.name or old.name}_constant")
    new = adder.outputs[0]
    node.append(adder)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    adder.replace_input_with(0, old)
    new.name, old.name = old.name, f"{old.name}_before_constant"
    new.shape, new.type = old.shape, old.type
