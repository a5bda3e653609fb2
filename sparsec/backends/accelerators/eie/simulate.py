"""Simulating layers: what happens for given activations, how long it takes and what it costs; sweeps of a parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.eie.accelerator import Accelerator
from sparsec.backends.accelerators.eie.activity import Activity
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.energy import DRAM_PJ
from sparsec.backends.accelerators.eie.layer import Layer
from sparsec.backends.accelerators.eie.segments import Segment, most_entries
from sparsec.backends.accelerators.execution import Watch, unwatched
from sparsec.errors import UsageError

FIXED = ("codebook_bits", "value_bits")
"""What cannot change once the codes are chosen and the activations recorded."""

Active = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Storage:
    """A layer's weights as stored; sums add up.

    Attributes:
        weights: of the dense layer, its bias apart.
        kept: those that are not zero.
        biases: entries that hold a bias.
        padding: entries that hold neither.
        most_entries: entries of the PE that holds the most.
        segments: segments.
        columns: pointers of a PE, less one a segment.
        nbytes: bytes of entries, pointers and codebook, over all PEs.

    """

    weights: int = 0
    kept: int = 0
    biases: int = 0
    padding: int = 0
    most_entries: int = 0
    segments: int = 0
    columns: int = 0
    nbytes: int = 0

    def __add__(self, other: Storage) -> Storage:
        return Storage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def entries(self) -> int:
        """Entries of all PEs: non-zeros, biases and padding."""
        return self.kept + self.biases + self.padding

    def is_resident(self, arch: Architecture) -> bool:
        """Whether the SRAMs hold all of it."""
        return self.most_entries <= arch.weight_entries and self.columns <= arch.segment_columns


@dataclass(frozen=True)
class LayerResult:
    """One layer in one inference, or the sum of several.

    Attributes:
        name: the ONNX node's.
        kind: fully connected, 1x1 convolution or convolution by position.
        shape: outputs x inputs of the matrix.
        storage: its weights.
        vectors: products in one inference.
        inputs: activations that could have been broadcast, over all products and batches of rows.
        dense_macs: multiply-adds of the dense layer.
        activity: what happened.
        energy_pj: by model of energy and unit.
        arch: the configuration.

    """

    name: str
    kind: str
    shape: str
    storage: Storage
    vectors: int
    inputs: int
    dense_macs: int
    activity: Activity
    energy_pj: dict[str, dict[str, float]]
    arch: Architecture

    @property
    def time_us(self) -> float:
        """Microseconds of one run at the accelerator's clock."""
        return self.arch.microseconds(self.activity.cycles)

    @property
    def theory_us(self) -> float:
        """Time if every PE did its share of the entries, a cycle each, padding included."""
        return self.arch.microseconds(self.activity.entries / self.arch.pes)

    @property
    def balance(self) -> float:
        """Entries of the average PE over those of the busiest."""
        return self.activity.entries / max(1, self.arch.pes * self.activity.busiest)

    @property
    def utilisation(self) -> float:
        """The share of all PEs' cycles in which they processed an entry."""
        return self.activity.entries / max(1, self.arch.pes * self.activity.cycles)

    @property
    def energy_uj(self) -> float:
        """Microjoules of one run, by the first energy model."""
        return sum(next(iter(self.energy_pj.values())).values()) * 1e-6

    @property
    def gops(self) -> float:
        """Operations on the compressed network a second, in 10**9."""
        return 2e-3 * self.activity.macs / self.time_us if self.activity.cycles else 0.0

    @property
    def dense_gops(self) -> float:
        """Operations that the dense network would need a second, in 10**9."""
        return 2e-3 * self.dense_macs / self.time_us if self.activity.cycles else 0.0

    @property
    def offchip_bytes(self) -> int:
        """Bytes to be fetched for each inference because the SRAMs do not hold the layer; their time is not counted."""
        return 0 if self.storage.is_resident(self.arch) else self.storage.nbytes

    @property
    def offchip_uj(self) -> float:
        """Energy of fetching them from DRAM; not in `energy_uj`."""
        return self.offchip_bytes / 4 * DRAM_PJ * 1e-6


