"""ESE (Han et al., FPGA 2017): interleaved rows of a pruned LSTM behind queues of activations, balanced by pruning."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsec.backends.accelerators.composed import Composed, Fibres
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work
from sparsec.backends.accelerators.representation import Dense, RunLength, fill
from sparsec.backends.accelerators.timing import Configuration, queued

STORED = RunLength(run_bits=4, count_bits=16)


def slices(layer: Operands, config: Configuration) -> np.ndarray:
    """(matrices, units, columns, rows) the weights of every processing element (PE), which has each so many-th row."""
    size = min(config["outputs"], len(layer.filters))
    size += -size % config["units"]
    filled = fill(layer.filters, -len(layer.filters) % size)
    return filled.reshape(-1, size // config["units"], config["units"], filled.shape[1]).transpose(0, 2, 3, 1)


def fibres(layer: Operands, config: Configuration) -> Fibres:
    """A PE's part of a column, and vectors."""
    cut = slices(layer, config)
    return cut.reshape(-1, cut.shape[3]), layer.vectors


def work(layer: Operands, config: Configuration) -> Work:
    """A step is an activation that is not zero: a PE takes a cycle for its column's pointer, and one an entry."""
    cut = slices(layer, config)
    counts = STORED.count(cut.reshape(-1, cut.shape[3]) != 0).reshape(cut.shape[:3]).swapaxes(1, 2)
    vector, column = np.nonzero(layer.vectors)
    steps = np.concatenate([matrix[column] for matrix in counts])
    entries, count = int(steps.sum()), layer.useful
    return Work(steps + 1, count, padding=entries - count,
                parts=np.tile(np.bincount(vector, minlength=len(layer.vectors)), len(cut)),
                accesses={"weights": entries, "pointers": steps.size, "queues": 2 * steps.size,
                          "accumulators": 2 * entries})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Matrix by matrix, vector by vector and column by column, from decoded runs."""
    cut, (outputs, vectors) = slices(layer, config), layer.shape
    entries = STORED.decode(STORED.encode(cut.reshape(-1, cut.shape[3]), 16))
    places = np.argwhere(layer.vectors)
    for matrix, units in enumerate(range(0, len(cut) * config["units"], config["units"])):
        for step, (vector, column) in enumerate(places):
            for unit in range(config["units"]):
                at, weights = entries.fibre((units + unit) * cut.shape[2] + column)
                rows = (matrix * cut.shape[3] + at) * config["units"] + unit
                yield Event(matrix * len(places) + step, unit, 1 + len(at),
                            np.where(rows < outputs, rows * vectors + vector, -1),
                            weights * layer.vectors[vector, column], int(np.count_nonzero(weights == 0)),
                            int(matrix * vectors + vector))


ACCELERATOR = Composed(
    name="ese", title="ESE [2017]", operators=frozenset({Operator.LSTM}),
    extended=frozenset({Operator.FC, Operator.RNN}),
    paper="Han et al., ESE: Efficient Speech Recognition Engine with Sparse LSTM on FPGA, FPGA 2017",
    weights=STORED, activations=Dense(), skips_weights=True, skips_activations=True, balance="block-balanced",
    reuse="output",
    parameters={
        "units": Parameter(32, "PEs of a channel", 1, 1 << 12), "multipliers": Parameter(1, "of a PE", 1, 1),
        "queue": Parameter(8, "activations in a PE's queue"),
        "outputs": Parameter(1024, "outputs whose sums the PEs hold: a gate's matrix runs after the other"),
        **numbers(200, 12)},
    buffers={"weights": Buffer(2048, 16), "pointers": Buffer(2048, 32), "queues": Buffer(32, 16),
             "accumulators": Buffer(2048, 32)},
    fibres=fibres, work=work, events=events, timing=queued, power_mw=41000.0, technology="XCKU060, 20 nm",
    assumptions=("one of the 32 channels: the others run other voices at the same time",
                 "queues hold 8 activations, as EIE's",
                 "the memory brings each PE a word of 16 bits a cycle, a weight or a column's pointer",
                 "gates are element-wise and hidden behind the products of the next matrix"),
    sources=(("sections 4 and 5: 32 channels of 32 PEs, 12-bit weights with 4-bit runs, 16-bit activations, 200 MHz, "
             "41 W"),))
