"""What layers see in samples of a model whose sizes only the run tells, so that 8 bits are calibrated there, too.

Samples have sizes of their own, and so the model is executed before it is cut into stages. A layer of the stages is
known again by its name and by its weight, which passes may have turned; where neither tells, it is not calibrated.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sparsec.backends.job import Feeds
from sparsec.backends.observing import observe
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.constants import constant
from sparsec.graph.nodes import node_name, weight_array
from sparsec.kernels.ranges import LayerSamples, Ranges

LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
JOINED = ".joined"
"""How the name of a product of several projections ends, behind that of the first of them."""
MATRIX = 2
"""The dimensions of a linear layer's weight; a convolution's has more."""
Seen = Callable[[ir.Node], LayerSamples | None]
"""From a planned layer to what it sees in the samples, None where that is not known."""


@dataclass(frozen=True)
class _Layer:
    """A layer as the model has it: its weight, and what it sees."""

    operator: str
    weight: np.ndarray
    transposed: bool
    samples: LayerSamples


def original(layer: str) -> str:
    """The name that a layer of the joint graph has in the model."""
    return re.sub(r"@\d+$", "", layer)


def seen_in(model: ir.Model, samples: Sequence[Feeds]) -> Seen:
    """What tells what the layers of stages see in samples of a simplified model."""
    try:
        observed = observe(model, samples, _takes)
    except UnsupportedOperatorError as error:
        warnings.warn(f"layers are not calibrated: {error}", stacklevel=4)
        observed = {}
    layers = {node_name(node): _Layer(node.op_type, weight_array(node), _is_turned(node), each)
              for node, each in observed.items()}

    def seen(node: ir.Node) -> LayerSamples | None:
        name = original(node_name(node))
        layer = layers.get(name.removesuffix(JOINED))
        found = None if layer is None else _turned(layer, weight_array(node), joined=name.endswith(JOINED))
        return replace(found, ranges=layer.samples.ranges) if found and layer and node.op_type == "Conv" else found

    return seen


def _is_turned(node: ir.Node) -> bool:
    return node.attributes.get_int("transB", 0) == 1


def _takes(node: ir.Node) -> bool:
    """Whether a node of ONNX's is a layer of a constant weight of floats."""
    if node.domain or node.op_type not in LAYERS or node.attributes.get_int("transA", 0) == 1:
        return False
    weight = constant(node.inputs[1])
    return weight is not None and weight.dtype == np.float32 and (
        weight.ndim > MATRIX if node.op_type.startswith("Conv") else weight.ndim == MATRIX) and (
        constant(node.inputs[0]) is None)


def _turned(layer: _Layer, weight: np.ndarray, *, joined: bool) -> LayerSamples | None:
    """What a layer sees in the order in which a planned weight (outputs, inputs …) has its inputs, None for others."""
    rows = weight.reshape(len(weight), -1)
    for own, samples in _orders(layer):
        found = rows[:len(own)] if joined else rows
        if found.shape == own.shape and np.array_equal(found, own):
            return samples
    return None


def _orders(layer: _Layer) -> Iterator[tuple[np.ndarray, LayerSamples]]:
    """A weight (outputs, inputs) in the orders that passes give its inputs, and columns and ranges of these."""
    weight, samples = layer.weight, layer.samples
    if layer.operator == "ConvTranspose":
        outputs = np.moveaxis(weight, 0, -1)  # (channels, pixels of a window …, inputs)
        yield outputs.reshape(-1, len(weight)), samples
        yield np.moveaxis(outputs, 0, -2).reshape(-1, len(weight)), samples
        return
    if layer.operator != "Conv":
        yield weight if layer.transposed else weight.T, samples
        return
    flat, columns, ranges = weight.reshape(len(weight), -1), samples.columns, samples.ranges
    channels, taps = weight.shape[1], flat.shape[1] // max(1, weight.shape[1])
    yield flat, LayerSamples(columns, _each(ranges, lambda of: np.repeat(of, taps)))
    turned = columns.reshape(channels, taps, -1).swapaxes(0, 1).reshape(len(columns), -1)
    yield (flat.reshape(-1, channels, taps).swapaxes(1, 2).reshape(len(flat), -1),
           LayerSamples(turned, _each(ranges, lambda of: np.tile(of, taps))))


def _each(ranges: Ranges, change: Callable[[np.ndarray], np.ndarray]) -> Ranges:
    return Ranges(change(ranges.least), change(ranges.largest))
