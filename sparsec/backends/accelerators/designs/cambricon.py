"""Cambricon-X (Zhang et al., MICRO 2016) and Cambricon-S (Zhou et al., MICRO 2018): indices pick the activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.composed import Composed, Fibres, filters_and_pixels
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, ceil_div, matches, shares
from sparsec.backends.accelerators.representation import BlockIndex, Dense, RunLength, fill
from sparsec.backends.accelerators.timing import Configuration, barrier, independent

STEPS, BLOCKS = RunLength(run_bits=8), BlockIndex(block=16)


def work(layer: Operands, config: Configuration) -> Work:
    """Cambricon-X: a unit has an output of its own and takes 16 stored weights a cycle."""
    entries, positions = STEPS.count(layer.filters != 0), len(layer.vectors)
    table = shares(ceil_div(entries, config["multipliers"])[None], config["units"])
    count, some = layer.useful, int(np.count_nonzero(layer.filters))
    return Work(table, count, some * positions - count, (int(entries.sum()) - some) * positions,
                times=np.full(len(table), positions), accesses={
                    "weights": int(table.sum()) * positions, "activations": int(entries.sum()) * positions,
                    "outputs": len(entries) * positions})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Output by output, from decoded steps."""
    entries, positions = STEPS.decode(STEPS.encode(layer.filters, 16)), len(layer.vectors)
    for output in range(len(layer.filters)):
        at, weights = entries.fibre(output)
        turn, unit = divmod(output, config["units"])
        for position, vector in enumerate(layer.vectors):
            yield Event(turn * positions + position, unit, -(-len(at) // config["multipliers"]),
                        np.full(len(at), output * positions + position), weights * vector[at],
                        int(np.count_nonzero(weights == 0)))


def blocks(layer: Operands, config: Configuration) -> NDArray[np.int32]:
    """(groups of 16 outputs, places, outputs) the weights of Cambricon-S: a group shares its indices."""
    size = config["units"]
    filled = fill(layer.filters, -len(layer.filters) % size)
    return filled.reshape(-1, size, filled.shape[1]).swapaxes(1, 2)


def block_fibres(layer: Operands, config: Configuration) -> Fibres:
    """Groups of filters, the outputs innermost, and pixels."""
    grouped = blocks(layer, config)
    return grouped.reshape(len(grouped), -1), layer.pixels


def selections(layer: Operands, config: Configuration) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(groups,) the activations that are selected, and cycles: of each 256, 16 a cycle, a cycle at least."""
    kept, some = np.count_nonzero(blocks(layer, config), axis=2) > 0, layer.vectors != 0
    selected, cycles = np.zeros((2, len(kept)), np.int64)
    for first in range(0, kept.shape[1], config["window"]):
        part = slice(first, first + config["window"])
        joined = matches(kept[:, part], some[:, part])
        selected += joined.sum(axis=1)
        cycles += np.maximum(1, ceil_div(joined, config["multipliers"])).sum(axis=1)
    return selected, cycles


def block_work(layer: Operands, config: Configuration) -> Work:
    """Cambricon-S: every unit has an output of the group, all take the same selected activations."""
    selected, cycles = selections(layer, config)
    outputs = np.clip(len(layer.filters) - np.arange(len(cycles)) * config["units"], 0, config["units"])
    table = cycles[:, None] * (np.arange(config["units"]) < outputs[:, None])
    count = layer.useful
    return Work(table, count, int(selected @ outputs) - count, accesses={
        "weights": int(table.sum()), "activations": int(cycles.sum()), "outputs": layer.filters.shape[0] * len(
            layer.vectors)})


def block_events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Group by group: the windows of the position, what both indices select, and every unit's products."""
    grouped, size = blocks(layer, config), config["units"]
    scheme, outputs = BlockIndex(block=size), len(layer.filters)
    entries = scheme.decode(scheme.encode(grouped.reshape(len(grouped), -1), 16))
    positions = len(layer.vectors)
    for turn, (position, vector) in ((t, each) for t in range(len(grouped)) for each in enumerate(layer.vectors)):
        at, weights = entries.fibre(turn)
        place, rows = at[::size] // size, weights.reshape(-1, size)
        for start in range(0, len(vector), config["window"]):
            chosen = (place >= start) & (place < start + config["window"]) & (vector[place] != 0)
            for unit in range(min(size, outputs - turn * size)):
                products = rows[chosen, unit] * vector[place[chosen]]
                yield Event(turn * positions + position, unit, max(1, -(-len(products) // config["multipliers"])),
                            np.full(len(products), (turn * size + unit) * positions + position), products)


PARAMETERS = {
    "units": Parameter(16, "processing elements, an output each"), "multipliers": Parameter(16, "of an element"),
    **numbers(1000)}
OPERATORS = frozenset({Operator.FC, Operator.CONV})

X = Composed(
    name="cambricon-x", title="Cambricon-X [2016]", operators=OPERATORS, extended=RECURRENT,
    paper="Zhang et al., Cambricon-X: An Accelerator for Sparse Neural Networks, MICRO 2016",
    weights=STEPS, activations=Dense(), skips_weights=True, skips_activations=False, balance="N/A", reuse="output",
    parameters=PARAMETERS, buffers={"weights": Buffer(2048, 384), "activations": Buffer(8192, 16),
                                    "outputs": Buffer(8192, 16)},
    fibres=filters_and_pixels, work=work, events=events, timing=independent, area_mm2=6.38,
    power_mw=954.0, technology="65 nm",
    differs={"y comp": "the paper skips zero weights only: its indexing module selects by the weights' steps, and "
                       "activations that are zero are multiplied (sections 3 and 4)"},
    assumptions=("steps have 8 bits; a longer one takes padding entries", "elements wait at the end of a layer only",
                 "the indexing module finds 16 activations a cycle wherever they are"),
    sources=("sections 4 and 5: 16 elements of 16 multipliers, 16 bits, 1 GHz, 65 nm, 6.38 mm2, 954 mW",))

S = Composed(
    name="cambricon-s", title="Cambricon-S [2018]", operators=OPERATORS, extended=RECURRENT,
    paper="Zhou et al., Cambricon-S: Addressing Irregularity in Sparse Neural Networks, MICRO 2018",
    weights=BLOCKS, activations=Dense(), skips_weights=True, skips_activations=True, balance="group output neurons",
    reuse="output", parameters=PARAMETERS | {
        "units": Parameter(16, "processing elements, which share indices", 16, 16),
        "window": Parameter(256, "activations from which 16 are selected a cycle")},
    buffers={"weights": Buffer(32 * 1024, 256), "activations": Buffer(8192, 256), "outputs": Buffer(8192, 16)},
    fibres=block_fibres, work=block_work, events=block_events, timing=barrier, area_mm2=6.73, power_mw=798.55,
    technology="65 nm",
    assumptions=(("indices are shared by the 16 outputs that the elements compute together; weights not pruned "
                 "in such blocks keep a block wherever one of them is not zero"),
                 "a window of activations without a selected one takes a cycle",
                 "weights are not shared by codebooks, and no codes are decoded"),
    sources=(("sections 4 and 5: 16 elements of 16 multipliers, 256 activations in the selector, 1 GHz, 65 nm, "
             "6.73 mm2, 798.55 mW"),))
