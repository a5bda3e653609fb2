"""An invented accelerator: bitmap weights, output stationary, 256 units that share filters out greedily."""

import numpy as np

from sparsec.backends.accelerators.composed import Composed, filters_and_pixels
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import Operator
from sparsec.backends.accelerators.mapping import Event, Work, greedy
from sparsec.backends.accelerators.representation import Bitmap, Dense, count_rows
from sparsec.backends.accelerators.timing import independent


def work(layer, config):
    loads = count_rows(layer.filters != 0)
    busy = np.bincount(greedy(loads, config["units"]), loads, config["units"]).astype(np.int64)
    outputs, positions = layer.shape
    count = layer.useful
    return Work(busy[None], count, int(loads.sum()) * positions - count, times=np.array([positions]),
                accesses={"weights": int(loads.sum()) * positions, "accumulators": outputs * positions})


def events(layer, config):
    stored = ACCELERATOR.weights.encode(layer.filters, config["weight_bits"])
    entries, positions = ACCELERATOR.weights.decode(stored), len(layer.vectors)
    unit = greedy(np.diff(entries.starts), config["units"])
    for position, vector in enumerate(layer.vectors):
        for output in range(len(layer.filters)):
            at, weights = entries.fibre(output)
            yield Event(position, unit[output], len(at), np.full(len(at), output * positions + position),
                        weights * vector[at])


ACCELERATOR = Composed(
    name="nineteenth", title="Nineteenth [invented]", paper="docs/accelerators.md", surveyed=False,
    operators=frozenset({Operator.FC, Operator.CONV}), weights=Bitmap(), activations=Dense(), skips_weights=True,
    skips_activations=False, balance="precomputed greedy", reuse="output",
    parameters={"units": Parameter(256, "units"), "multipliers": Parameter(1, "of a unit", 1, 1),
                **numbers(800, 8, 8)},
    buffers={"weights": Buffer(4096, 8), "accumulators": Buffer(128, 32)},
    fibres=filters_and_pixels, work=work, events=events, timing=independent)
