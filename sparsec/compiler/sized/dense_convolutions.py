"""Which convolutions of images of any size are kernels of their own, and what follows in them.

A convolution is rows otherwise (`compiler.sized.images`): copies of windows and a product. Both are predicted, for as
many pixels as the largest number of rows that functions are compiled for, and the faster one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.backends.base import Backend
from sparsec.backends.job import Job, silent
from sparsec.backends.layer_report import LayerReport
from sparsec.compiler.pipeline import Phase, run_passes
from sparsec.compiler.planning import plan
from sparsec.compiler.sized.image_change import Packed, Windows
from sparsec.cost.option import Work
from sparsec.formats import CODECS
from sparsec.graph.activations import ACTIVATIONS, Activation
from sparsec.graph.constants import add_constant
from sparsec.graph.nodes import node_name
from sparsec.graph.sized import CONVOLUTIONS, SIZED_DOMAIN, WINOGRAD
from sparsec.passes.context import Context
from sparsec.passes.rewrite import only_use, silu, take_over

LEAST = 0.04
"""The share of non-zeros from which on a weight may be multiplied with its zeros."""
COPY_LOADS = 8
"""Loads that copying a vector of a window takes, and finding where it lies."""


@dataclass
class Convolutions:
    """What convolutions of a model run as.

    Attributes:
        backend, job, context: what it is compiled by and for.
        pixels: those that times are predicted for.
        layers: the rows of the report of those that are no rows of windows; for so many pixels.
        products: what a product of rows takes, in seconds, of weights without zeros by the shape of their matrix.

    """

    backend: Backend
    job: Job
    context: Context
    pixels: int
    layers: list[LayerReport] = field(default_factory=list)
    products: dict[tuple[int, ...], float] = field(default_factory=dict)

    def packed(self, name: str, weight: np.ndarray, windows: Windows) -> Packed | None:
        """A weight as the fastest kernel reads it; None where rows are faster.

        Args:
            name: of the layer.
            weight: (outputs, channels, sides …).
            windows: how they lie in the image.

        """
        options, nonzeros = self.job.options, int(np.count_nonzero(weight))
        if options.project_2of4 or options.optimize == "size" or (
                not CODECS[options.codec].lossless or nonzeros < LEAST * weight.size):
            return None
        offered = self.backend.convolutions(weight.shape, self.job, self.pixels, strided=windows.strided)
        found = min((each for each in offered if each.kind != WINOGRAD or not options.strict_ieee),
                    key=lambda each: each.seconds, default=None)
        if found is None or (seconds := self._rows_seconds(weight, nonzeros, windows)) <= found.seconds:
            return None
        values = found.pack(weight)
        self.layers.append(LayerReport(
            layer=name, operator="Conv", shape=weight.shape, format="dense", kernel=found.kernel,
            detail=f"V={found.vectors}", weights=weight.size, nonzeros=nonzeros, bytes=values.nbytes,
            predicted_us=1e6 * found.seconds, measured_us=None, rows=self.pixels,
            reason=f"a product of rows is predicted {seconds / found.seconds:.2f}x its time"))
        return Packed(found.kind, found.vectors, values)

    def _rows_seconds(self, weight: np.ndarray, nonzeros: int, windows: Windows) -> float:
        """The predicted time of a product of rows, and of copying windows that are more than a pixel."""
        key, vectors = (weight[0].size, len(weight)), self.pixels * weight[0].size / max(1, self.job.target.lanes)
        seconds = self.products.get(key) if nonzeros == weight.size else None
        if seconds is None:
            order = (*range(2, weight.ndim), 1, 0)
            seconds = self._product_seconds(np.ascontiguousarray(weight.transpose(order).reshape(key)))
        if nonzeros == weight.size:
            self.products[key] = seconds
        copies = 0.0 if windows.pixel else self.job.calibration.machine.seconds(
            Work(fmas=0.0, loads=COPY_LOADS * vectors), self.job.threads)
        return seconds + copies

    def _product_seconds(self, matrix: np.ndarray) -> float:
        """The predicted time of a product of rows."""
        x = ir.Value(name="x", shape=ir.Shape((1, self.pixels, len(matrix))), type=ir.TensorType(ir.DataType.FLOAT))
        graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="product")
        node = ir.Node("", "MatMul", [x, add_constant(graph, "w", matrix)], [], num_outputs=1, name="product")
        y = node.outputs[0]
        y.name, y.type, y.shape = "y", x.type, ir.Shape((1, self.pixels, matrix.shape[1]))
        graph.append(node)
        graph.outputs.append(y)
        model = ir.Model(graph, ir_version=10)
        run_passes(model, self.context, phase=Phase.SPECIALISE)
        job = replace(self.job, measurer=None, log=None, announce=silent)
        plan(model, job, self.backend)
        return self.backend.graph_seconds(model.graph, job)

    def rows(self, count: int) -> list[LayerReport]:
        """The rows of the report for so many pixels of each, which take their share of what more take."""
        return [replace(layer, predicted_us=round(count / self.pixels * layer.predicted_us, 3), rows=count)
                for layer in self.layers]

    def seconds(self, count: int) -> float:
        """The predicted time of all of them for so many pixels each."""
        return count / self.pixels * sum(layer.predicted_us for layer in self.layers) / 1e6


def fuse(graph: ir.Graph, symbols: Symbols) -> None:
    """What follows a convolution alone moves into it, in place: one sum with as many numbers, then one activation."""
    for node in list(graph):
        if node.domain == SIZED_DOMAIN and node.op_type in CONVOLUTIONS:
            inputs, attributes, taken = list(node.inputs), dict(node.attributes), [node]
            if (found := _residual(node, symbols)) is not None:
                inputs, taken = [*inputs, found[1]], [found[0], *taken]
            if (activated := _activation(taken[0])) is not None:
                name, alpha, beta = activated[1]
                attributes |= {"activation": ir.AttrString("activation", name), "alpha": ir.AttrFloat32("alpha", alpha),
                               "beta": ir.AttrFloat32("beta", beta)}
                taken = [*activated[0], *taken]
            if len(taken) > 1:
                made = ir.Node(node.domain, node.op_type, inputs, list(attributes.values()), num_outputs=1,
                               name=node_name(node))
                _replace(graph, taken, made, symbols)


def _residual(node: ir.Node, symbols: Symbols) -> tuple[ir.Node, ir.Value] | None:
    """The sum that follows, and what is added."""
    user = only_use(node.outputs[0])
    if user is None or user.domain or user.op_type != "Add":
        return None
    other = next((value for value in user.inputs if value is not node.outputs[0]), None)
    shape = None if other is None or other.const_value is not None else symbols.shape(other)
    return None if other is None or shape is None or shape != symbols.shape(node.outputs[0]) else (user, other)


def _activation(node: ir.Node) -> tuple[tuple[ir.Node, ...], Activation] | None:
    """The activation that follows, and its nodes, the last one first."""
    if (gated := silu(node.outputs[0])) is not None:
        return gated, ("silu", 0.0, 0.0)
    user = only_use(node.outputs[0])
    read = None if user is None or user.domain else ACTIVATIONS.get(user.op_type)
    found = None if user is None or read is None else read(user)
    return None if user is None or found is None else ((user,), found)


def _replace(graph: ir.Graph, taken: Sequence[ir.Node], made: ir.Node, symbols: Symbols) -> None:
    """A node in the place of those that it does what they do, the last one first."""
    own, old = made.outputs[0], taken[0].outputs[0]
    graph.insert_before(taken[0], made)
    own.name, own.type, symbols.shapes[own] = f"{old.name}.fused", old.type, symbols.shapes[old]
    take_over(own, old)
    for node in taken:
        graph.remove(node, safe=True)
