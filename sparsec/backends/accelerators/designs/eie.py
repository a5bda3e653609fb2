"""EIE (Han et al., ISCA 2016) among the others: its own storage, timing and energy behind the common description."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from sparsec.backends.accelerators.activity import Activity
from sparsec.backends.accelerators.description import Accelerator, Execution, Footprint, Parameter
from sparsec.backends.accelerators.eie import energy, events, segments, simulate, timing
from sparsec.backends.accelerators.eie.activity import Activity as EieActivity
from sparsec.backends.accelerators.eie.architecture import MOST, PARAMETERS, Architecture
from sparsec.backends.accelerators.eie.layer import Layer as EieLayer
from sparsec.backends.accelerators.eie.layer import Ranges, quantize, with_bias
from sparsec.backends.accelerators.energy import DRAM_PJ
from sparsec.backends.accelerators.fixed_point import multiply
from sparsec.backends.accelerators.layer import Layer, Operator
from sparsec.backends.accelerators.representation import Dense, RunLength
from sparsec.backends.accelerators.timing import Configuration

NAMES = {"units": "pes", "queue": "fifo", "weight_bits": "codebook_bits", "activation_bits": "value_bits"}
"""The common names of its parameters."""
OWN = {name: common for common, name in NAMES.items()}


def architecture(config: Configuration) -> Architecture:
    """EIE's configuration from the common one."""
    return Architecture(**{NAMES.get(name, name): value for name, value in config.items() if name != "multipliers"})


@functools.lru_cache(maxsize=1)
def layer_of(layer: Layer, arch: Architecture) -> tuple[EieLayer, np.ndarray, list[segments.Segment]]:
    """The layer's shared weights and codes, its (vectors, columns) activations in fixed point, and its segments."""
    weight, vectors = layer.matrix(), layer.vectors()
    largest = float(np.abs(layer.x).max(initial=0))
    results = np.abs(weight @ vectors.T).max(initial=0) + (0 if layer.bias is None else np.abs(layer.bias).max())
    made = quantize(layer.name, "", weight, layer.bias, Ranges(largest, float(results)), arch, codebook="cluster",
                    relu=False, groups=layer.groups)
    cut = segments.split(made.codes, made.has_bias, arch, layer.name)
    return made, with_bias(made, made.source.quantize(vectors)), cut


def common(activity: EieActivity, arch: Architecture) -> Activity:
    """EIE's counters by the common causes; `registers` counts what passes its pipeline."""
    outside = activity.empty + activity.drain + arch.pes * activity.transfer
    return Activity(
        cycles=activity.cycles,
        spent={"useful": activity.macs, "padding": activity.padding, "starved": activity.starved,
               "imbalance": activity.tail, "overhead": outside},
        accesses={"weights": activity.weight_reads, "pointers": activity.pointer_reads,
                  "activations": activity.activation_reads, "registers": activity.entries + activity.empty})


@dataclass(frozen=True, kw_only=True)
class Eie(Accelerator):
    """Its matrices are whole layers, biases and groups included, in segments."""

    def footprint(self, layer: Layer, config: Configuration) -> Footprint:
        """Entries, pointers and codebooks; activations are dense."""
        arch = architecture(config)
        made, vectors, cut = layer_of(layer, arch)
        return Footprint(8 * simulate.storage_of(made, cut, arch).nbytes, vectors.size * arch.value_bits)

    def measure(self, layer: Layer, config: Configuration) -> Activity:
        """By the exact recurrence."""
        arch = architecture(config)
        _, vectors, cut = layer_of(layer, arch)
        return common(timing.measure(cut, vectors != 0, arch), arch)

    def execute(self, layer: Layer, config: Configuration) -> Execution:
        """Cycle by cycle."""
        arch = architecture(config)
        made, vectors, (whole,) = layer_of(layer, arch)
        shift = made.source.fraction + made.weight.fraction - made.destination.fraction
        codebook = made.weight.quantize(made.codebook)
        runs = [events.simulate(whole.stored, codebook, vector, arch, shift) for vector in vectors]
        right, _ = multiply(scipy.sparse.csc_array(made.codes), codebook, vectors.T, shift, made.destination.limit)
        moved = timing.measure([whole], np.zeros_like(vectors, np.bool_), arch)
        transfer = EieActivity(cycles=moved.transfer, transfer=moved.transfer, activation_reads=moved.activation_reads)
        happened = sum((run.activity for run in runs), transfer)
        outputs = np.stack([run.accumulators for run in runs], axis=1).astype(np.int64)
        return Execution(outputs, right.astype(np.int64), common(happened, arch))

    def energy(self, activity: Activity, footprint: Footprint, config: Configuration) -> dict[str, float]:
        """By unit, and DRAM."""
        spent, accesses, arch = activity.spent, activity.accesses, architecture(config)
        entries = spent["useful"] + spent["padding"]
        own = EieActivity(cycles=activity.cycles, macs=spent["useful"], padding=spent["padding"],
                          empty=accesses["registers"] - entries, weight_reads=accesses["weights"],
                          pointer_reads=accesses["pointers"], activation_reads=accesses["activations"])
        return energy.by_access(own, arch) | {"DRAM": DRAM_PJ * (footprint.weights + footprint.activations) / 32}


ACCELERATOR = Eie(
    name="eie", title="EIE [2016a]", operators=frozenset({Operator.FC}),
    extended=frozenset({Operator.CONV, Operator.LSTM, Operator.RNN}),
    paper="Han et al., EIE: Efficient Inference Engine on Compressed Deep Neural Network, ISCA 2016",
    weights=RunLength(run_bits=4, count_bits=16), activations=Dense(), skips_weights=True, skips_activations=True,
    balance="activation queuing", reuse="output",
    parameters={OWN.get(name, name): Parameter(getattr(Architecture(), name), text, most=MOST.get(name, 1 << 24))
                for name, text in PARAMETERS.items()} | {"multipliers": Parameter(1, "of a unit", 1, 1)},
    buffers={}, area_mm2=energy.area_mm2(Architecture()), power_mw=energy.power_mw(Architecture()),
    technology="45 nm",
    assumptions=("convolutions run position by position, groups as blocks of zeros, steps of LSTMs as vectors",
                 "the activation SRAM moves 64 bits a cycle; the pipeline empties between products",
                 "weights are 4-bit codes of 16 shared values, the bias is one more column",
                 "energy is EIE's own model by access (`docs/eie.md`), with DRAM as for the other designs"),
    sources=("sections III to VI, tables I, II and IV", "the authors' pruned AlexNet fc8 (`docs/eie.md`)"),
    checked=True)
