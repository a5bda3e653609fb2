"""What the plan needs of this backend: the options of every layer, and the time that one takes on this machine."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsec.backends.cpu import conv, matmul
from sparsec.kernels.isa import isa_of
from sparsec.option import Option
from sparsec.target import Target

PLANNERS: dict[str, Callable[..., list[Option]]] = {
    "sparsec::Conv": conv.options,
    "sparsec::MatMul": matmul.options,
}


def layer_options(node: ir.Node, target: Target, threads: int) -> list[Option]:
    """The options for a node, none where it is no layer with a weight of its own."""
    planner = PLANNERS.get(f"{node.domain}::{node.op_type}")
    return [] if planner is None else planner(node, target, isa_of(target, threads))
