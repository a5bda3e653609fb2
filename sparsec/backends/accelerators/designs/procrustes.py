"""Procrustes (Yang et al., MICRO 2020): compressed blocks of weights, and halves of filters exchanged for balance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.composed import Composed, Fibres
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, count_places
from sparsec.backends.accelerators.representation import Bitmap, Dense
from sparsec.backends.accelerators.timing import Configuration, barrier


@dataclass(frozen=True)
class CompressedBlocks(Bitmap):
    """A mask and a pointer a block, and its values that are not zero."""

    family: ClassVar[str] = "CB"


STORED = CompressedBlocks(chunk=1 << 20, pointer_bits=32)


def fibres(layer: Operands, _config: Configuration) -> Fibres:
    """Kernels, and pixels."""
    return layer.weight.reshape(-1, layer.weight[0, 0].size), layer.pixels


def loads(layer: Operands) -> NDArray[np.int64]:
    """(outputs, 2) the weights of each half, by channels, of a filter."""
    middle = layer.weight.shape[1] // 2
    return np.stack([np.count_nonzero(part, axis=(1, 2, 3)) for part in (
        layer.weight[:, :middle], layer.weight[:, middle:])], axis=1)


def halves(weights: NDArray[np.int64], side: int) -> NDArray[np.intp]:
    """(outputs, 2) the row, of `side`, that has each half of a filter; `weights` are those of `loads`.

    In a round of as many filters as rows, the heaviest of the second halves goes to the row of the lightest first one.
    """
    row = np.empty(weights.shape, np.intp)
    for first in range(0, len(weights), side):
        part = weights[first : first + side]
        lightest, heaviest = (np.argsort(order, kind="stable") for order in (part[:, 0], -part[:, 1]))
        row[first : first + side, 0] = np.arange(len(part))
        row[first + heaviest, 1] = lightest
    return row


def work(layer: Operands, config: Configuration) -> Work:
    """A step is a round of filters at as many positions as columns: a row takes a cycle a weight of its halves."""
    outputs, positions = layer.shape
    side, across = config["rows"], config["units"] // config["rows"]
    weights = loads(layer)
    rounds, turns = -(-outputs // side), -(-positions // across)
    rows = np.zeros((rounds, side), np.int64)
    np.add.at(rows, (np.arange(outputs)[:, None] // side, halves(weights, side)), weights)
    open_ = count_places(positions, turns, across)
    table = (rows[:, None, :, None] * open_[None, :, None, :]).reshape(2 * rounds, -1)
    count, kept = layer.useful, int(np.count_nonzero(layer.weight))
    return Work(table, count, kept * positions - count, times=np.tile([turns - 1, 1], rounds), accesses={
        "weights": kept * turns, "activations": kept * positions, "partial sums": 2 * kept * positions})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Kernel by kernel, from decoded blocks, at every position."""
    (outputs, positions), channels = layer.shape, layer.weight.shape[1]
    side, across = config["rows"], config["units"] // config["rows"]
    entries = STORED.decode(STORED.encode(fibres(layer, config)[0], 16))
    row, turns = halves(loads(layer), side), -(-positions // across)
    for output, channel in np.ndindex(outputs, channels):
        tap, weights = entries.fibre(output * channels + channel)
        unit = int(row[output, int(channel >= channels // 2)])
        for position in range(positions):
            x = layer.vectors[position, tap * channels + channel]
            yield Event(output // side * turns + position // across, unit * across + position % across, len(tap),
                        np.full(len(tap), output * positions + position), weights * x)


ACCELERATOR = Composed(
    name="procrustes", title="Procrustes [2020a]", operators=frozenset({Operator.FC, Operator.CONV}),
    extended=RECURRENT, trains=True,
    paper="Yang et al., Procrustes: A Dataflow and Accelerator for Sparse Deep Neural Network Training, MICRO 2020",
    weights=STORED, activations=Dense(), skips_weights=True, skips_activations=False,
    balance="split minibatch for LB", reuse="minibatch",
    parameters={
        "units": Parameter(256, "processing elements, 16 x 16"),
        "rows": Parameter(16, "rows of elements, a filter each", divides="units"),
        "multipliers": Parameter(1, "of an element", 1, 1), **numbers(1000)},
    buffers={"weights": Buffer(1024, 16), "activations": Buffer(1024, 16), "partial sums": Buffer(1024, 32)},
    fibres=fibres, work=work, events=events, timing=barrier, technology="45 nm",
    assumptions=("an inference has one sample: positions and tokens take the minibatch's place in the columns",
                 "a block is a kernel's row of taps; halves of filters are exchanged within a round of 16",
                 "values are 16-bit integers instead of 32-bit floats; the backward pass is not simulated"),
    sources=("the survey's section 7.2.2; the paper's text was not at hand",))
