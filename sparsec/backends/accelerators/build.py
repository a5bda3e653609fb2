"""Compiling a planned graph for a composed accelerator, and executing what was compiled from the stored weights.

The constants are a JSON header, the planned graph without the weights that the accelerator stores, and for each of its
layers the words of every memory. Layers that it does not run stay in the graph, and run on the host in float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.accelerators import vectors
from sparsec.backends.accelerators.composed import Composed
from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.execution import Feeds, unwatched, write_back
from sparsec.backends.accelerators.execution import execute as run_graph
from sparsec.backends.accelerators.fixed_point import fitting
from sparsec.backends.accelerators.graphs import signature, without
from sparsec.backends.accelerators.layer import RECURRENT, Layer, Operands, Operator
from sparsec.backends.accelerators.network import record
from sparsec.backends.accelerators.representation import Stored, Words
from sparsec.backends.accelerators.simulate import LayerResult, simulate
from sparsec.backends.accelerators.timing import Configuration
from sparsec.backends.base import Built
from sparsec.backends.layer_report import LayerReport
from sparsec.backends.program import Program

ENTRY = "accelerator"


def composed(name: str) -> Composed:
    """The accelerator of a target of kind "accelerator"."""
    accelerator = ACCELERATORS[name]
    assert isinstance(accelerator, Composed)  # EIE has a backend of its own
    return accelerator


def build(graph: ir.Model, feeds: Feeds, name: str) -> Built:
    """Compile for an accelerator's published configuration; the layers' rows have their simulated times.

    Raises:
        SimulationError: activations are not finite, or a layer's two models disagree.
        UnsupportedOperatorError: a node runs neither on the accelerator nor on the host.

    """
    accelerator = composed(name)
    network, config = record(graph, feeds), accelerator.configure({})
    results = simulate(network.layers, accelerator)
    nodes = {str(node.name): node for node in graph.graph}
    rows = tuple(_row(layer, result, accelerator, config) for layer, result in
                 zip(network.layers, results.layers, strict=True) if layer.name in nodes)
    stored = {layer.name: layer for layer in network.layers
              if layer.name in nodes and vectors.is_product(nodes[layer.name]) and accelerator.runs(layer.operator)}
    return Built(_pack(graph, stored, accelerator, config), rows)


def _row(layer: Layer, result: LayerResult, accelerator: Composed, config: Configuration) -> LayerReport:
    spent = result.activity.spent
    used = spent.get("useful", 0) / max(1, sum(spent.values()))
    kept = "; the artifact keeps its float32 weights" if layer.operator in RECURRENT else ""
    refused = f"on the host: {accelerator.name} cannot, {result.refused}"
    return LayerReport(
        layer=layer.name, operator={Operator.FC: "MatMul"}.get(layer.operator, layer.operator.value),
        shape=layer.weight.shape[:2] if layer.operator is Operator.FC else layer.weight.shape,
        format=accelerator.weights.family if not result.refused else "dense", kernel=accelerator.name,
        detail=f"{accelerator.lanes(config):,} multipliers", weights=layer.weight.size,
        nonzeros=int(np.count_nonzero(layer.weight)), bytes=result.weight_bytes or layer.weight.nbytes,
        predicted_us=round(result.activity.cycles / config["clock_mhz"], 3), measured_us=None,
        reason=refused if result.refused else (
            f"simulated: {100 * used:.0f} % of the multipliers' cycles are useful{kept}"))


def _pack(graph: ir.Model, layers: Mapping[str, Layer], accelerator: Composed, config: Configuration) -> Program:
    headers: list[dict[str, Any]] = []
    arrays: list[np.ndarray] = []
    for layer in layers.values():
        fibres = np.vstack([accelerator.fibres(group, config)[0] for group in _groups(layer, config)])
        stored = accelerator.weights.encode(fibres, config["weight_bits"])
        headers.append({
            "name": layer.name, "operator": layer.operator.value, "weight": layer.weight.shape, "x": layer.x.shape,
            "pads": layer.pads, "strides": layer.strides, "dilations": layer.dilations, "groups": layer.groups,
            "fraction": _fraction(layer.weight, config["weight_bits"]), "shape": stored.shape,
            "memories": {name: words.width for name, words in stored.memories.items()}})
        arrays += [words.values.astype(np.min_scalar_type(int(words.values.max(initial=0))))
                   for words in stored.memories.values()]
    header = json.dumps({"accelerator": accelerator.name, "configuration": dict(config), "layers": headers}).encode()
    names = {node.inputs[1].name for node in graph.graph if str(node.name) in layers and node.inputs[1] is not None}
    constants = (np.frombuffer(header, np.uint8), np.frombuffer(without(graph, names), np.uint8), *arrays)
    return Program(b"", ENTRY, constants, signature(graph.graph.inputs), signature(graph.graph.outputs))


def _groups(layer: Layer, config: Configuration) -> Sequence[Operands]:
    return layer.operands(config["weight_bits"], config["activation_bits"])


def _fraction(values: NDArray[np.float32], bits: int) -> int:
    return fitting(float(np.abs(values).max(initial=0)), bits).fraction


def unpack(constants: Sequence[np.ndarray]) -> tuple[ir.Model, Configuration, dict[str, tuple[NDArray[np.int64], int]]]:
    """The graph of an artifact's constants, the configuration, and each layer's decoded weights and their fraction."""
    arrays = iter(constants)
    header = json.loads(next(arrays).tobytes())
    model = ir.from_proto(onnx.ModelProto.FromString(next(arrays).tobytes()))
    accelerator, config = composed(header["accelerator"]), header["configuration"]
    weights = {each["name"]: (_decoded(each, arrays, accelerator, config), int(each["fraction"]))
               for each in header["layers"]}
    return model, config, weights


def _decoded(header: Mapping[str, Any], arrays: Iterator[np.ndarray], accelerator: Composed, config: Configuration,
             ) -> NDArray[np.int64]:
    """(outputs, inputs) integers: fibres of ascending numbers say where every decoded value belongs."""
    memories = {name: Words(next(arrays).astype(np.int64), width) for name, width in header["memories"].items()}
    rows, length = header["shape"]
    stored = Stored((rows, length), config["weight_bits"], memories)
    values = accelerator.weights.decode(stored).dense(stored.shape).reshape(header["groups"], -1, length)
    outputs, *rest = header["weight"]
    places = np.arange(1, outputs // header["groups"] * int(np.prod(rest)) + 1, dtype=np.int32)
    images, channels, *size = header["x"]
    one = Operands(places.reshape(-1, *rest), np.zeros((images, channels // header["groups"], *size), np.int32),
                   tuple(header["pads"]), tuple(header["strides"]), tuple(header["dilations"]))
    where = accelerator.fibres(one, config)[0]
    weight = np.zeros((header["groups"], places.size), np.int64)
    weight[:, where[where > 0] - 1] = values[:, where > 0]
    blocks = Layer("", Operator.FC, weight.reshape(outputs, *rest).astype(np.float32),
                   np.zeros((1, 1, 1, 1), np.float32), groups=header["groups"])
    return blocks.matrix().astype(np.int64)


def execute(constants: Sequence[np.ndarray]) -> Callable[[Feeds], list[np.ndarray]]:
    """The function from inputs to outputs, in order, of an artifact's constants: products in the layers' integers."""
    model, config, weights = unpack(constants)

    def multiply(node: ir.Node, x: NDArray[np.float32]) -> NDArray[np.float32]:
        seen = vectors.unfold(node, x)
        if str(node.name) in weights:
            weight, fraction = weights[str(node.name)]
            number = fitting(float(np.abs(x).max(initial=0)), config["activation_bits"])
            exact = weight.astype(np.float64) @ number.quantize(seen).T
            y = np.ldexp(exact, -fraction - number.fraction).astype(np.float32)
        else:
            y = vectors.matrix(node) @ seen.T
        return write_back(node, y)

    return lambda feeds: list(run_graph(model, feeds, multiply, unwatched, "execute")[0].values())
