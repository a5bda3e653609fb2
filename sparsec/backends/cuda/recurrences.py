"""Recurrent layers of any number of steps and members on a GPU: the kernels of `compiler.sized.recurrent`'s nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.graph.operators.recurrence import Activation
from sparsec.kernels.cuda import sized_recurrence
from sparsec.kernels.emit.tir import Kernel
from sparsec.kernels.tensors import Direction


def reject(cell: str, hidden: int) -> str | None:
    """Why there is no kernel for a cell, or None."""
    return sized_recurrence.reject(Direction(cell, 1, 1, hidden, ()))


def build(node: ir.Node) -> tuple[Kernel, tuple[np.ndarray, ...]]:
    """The kernel of a `graph.sized.RECURRENCE`, and its constants: weight, bias and peepholes, flat."""
    given = node.attributes
    weight, bias, peepholes = (np.asarray(given[name].as_tensor().numpy(), np.float32) if name in given else None
                               for name in ("weight", "bias", "peepholes"))
    assert weight is not None
    gates, hidden = weight.shape
    direction = Direction(
        given.get_string("cell", "") or "", 1, 1, hidden,
        tuple(map(Activation.read, (given.get_string("activations", "") or "").split())),
        backwards=bool(given.get_int("reverse", 0)), peepholes=peepholes is not None,
        clip=given.get_float("clip", 0.0) or 0.0)
    constants = (weight.T, np.zeros(gates, np.float32) if bias is None else bias,
                 np.zeros(3 * hidden, np.float32) if peepholes is None else peepholes)
    return sized_recurrence.build(direction), tuple(np.ascontiguousarray(each).reshape(-1) for each in constants)
