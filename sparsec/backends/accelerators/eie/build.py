"""Compiling a planned graph for the accelerator, and executing what was compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.backends.accelerators.eie.accelerator import ACCELERATORS
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.inference import infer
from sparsec.backends.accelerators.eie.network import compile_network, run
from sparsec.backends.accelerators.eie.program import pack, unpack
from sparsec.backends.accelerators.eie.simulate import LayerResult
from sparsec.backends.accelerators.execution import Feeds
from sparsec.backends.base import Built
from sparsec.backends.layer_report import LayerReport
from sparsec.errors import counted


def build(graph: ir.Model, feeds: Feeds, accelerator: str) -> Built:
    """Compile for the published configuration; the layers' rows have their simulated times.

    Args:
        graph: the planned graph.
        feeds: inputs by name; they decide the fixed-point formats and the simulated times.
        accelerator: a key of `accelerator.ACCELERATORS`.

    Raises:
        SimulationError: a layer cannot be quantised or does not fit, or activations are not finite.
        UnsupportedOperatorError: a node runs neither on the accelerator nor on the host.

    """
    arch = Architecture()
    network = compile_network(graph, feeds, arch)
    results = infer(network, feeds, ACCELERATORS[accelerator], arch).layers
    operators = {str(node.name): node.op_type for node in graph.graph}
    return Built(pack(network, arch), tuple(_row(each, operators[each.name], accelerator) for each in results))


def _row(result: LayerResult, operator: str, accelerator: str) -> LayerReport:
    storage = result.storage
    return LayerReport(
        layer=result.name, operator=operator, shape=tuple(int(size) for size in result.shape.split(" x ")),
        format="eie", kernel=accelerator, detail=f"{result.kind}, {counted(storage.segments, 'segment')}",
        weights=storage.weights, nonzeros=storage.kept, bytes=storage.nbytes,
        predicted_us=round(result.time_us, 3), measured_us=None,
        reason=f"simulated: {100 * result.utilisation:.0f} % of the PE-cycles process entries")


def execute(constants: Sequence[np.ndarray]) -> Callable[[Feeds], list[np.ndarray]]:
    """The function from inputs to outputs, in order, of an artifact's constants: in fixed point, as the accelerator."""
    network, _ = unpack(constants)
    return lambda feeds: list(run(network, feeds).outputs.values())
