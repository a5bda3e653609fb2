"""Eager Pruning (Zhang et al., ISCA 2019): stored weights of several filters fill the lanes of one adder tree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsec.backends.accelerators.composed import Composed, filters_and_pixels
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work
from sparsec.backends.accelerators.representation import Bitmap, Dense
from sparsec.backends.accelerators.timing import Configuration, barrier

STORED = Bitmap()


def work(layer: Operands, config: Configuration) -> Work:
    """A step is a fold: as many stored weights, of whatever filters, as there are lanes; a position takes a cycle."""
    kept, positions = int(np.count_nonzero(layer.filters)), layer.shape[1]
    folds = -(-kept // (config["units"] * config["multipliers"]))
    first = np.arange(folds)[:, None] * config["units"] * config["multipliers"]
    holds = first + np.arange(config["units"]) * config["multipliers"] < kept
    count = layer.useful
    return Work(holds.astype(np.int64) * positions, count, kept * positions - count, accesses={
        "multiplications": count, "weights": kept, "activations": kept * positions,
        "partial sums": 2 * folds * config["units"] * positions})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Fold by fold and unit by unit, from decoded bitmaps."""
    entries, positions = STORED.decode(STORED.encode(layer.filters, 16)), layer.shape[1]
    rows, lanes = np.repeat(np.arange(len(layer.filters)), np.diff(entries.starts)), config["multipliers"]
    for first in range(0, len(rows), lanes):
        step, unit = divmod(first // lanes, config["units"])
        held = slice(first, first + lanes)
        for position, vector in enumerate(layer.vectors):
            yield Event(step, unit, 1, rows[held] * positions + position,
                        entries.values[held] * vector[entries.positions[held]])


ACCELERATOR = Composed(
    name="eager-pruning", title="Eager Pruning [2019]", operators=frozenset({Operator.FC, Operator.CONV}),
    extended=RECURRENT, trains=True,
    paper="Zhang et al., Eager Pruning: Algorithm and Architecture Support for Fast Training of Deep Neural Networks, "
          "ISCA 2019",
    weights=STORED, activations=Dense(), skips_weights=True, skips_activations=False, gates=True,
    balance="dynamic output", reuse="weight",
    parameters={
        "units": Parameter(16, "processing elements"), "multipliers": Parameter(16, "of an element"),
        **numbers(1000)},
    buffers={"weights": Buffer(2048, 16), "activations": Buffer(8192, 16), "partial sums": Buffer(8192, 32)},
    fibres=filters_and_pixels, work=work, events=events, timing=barrier,
    assumptions=("weights of any filters share an element's lanes, whose adder tree is cut where a filter ends",
                 "a lane rests for a zero activation and saves energy, not time",
                 "loading a fold is hidden behind the one before; the backward pass is not simulated"),
    sources=("the survey's section 7.2.2; the paper's text was not at hand",))
