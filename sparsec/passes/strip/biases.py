"""Biases of units whose sum is zero and whose ReLU is 0: they become 0, so that the unit is zero all along.

A unit can go where it is not needed or zero. In front of a ReLU a negative bias is neither, if what reads the unit
needs all of its neighbours, as dynamic quantisation does.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.analysis import Liveness
from sparsec.analysis.liveness.edit import replace_input
from sparsec.analysis.liveness.facts import Array, Mask, aligned, dims, every
from sparsec.analysis.liveness.node import constant_of
from sparsec.passes.rewrite import only_use


def raise_biases(model: ir.Model, liveness: Liveness) -> None:
    """Sets such biases to 0, in place."""
    for node in model.graph:
        user = only_use(node.outputs[0]) if node.op_type == "Add" and not node.domain else None
        if user is None or user.op_type != "Relu" or node in liveness.opaque:
            continue
        for place in (0, 1):
            bias, data = constant_of(node.inputs[place]), node.inputs[1 - place]
            if bias is None or data is None or constant_of(data) is not None:
                continue
            dead = (bias < 0) & _everywhere(liveness.known[data].zero, bias, len(dims(node.outputs[0])))
            if dead.any():
                replace_input(node, place, np.where(dead, np.zeros((), bias.dtype), bias))


def _everywhere(zero: Mask, bias: Array, rank: int) -> Mask:
    """Where everything that an element of the bias is added to is zero."""
    shape = aligned(bias, rank).shape
    mask = every(aligned(zero, rank), [axis for axis in range(rank) if shape[axis] == 1], keepdims=True)
    return np.broadcast_to(mask, shape).reshape(bias.shape)