def simulate(layers: Mapping[str, Layer], active: Active, accelerator: Accelerator, arch: Architecture,
             watch: Watch = unwatched) -> list[LayerResult]:
    """Every layer of an inference.

    Args:
        layers: by name.
        active: by name, (vectors, columns) which activations are not zero.
        accelerator: whose timing and energy.
        arch: its configuration.
        watch: is shown the layers.

    Raises:
        SimulationError: a layer does not fit the accelerator.

    """
    return [_simulate(layer, active[layer.name], accelerator, arch) for layer in watch(list(layers.values()), "time")]


def _simulate(layer: Layer, active: NDArray[np.bool_], accelerator: Accelerator, arch: Architecture) -> LayerResult:
    segments = accelerator.represent(layer.codes, layer.has_bias, arch, layer.name)
    activity = accelerator.measure(segments, active, arch)
    outputs, columns = layer.codes.shape
    inputs, storage = columns - layer.has_bias, storage_of(layer, segments, arch)
    return LayerResult(
        layer.name, layer.kind, f"{outputs} x {inputs}", storage, len(active), len(active) * storage.columns,
        outputs * inputs * len(active) // layer.groups, activity,
        {name: model(activity, arch) for name, model in accelerator.energies.items()}, arch,
    )  # fmt: skip


def storage_of(layer: Layer, segments: Sequence[Segment], arch: Architecture) -> Storage:
    """The weights of a layer as its segments store them."""
    outputs, width = layer.codes.shape
    inputs = width - layer.has_bias
    entries = sum(len(segment.stored.codes) for segment in segments)
    kept, biases = (int(np.count_nonzero(part)) for part in np.split(layer.codes, [inputs], axis=1))
    columns = sum(segment.stored.shape[1] for segment in segments)
    bits = entries * arch.entry_bits + arch.pes * (columns + len(segments)) * arch.pointer_bits
    bits += arch.value_bits << arch.codebook_bits
    return Storage(outputs * inputs // layer.groups, kept, biases, entries - kept - biases, most_entries(segments),
                   len(segments), columns, -(-bits // 8))


def total(results: Sequence[LayerResult], arch: Architecture) -> LayerResult:
    """One result for several layers, whose cycles, entries and energies add up."""
    energy: dict[str, dict[str, float]] = {}
    for result in results:
        for model, units in result.energy_pj.items():
            sums = energy.setdefault(model, {})
            for unit, pj in units.items():
                sums[unit] = sums.get(unit, 0.0) + pj
    return LayerResult(
        "total", "", "", sum((r.storage for r in results), Storage()), sum(r.vectors for r in results),
        sum(r.inputs for r in results), sum(r.dense_macs for r in results),
        sum((r.activity for r in results), Activity()), energy, arch,
    )  # fmt: skip


def sweep(layers: Mapping[str, Layer], active: Active, accelerator: Accelerator, arch: Architecture, parameter: str,
          values: Sequence[int], watch: Watch = unwatched) -> dict[int, list[LayerResult]]:
    """Simulate for several values of one parameter of the configuration.

    With the number of PEs, their SRAMs and register files change so that all PEs together keep their capacity.

    Raises:
        UsageError: no such parameter, or one that changes the numbers themselves.
        SimulationError: a layer does not fit one of the configurations.

    """
    names = [field.name for field in fields(Architecture) if field.name not in FIXED]
    if parameter not in names:
        raise UsageError(f"cannot sweep '{parameter}'; choose from {', '.join(names)}")
    return {value: simulate(layers, active, accelerator, _vary(arch, parameter, value))
            for value in watch(values, f"sweep {parameter}")}


def _vary(arch: Architecture, parameter: str, value: int) -> Architecture:
    if parameter != "pes" or value < 1:
        return replace(arch, **{parameter: value})
    shared = ("weight_sram_bytes", "pointer_sram_bytes", "activation_sram_bytes", "registers")
    return replace(arch, pes=value, **{name: -(-getattr(arch, name) * arch.pes // value) for name in shared})
