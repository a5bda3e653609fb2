"""Simulating layers on accelerators: cycles, bytes and energy of each, and what an accelerator cannot run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sparsec.backends.accelerators.activity import Activity
from sparsec.backends.accelerators.description import Accelerator
from sparsec.backends.accelerators.execution import Watch, unwatched
from sparsec.backends.accelerators.layer import Layer
from sparsec.backends.accelerators.timing import Configuration
from sparsec.errors import SimulationError

OUTPUTS, CHANNELS, SIZE = 6, 20, (9, 7)
"""The corner of every layer that is computed step by step."""


@dataclass(frozen=True)
class LayerResult:
    """One layer on one accelerator, or the sum of several.

    Attributes:
        name: the ONNX node's.
        operator: "FC", "Conv" or "RNN".
        dense_macs: multiply-adds with every zero.
        activity: what happened; nothing where the layer is refused.
        weight_bytes, activation_bytes: as stored.
        energy_pj: by part.
        refused: why the accelerator does not run it, "" where it does.

    """

    name: str
    operator: str
    dense_macs: int
    activity: Activity = field(default_factory=Activity)
    weight_bytes: int = 0
    activation_bytes: int = 0
    energy_pj: Mapping[str, float] = field(default_factory=dict)
    refused: str = ""


@dataclass(frozen=True)
class Result:
    """A network on one accelerator.

    Attributes:
        accelerator, config: which, and its configuration.
        layers: in order.

    """

    accelerator: Accelerator
    config: Configuration
    layers: Sequence[LayerResult]

    @property
    def total(self) -> LayerResult:
        """The sum of the layers that it runs."""
        ran = [layer for layer in self.layers if not layer.refused]
        parts = dict.fromkeys(part for layer in ran for part in layer.energy_pj)
        return LayerResult(
            "total", "", sum(layer.dense_macs for layer in ran), sum((layer.activity for layer in ran), Activity()),
            sum(layer.weight_bytes for layer in ran), sum(layer.activation_bytes for layer in ran),
            {part: sum(layer.energy_pj.get(part, 0.0) for layer in ran) for part in parts})

    @property
    def refused_share(self) -> float:
        """The share of the network's multiply-adds that it does not run."""
        every = sum(layer.dense_macs for layer in self.layers)
        return sum(layer.dense_macs for layer in self.layers if layer.refused) / max(1, every)

    def time_us(self, layer: LayerResult) -> float:
        """Microseconds of a layer at the accelerator's clock."""
        return layer.activity.cycles / self.config["clock_mhz"]

    def utilisation(self, layer: LayerResult) -> float:
        """The share of the multipliers' cycles that went to products of two non-zeros."""
        return layer.activity.spent.get("useful", 0) / max(1, sum(layer.activity.spent.values()))


def simulate(layers: Sequence[Layer], accelerator: Accelerator, given: Mapping[str, int] | None = None,
             watch: Watch = unwatched) -> Result:
    """Every layer of an inference on one accelerator.

    Args:
        layers: with their activations.
        accelerator: which.
        given: numbers of its configuration that are not the paper's.
        watch: is shown the layers.

    Raises:
        UsageError: no such parameter, or an impossible value.
        SimulationError: the sample of a layer, computed step by step, has wrong outputs, or other cycles than the
            fast model gives it.

    """
    (result,) = compare(layers, [(accelerator, given or {})], watch)
    return result


def compare(layers: Sequence[Layer], chosen: Sequence[tuple[Accelerator, Mapping[str, int]]],
            watch: Watch = unwatched) -> list[Result]:
    """Every layer of an inference on several accelerators, each with what is given of its configuration.

    A layer meets all of them before the next one, so that the integers that they share are made once and dropped.

    Raises:
        UsageError, SimulationError: as `simulate`.

    """
    configured = [(accelerator, accelerator.configure(given)) for accelerator, given in chosen]
    rows = [[_simulate(layer, *each) for each in configured] for layer in map(replace, watch(layers, "simulate"))]
    return [Result(*each, [row[place] for row in rows]) for place, each in enumerate(configured)]


def _simulate(layer: Layer, accelerator: Accelerator, config: Configuration) -> LayerResult:
    operator = layer.operator.value
    if not accelerator.runs(layer.operator):
        runs = ", ".join(sorted(each.value for each in accelerator.operators | accelerator.extended))
        return LayerResult(layer.name, operator, layer.dense_macs, refused=f"it runs {runs} only")
    check_sample(layer, accelerator, config)
    activity, footprint = accelerator.measure(layer, config), accelerator.footprint(layer, config)
    return LayerResult(layer.name, operator, layer.dense_macs, activity, -(-footprint.weights // 8),
                       -(-footprint.activations // 8), accelerator.energy(activity, footprint, config))


def check_sample(layer: Layer, accelerator: Accelerator, config: Configuration) -> None:
    """Compute a corner of a layer step by step, through its storage: outputs and cycles must be the right ones.

    Raises:
        SimulationError: they are not.

    """
    high, wide = (min(size, d * (k - 1) + s + 1) for size, d, k, s in zip(
        SIZE, layer.dilations, layer.weight.shape[2:], layer.strides, strict=True))
    sample = layer.sample(OUTPUTS, CHANNELS, (high, wide))
    if min(sample.out) < 1:
        sample = layer.sample(OUTPUTS, CHANNELS, (layer.x.shape[2], layer.x.shape[3]))
    execution, activity = accelerator.execute(sample, config), accelerator.measure(sample, config)
    if not np.array_equal(execution.outputs, execution.reference):
        raise SimulationError(f"layer '{layer.name}': {accelerator.name} computes wrong outputs; report this")
    if (execution.activity.cycles, execution.activity.spent) != (activity.cycles, activity.spent):
        raise SimulationError(f"layer '{layer.name}': the models of {accelerator.name} disagree, "
                              f"{execution.activity.cycles} and {activity.cycles} cycles; report this")
