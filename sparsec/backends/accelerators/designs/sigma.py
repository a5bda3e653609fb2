"""SIGMA (Qin et al., HPCA 2020): the non-zeros of one matrix fill all multipliers, the other streams past."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsec.backends.accelerators.composed import Composed, filters_and_vectors
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work
from sparsec.backends.accelerators.representation import Bitmap, Dense
from sparsec.backends.accelerators.timing import Configuration, barrier

STORED = Bitmap()
PAPER = ("Qin et al., SIGMA: A Sparse and Irregular GEMM Accelerator with Flexible Interconnects for DNN Training, "
         "HPCA 2020")


def overhead(size: int, config: Configuration) -> int:
    """Cycles to load a fold's weights, and for the last sums to leave the forwarding adder network."""
    return -(-size // config["bandwidth"]) + config["multipliers"].bit_length()


def work(layer: Operands, config: Configuration) -> Work:
    """A step is a fold, as many non-zeros, row by row, as there are multipliers: every vector passes in a cycle."""
    columns, positions = np.nonzero(layer.filters)[1], len(layer.vectors)
    kept, lanes = len(columns), config["units"] * config["multipliers"]
    starts = np.arange(0, kept, lanes)
    sizes = np.minimum(lanes, kept - starts)
    holds = np.arange(config["units"]) * config["multipliers"] < sizes[:, None]
    count, some = layer.useful, np.count_nonzero(layer.vectors, axis=0)
    passing = sum(int(some[np.unique(columns[start : start + lanes])].sum()) for start in starts)
    return Work(holds.astype(np.int64) * positions, count, kept * positions - count,
                overhead=sum(overhead(int(size), config) for size in sizes), accesses={
                    "weights": kept, "activations": passing, "outputs": 2 * len(starts) * positions})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Fold by fold: decoded non-zeros in their multipliers, and every vector past them."""
    entries, lanes = STORED.decode(STORED.encode(layer.filters, 16)), config["units"] * config["multipliers"]
    rows, positions = np.repeat(np.arange(len(layer.filters)), np.diff(entries.starts)), len(layer.vectors)
    for step, start in enumerate(range(0, len(rows), lanes)):
        end = min(start + lanes, len(rows))
        yield Event(step, -1, overhead(end - start, config), np.zeros(0, np.int64), np.zeros(0, np.int64))
        for unit, first in enumerate(range(start, end, config["multipliers"])):
            held = slice(first, min(first + config["multipliers"], end))
            for position, vector in enumerate(layer.vectors):
                yield Event(step, unit, 1, rows[held] * positions + position,
                            entries.values[held] * vector[entries.positions[held]])


def systolic_work(layer: Operands, config: Configuration) -> Work:
    """A step is a tile of weights in the array: loaded row by row, then the vectors enter one after the other."""
    (outputs, inputs), positions = layer.filters.shape, len(layer.vectors)
    side = config["multipliers"]
    tiles = -(-inputs // config["units"]) * -(-outputs // side)
    across = np.minimum(config["units"], inputs - np.arange(0, inputs, config["units"]))
    table = np.repeat((np.arange(config["units"]) < across[:, None]) * positions, -(-outputs // side), axis=0)
    count, every = layer.useful, positions * outputs * inputs
    return Work(table.astype(np.int64), count, every - count, overhead=tiles * (config["units"] + side),
                accesses={"weights": outputs * inputs, "activations": positions * inputs * -(-outputs // side),
                          "outputs": 2 * positions * outputs * -(-inputs // config["units"])})


def systolic_events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Tile by tile and row by row of the array, an input each, over the outputs of its columns."""
    (outputs, inputs), positions, side = layer.filters.shape, len(layer.vectors), config["multipliers"]
    across = -(-outputs // side)
    for place in range(inputs):
        turn, unit = divmod(place, config["units"])
        for tile in range(across):
            step, rows = turn * across + tile, np.arange(tile * side, min(outputs, (tile + 1) * side))
            if unit == 0:
                yield Event(step, -1, config["units"] + side, np.zeros(0, np.int64), np.zeros(0, np.int64))
            for position in range(positions):
                yield Event(step, unit, 1, rows * positions + position,
                            layer.filters[rows, place].astype(np.int64) * layer.vectors[position, place])


PARAMETERS = {
    "units": Parameter(128, "dot product engines"), "multipliers": Parameter(128, "of an engine"),
    **numbers(500)}
OPERATORS = frozenset({Operator.FC, Operator.CONV})
BUFFERS = {"weights": Buffer(32 << 20, 16), "activations": Buffer(32 << 20, 16), "outputs": Buffer(4 << 20, 32)}

ACCELERATOR = Composed(
    name="sigma", title="Sigma [2020]", paper=PAPER, operators=OPERATORS, extended=RECURRENT,
    trains=True, weights=STORED, activations=STORED, skips_weights=True, skips_activations=True, balance="-",
    reuse="input/weight", parameters=PARAMETERS | {"bandwidth": Parameter(128, "weights that are loaded a cycle")},
    buffers=BUFFERS, fibres=filters_and_vectors, work=work, events=events, timing=barrier, area_mm2=65.1,
    power_mw=22300.0, technology="28 nm",
    assumptions=("weights stay, activations stream; convolutions are unfolded",
                 ("a vector passes in a cycle, however many of its values the multipliers hold weights for, as the "
                  "bars of figure 12 have it; only loading is limited"),
                 "loading is not overlapped with streaming; sums of several folds are added in the output buffer",
                 "bfloat16 products as 16-bit integers: the positions of zeros decide the time"),
    sources=("sections IV to VI: 128 engines of 128 multipliers, 500 MHz, 28 nm, 65.1 mm2, 22.33 W, 128 values in",))

SYSTOLIC = Composed(
    name="systolic", title="Systolic array, as a TPU", paper=PAPER, surveyed=False, operators=OPERATORS,
    extended=RECURRENT, weights=Dense(), activations=Dense(), skips_weights=False,
    skips_activations=False, balance="-", reuse="weight", parameters=PARAMETERS | {
        "units": Parameter(128, "rows"), "multipliers": Parameter(128, "columns")}, buffers=BUFFERS,
    fibres=filters_and_vectors, work=systolic_work, events=systolic_events, timing=barrier, technology="28 nm",
    assumptions=(("weights stay; a tile loads row by row, its vectors enter, and the sums of the last one leave, "
                  "without overlap"),),
    sources=("section VI: 128 x 128, the multipliers of SIGMA",))
