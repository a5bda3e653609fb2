"""Bias correction: pruned, the outputs of a layer keep the mean over the samples that they have in the dense model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from sparsec.oneshot.weights import Layer, constants, write

MEAN = 3
"""The input of BatchNormalization that holds the running mean."""


@dataclass(frozen=True)
class Bias:
    """A constant that is added to a layer's outputs (sign 1), or subtracted from them as a mean (sign -1)."""

    tensor: onnx.TensorProto
    sign: int


def find(model: onnx.ModelProto, layer: Layer) -> Bias | None:
    """The constant of one number an output that belongs to this layer alone; None where there is none."""
    node, tensors = model.graph.node[layer.index], constants(model.graph)
    if layer.operator == "Gemm" and {layer.attributes.get(name, 1.0) for name in ("alpha", "beta")} != {1.0}:
        return None
    name, sign = (node.input[2] if len(node.input) > 2 else ""), 1
    if not name and (user := _only_user(model, node.output[0])) is not None:
        if user.op_type == "Add" and layer.operator != "Conv" and layer.side == 1:
            name = next((each for each in user.input if each != node.output[0]), "")
        elif user.op_type == "BatchNormalization" and layer.operator == "Conv":
            name, sign = user.input[MEAN], -1
    tensor = tensors.get(name)
    fits = tensor is not None and np.prod(tensor.dims) == layer.output_count and tensor.dims[-1] == layer.output_count
    uses = sum(name in each.input for each in model.graph.node)
    return Bias(tensor, sign) if tensor is not None and fits and uses == 1 and layer.side == 1 else None


def shift(bias: Bias, change: np.ndarray) -> None:
    """Add a change of the mean, one number an output, to the constant."""
    array = numpy_helper.to_array(bias.tensor)
    write(bias.tensor, (array + bias.sign * change.reshape(array.shape)).astype(array.dtype))


def _only_user(model: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    users = [node for node in model.graph.node if name in node.input]
    return users[0] if len(users) == 1 and name not in {value.name for value in model.graph.output} else None
