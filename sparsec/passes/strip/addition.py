"""Adding a constant to what a layer computes: into its bias where it has or can have one, else by an Add behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.graph.liveness.edit import add_initializer, replace_input
from sparsec.graph.liveness.facts import Array, constant_of, dims
from sparsec.passes.rewrite import only_use


def is_free(node: ir.Node, total: Array) -> bool:
    """Adding `total` changes an existing constant of the same size."""
    target = _target(node, total)
    if target is None:
        return False
    user, index = target
    value = user.inputs[index] if index < len(user.inputs) else None
    return value is not None and len(value.uses()) == 1 and constant_of(value) is not None \
        and constant_of(value).size == total.size  # type: ignore[union-attr]  # just seen


def add(node: ir.Node, total: Array) -> None:
    """Adds `total`, which broadcasts to the node's output, to a Conv, ConvTranspose, Gemm or MatMul."""
    target = _target(node, total)
    if target is None:
        _add_behind(node, total)
        return
    user, index = target
    delta, bias = total.reshape(-1), constant_of(user.inputs[index]) if index < len(user.inputs) else None
    if bias is None:
        user.attributes.pop("beta", None)
        replace_input(user, index, delta.astype(_dtype(node)))
    else:
        replace_input(user, index, (bias + delta / user.attributes.get_float("beta", 1.0)).astype(bias.dtype))


def _target(node: ir.Node, total: Array) -> tuple[ir.Node, int] | None:
    """The node and input that can take one number per output unit, if that is what `total` is."""
    rank = len(dims(node.outputs[0]))
    units = total.ndim - rank + (1 if node.op_type.startswith("Conv") else rank - 1)
    if total.size != total.shape[units]:
        return None
    if node.op_type == "MatMul":
        return _next_constant(node, total.size)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    open_ = bias is None or (constant_of(bias) is not None and node.attributes.get_float("beta", 1.0) != 0)
    return (node, 2) if open_ else None


def _next_constant(node: ir.Node, units: int) -> tuple[ir.Node, int] | None:
    """The constant of the Add that follows, if it is one number per unit or one for all."""
    follower = only_use(node.outputs[0])
    if follower is None or follower.op_type != "Add" or follower.domain != "":
        return None
    index = 1 - follower.inputs.index(node.outputs[0])
    bias = constant_of(follower.inputs[index])
    return (follower, index) if bias is not None and bias.size == (bias.shape or (1,))[-1] in (1, units) else None


def _dtype(node: ir.Node) -> np.dtype:
    assert node.outputs[0].dtype is not None
    return node.outputs[0].dtype.numpy()


def _add_behind(node: ir.Node, constant: Array) -> None:
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
