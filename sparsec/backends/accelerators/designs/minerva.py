"""Minerva (Reagen et al., ISCA 2016): lanes that neither fetch a weight nor multiply where an activation is small."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsec.backends.accelerators.composed import Composed, filters_and_vectors
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, shares
from sparsec.backends.accelerators.representation import Dense
from sparsec.backends.accelerators.timing import Configuration, barrier


def work(layer: Operands, config: Configuration) -> Work:
    """A step is a round of outputs of a vector: every input takes its cycle, with an activation that is zero idle."""
    outputs, vectors = layer.shape
    table = shares(np.full((1, outputs), layer.filters.shape[1], np.int64), config["units"])
    count = layer.useful
    awake = int(np.count_nonzero(layer.vectors)) * outputs
    return Work(table, count, outputs * layer.vectors.size - count, times=np.full(len(table), vectors), accesses={
        "multiplications": awake, "weights": awake, "activations": layer.vectors.size * len(table)})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Vector by vector and output by output."""
    outputs, vectors = layer.shape
    for vector in range(vectors):
        for output in range(outputs):
            products = layer.filters[output].astype(np.int64) * layer.vectors[vector]
            turn, unit = divmod(output, config["units"])
            yield Event(turn * vectors + vector, unit, len(products), np.full(len(products), output * vectors + vector),
                        products)


ACCELERATOR = Composed(
    name="minerva", title="Minerva [2016]", operators=frozenset({Operator.FC}), extended=RECURRENT,
    paper="Reagen et al., Minerva: Enabling Low-Power, Highly-Accurate Deep Neural Network Accelerators, ISCA 2016",
    weights=Dense(), activations=Dense(), skips_weights=False, skips_activations=False, gates=True, balance="N/A",
    reuse="-",
    parameters={
        "units": Parameter(16, "lanes"), "multipliers": Parameter(1, "of a lane", 1, 1),
        **numbers(250, 8, 8)},
    buffers={"weights": Buffer(64 * 1024, 8), "activations": Buffer(4096, 8)},
    fibres=filters_and_vectors, work=work, events=events, timing=barrier, technology="40 nm",
    assumptions=("a lane is gated for a zero activation and saves energy, not time",
                 "the threshold below which activations count as zero is 0: it is tuned with the network's accuracy",
                 "weights stay in SRAM at nominal voltage"),
    sources=("the survey's section 7.2.1; the paper's text was not at hand",))
