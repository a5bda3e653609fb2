"""What the layers of a planned graph see in samples: some columns of their inputs, and the ranges of their channels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.backends.job import Job
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.evaluate import walk
from sparsec.graph.nodes import weight_array
from sparsec.graph.operators.conv import windows
from sparsec.kernels.ranges import RANGES, LayerSamples, Ranges

COLUMNS = 128  # pixels or tokens that a layer is judged by
POINTWISE = ("MatMul", "Gemm", "ConvTranspose")
"""Layers that read every token or pixel by itself."""


def calibrated(model: ir.Model, job: Job, takes: Callable[[ir.Node], bool], precisions: Sequence[str],
               ) -> dict[ir.Node, LayerSamples]:
    """What layers see in the real inputs where there are any, else in random ones.

    At some precisions real inputs are the layers' `RANGES`. What the job knows that layers have `seen` counts in place
    of that, and is all that is known where nodes cannot be executed one by one.
    """
    seen = {} if job.seen is None else {node: each for node in model.graph if takes(node)
                                        and (each := job.seen(node)) is not None}
    if job.precision in precisions:
        for node, each in seen.items():
            RANGES.set(node, each.ranges)
    if seen and all(node in seen for node in model.graph if takes(node)):
        return seen
    known = seen
    try:
        seen = observe(model, job.real or job.generated, takes)
    except UnsupportedOperatorError as error:
        others = "other layers" if known else "layers"
        warnings.warn(f"{others} are not judged one by one, and not calibrated: {error}", stacklevel=5)
        return known
    if job.precision in precisions and job.real:
        for node, each in seen.items():
            RANGES.set(node, each.ranges)
    return {**seen, **known}


def observe(model: ir.Model, samples: Sequence[Mapping[str, np.ndarray]], takes: Callable[[ir.Node], bool],
            ) -> dict[ir.Node, LayerSamples]:
    """What every linear layer and convolution of a graph sees in samples, inputs by name; in float32.

    Raises:
        UnsupportedOperatorError: a node cannot be executed by itself.

    """
    rng = np.random.default_rng(0)
    seen: dict[ir.Node, list[LayerSamples]] = {}
    for sample in samples:
        for node, inputs in walk(model, sample):
            if takes(node) and inputs[0] is not None and inputs[0].size:
                seen.setdefault(node, []).append(_see(node, inputs[0], -(-COLUMNS // len(samples)), rng))
    return {node: _joined(each) for node, each in seen.items()}


def _see(node: ir.Node, x: np.ndarray, count: int, rng: np.random.Generator) -> LayerSamples:
    """Up to `count` random columns of a layer's input, and its ranges."""
    if node.op_type in POINTWISE:
        last = np.moveaxis(x, 1, -1) if node.op_type == "ConvTranspose" else x
        channels = last.reshape(-1, last.shape[-1]).T
        columns = channels[:, rng.permutation(channels.shape[1])[:count]]
    else:
        channels = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
        columns = _windows(node, x, count, rng)
    return LayerSamples(columns, Ranges(np.minimum(channels.min(axis=1), 0), np.maximum(channels.max(axis=1), 0)))


def _windows(node: ir.Node, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """What a convolution sees at random positions, (channels * taps, count)."""
    kernel = weight_array(node).shape[2:]
    rank = len(kernel)
    strides, dilations = (node.attributes.get_ints(name, (1,) * rank) for name in ("strides", "dilations"))
    view = windows(x, kernel, strides, node.attributes.get_ints("pads", (0,) * 2 * rank), dilations)
    places = [rng.integers(0, size, count) for size in (view.shape[0], *view.shape[2:2 + rank])]
    return np.moveaxis(view, 1, 1 + rank)[tuple(places)].reshape(count, -1).T


def _joined(seen: Sequence[LayerSamples]) -> LayerSamples:
    return LayerSamples(np.concatenate([each.columns for each in seen], axis=1),
                        Ranges(np.min([each.ranges.least for each in seen], axis=0),
                               np.max([each.ranges.largest for each in seen], axis=0)))
