"""One inference on the accelerator: its outputs, how far they are from the dense model's, its time and its energy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sparsec.backends.accelerators.eie.accelerator import Accelerator
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.network import Network, run, run_float
from sparsec.backends.accelerators.eie.simulate import Active, LayerResult, simulate, total
from sparsec.backends.accelerators.execution import Feeds, HostNode, Watch, unwatched
from sparsec.graph.compare import relative_error


@dataclass(frozen=True)
class Accuracy:
    """How far an output is from the dense model's in onnxruntime.

    Attributes:
        output: its name.
        codebook_error: largest difference over largest magnitude, with the shared weights in float32.
        error: the same in fixed point, as the accelerator computes.
        same_class: share of the rows whose largest element is at the same place.

    """

    output: str
    codebook_error: float
    error: float
    same_class: float


@dataclass(frozen=True)
class Inference:
    """What an inference did.

    Attributes:
        arch: the configuration.
        layers: in order.
        total: their sum.
        host: what ran on the host, in order.
        saturated: by layer, additions that saturated.
        accuracy: by output; empty where there is nothing to compare with.
        outputs: by name.
        active: by layer, (vectors, columns) which activations were not zero.
        power_mw: power of the accelerator while it runs.
        area_mm2: its area.

    """

    arch: Architecture
    layers: list[LayerResult]
    total: LayerResult
    host: list[HostNode]
    saturated: dict[str, int]
    accuracy: list[Accuracy]
    outputs: dict[str, np.ndarray]
    active: Active
    power_mw: float
    area_mm2: float

    @property
    def host_flops(self) -> float:
        """Share of the dense network's floating-point operations that the host does."""
        on_host = sum(node.flops for node in self.host)
        return on_host / max(1, on_host + 2 * self.total.dense_macs)


def infer(network: Network, feeds: Feeds, accelerator: Accelerator, arch: Architecture,
          reference: Mapping[str, np.ndarray] | None = None, watch: Watch = unwatched) -> Inference:
    """Execute and simulate a network.

    Args:
        network: as `network.compile_network` gives it.
        feeds: inputs by name; they decide which activations are zero.
        accelerator: whose timing and energy.
        arch: its configuration, with the codebook and value bits that the network was compiled for.
        reference: the dense model's outputs by name, to compare with.
        watch: is shown nodes and layers.

    Raises:
        SimulationError: a layer does not fit the accelerator, or activations are not finite.
        InputError: an input is missing or has the wrong shape.

    """
    execution = run(network, feeds, watch)
    layers = simulate(network.layers, execution.active, accelerator, arch, watch)
    shared = {} if reference is None else run_float(network, feeds, watch)
    accuracy = _accuracy(execution.outputs, shared, reference or {})
    return Inference(arch, layers, total(layers, arch), execution.host, execution.saturated, accuracy,
                     execution.outputs, execution.active, accelerator.power_mw(arch), accelerator.area_mm2(arch))


def _accuracy(outputs: Mapping[str, np.ndarray], shared: Mapping[str, np.ndarray],
              reference: Mapping[str, np.ndarray]) -> list[Accuracy]:
    return [Accuracy(name, relative_error(shared[name], expected), relative_error(outputs[name], expected),
                     float(np.mean(outputs[name].argmax(axis=-1) == expected.argmax(axis=-1))))
            for name, expected in reference.items() if expected.ndim and expected.shape[-1]]
