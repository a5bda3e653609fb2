"""Cnvlutin (Albericio et al., ISCA 2016): DaDianNao whose neuron lanes each skip their own zero activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.composed import Composed, filters_and_pixels
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work
from sparsec.backends.accelerators.representation import Dense, Offsets, fill
from sparsec.backends.accelerators.timing import Configuration, barrier

STORED = Offsets(brick=16)


def bricks(layer: Operands) -> NDArray[np.int32]:
    """(positions, bricks, 16) a window's activations, tap by tap."""
    channels = layer.x.shape[1]
    taps = layer.vectors.reshape(len(layer.vectors), -1, channels)
    return fill(taps, 0, 0, -channels % STORED.brick).reshape(len(taps), -1, STORED.brick)


def is_dense(layer: Operands) -> bool:
    """Whether a layer, the first, has too few channels for a brick and runs as on DaDianNao."""
    return bool(layer.x.shape[1] < STORED.brick)


def work(layer: Operands, config: Configuration) -> Work:
    """A unit is a lane of activations, which all filters share; lanes meet at the end of a window."""
    windows, units = bricks(layer), config["units"]
    outputs, rounds = len(layer.filters), -(-len(layer.filters) // config["multipliers"])
    count, some = layer.useful, int(np.count_nonzero(layer.vectors))
    if is_dense(layer):
        table = np.zeros((len(windows), units), np.int64)
        table[:, : layer.x.shape[1]] = windows.shape[1]
        some = layer.vectors.size
    else:
        cycles = np.maximum(np.count_nonzero(windows, axis=2), 1)
        table = fill(cycles, 0, -cycles.shape[1] % units).reshape(len(cycles), -1, units).sum(axis=1)
    return Work(table, count, some * outputs - count, times=np.full(len(table), rounds), accesses={
        "weights": int(table.sum()) * outputs, "activations": int(table.sum()) * rounds,
        "accumulators": 2 * len(table) * outputs})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Window by window, every lane its bricks, every entry times a column of the filters."""
    windows, units = bricks(layer), config["units"]
    entries = STORED.decode(STORED.encode(windows.reshape(-1, STORED.brick), 16))
    positions, per_window = windows.shape[:2]
    channels, rounds = layer.x.shape[1], -(-len(layer.filters) // config["multipliers"])
    for position, turn, brick in np.ndindex(positions, rounds, per_window):
        tap, first = divmod(brick * STORED.brick, -(-channels // STORED.brick) * STORED.brick)
        filters = np.arange(turn * config["multipliers"], min(len(layer.filters), (turn + 1) * config["multipliers"]))
        at, values = entries.fibre(position * per_window + brick)
        if is_dense(layer):
            at, values = np.arange(channels), windows[position, brick, :channels].astype(np.int64)
        products = layer.filters[filters][:, tap * channels + first + at] * values
        outputs = np.broadcast_to(filters[:, None] * positions + position, products.shape)
        if is_dense(layer):
            for lane in range(channels):
                yield Event(position * rounds + turn, lane, 1, outputs[:, lane], products[:, lane])
        else:
            yield Event(position * rounds + turn, brick % units, max(1, len(at)), outputs.ravel(), products.ravel())


ACCELERATOR = Composed(
    name="cnvlutin", title="Cnvlutin [2016]", operators=frozenset({Operator.CONV}),
    paper="Albericio et al., Cnvlutin: Ineffectual-Neuron-Free Deep Neural Network Computing, ISCA 2016",
    weights=Dense(), activations=STORED, skips_weights=False, skips_activations=True,
    balance="group neurons", reuse="output",
    parameters={
        "units": Parameter(16, "neuron lanes", 16, 16),
        "multipliers": Parameter(256, "filters that a lane feeds: 16 in each of 16 tiles"),
        **numbers(606)},
    buffers={"weights": Buffer(2 << 20, 16), "activations": Buffer(4 << 20, 16), "accumulators": Buffer(1024, 32)},
    fibres=filters_and_pixels, work=work, events=events, timing=barrier, technology="65 nm",
    assumptions=("bricks of a window go to the 16 lanes in turns; lanes meet at the end of every window",
                 "an empty brick takes its lane a cycle",
                 "a layer of fewer channels than a brick (the first) runs as on DaDianNao, as in the paper"),
    sources=("sections 3 and 4: 16 tiles of 16 x 16 multipliers, bricks of 16, offsets of 4 bits (ZFNAf)",))
