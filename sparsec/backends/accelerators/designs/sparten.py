"""SparTen (Gondimalla et al., MICRO 2019): inner products of bitmaps, chunk by chunk, filters balanced greedily."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.composed import Composed, filters_and_pixels
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, matches
from sparsec.backends.accelerators.representation import Bitmap, fill
from sparsec.backends.accelerators.timing import Configuration, clustered

STORED = Bitmap(chunk=128, pointer_bits=32)


def unit_of(kept: NDArray[np.bool_], config: Configuration) -> NDArray[np.intp]:
    """(filters, chunks) the place of a filter's chunk: its round of the cluster times the cluster, plus the unit.

    A unit holds two filters at most: of those sorted by density the densest and the sparsest go together, chunk by
    chunk (GB-H), by the whole filter (GB-S), or as they come.
    """
    outputs, chunks = kept.shape[0], kept.shape[1] // config["chunk"]
    density = kept.reshape(outputs, chunks, -1).sum(axis=2)
    if config["greedy"] < 2:
        density = np.repeat(density.sum(axis=1, keepdims=True) * config["greedy"], chunks, axis=1)
    rank = np.argsort(np.argsort(-density, axis=0, kind="stable"), axis=0, kind="stable")
    size = 2 * config["cluster"]
    first, place = rank // size * size, rank % size
    filled = np.minimum(size, outputs - first)
    place = np.where(place < config["cluster"], place, filled - 1 - place)
    unit: NDArray[np.intp] = rank // size * config["cluster"] + place
    return unit


def _chunked(layer: Operands, config: Configuration) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """Filters and windows filled up to whole chunks, and the positions of a cluster."""
    spare = -layer.filters.shape[1] % config["chunk"]
    w, x = (fill(each, 0, spare) for each in (layer.filters, layer.vectors))
    return w, x, -(-len(x) // (config["units"] // config["cluster"]))


def work(layer: Operands, config: Configuration) -> Work:
    """A step is a chunk of an output position and a round of filters; a unit takes a cycle a match, at least one."""
    w, x, span = _chunked(layer, config)
    place, width, size = unit_of(w != 0, config), config["chunk"], config["cluster"]
    clusters, chunks, rounds = config["units"] // size, w.shape[1] // width, -(-len(w) // (2 * size))
    table = np.zeros((rounds, span, chunks, clusters, size), np.int64)
    for chunk in range(chunks):
        part = slice(chunk * width, (chunk + 1) * width)
        cycles = np.maximum(matches(w[:, part] != 0, x[:, part] != 0), 1)
        summed = np.zeros((rounds * size, clusters * span), np.int64)
        np.add.at(summed, place[:, chunk], fill(cycles, 0, clusters * span - len(x)))
        table[:, :, chunk] = summed.reshape(rounds, size, clusters, span).transpose(0, 3, 2, 1)
    count = layer.useful
    return Work(table.reshape(-1, clusters * size), count, accesses={
        "operands": 2 * count, "accumulators": len(x) * len(w) * chunks})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Positions of a cluster, one after the other, by its units, from decoded bitmaps."""
    w, x, span = _chunked(layer, config)
    place, width, chunks = unit_of(w != 0, config), config["chunk"], w.shape[1] // config["chunk"]
    left, right = (STORED.decode(STORED.encode(each, 16)) for each in (w, x))
    for position in range(len(x)):
        at, values = right.fibre(position)
        for output in range(len(w)):
            of, weights = left.fibre(output)
            both, one, other = np.intersect1d(of, at, assume_unique=True, return_indices=True)
            products = weights[one] * values[other]
            for chunk in range(chunks):
                here = products[both // width == chunk]
                turn, unit = divmod(int(place[output, chunk]), config["cluster"])
                yield Event((turn * span + position % span) * chunks + chunk,
                            position // span * config["cluster"] + unit, max(1, len(here)),
                            np.full(len(here), output * len(x) + position), here)


ACCELERATOR = Composed(
    name="sparten", title="SparTen [2019]", operators=frozenset({Operator.FC, Operator.CONV}),
    extended=RECURRENT,
    paper="Gondimalla et al., SparTen: A Sparse Tensor Accelerator for Convolutional Neural Networks, MICRO 2019",
    weights=STORED, activations=STORED, skips_weights=True, skips_activations=True,
    balance="precomputed greedy", reuse="output",
    parameters={
        "units": Parameter(1024, "compute units, a multiplier each"), "multipliers": Parameter(1, "of a unit", 1, 1),
        "cluster": Parameter(32, "units that share a chunk", divides="units"), "chunk": Parameter(128, "values of one"),
        "greedy": Parameter(2, "0: filters as they come, 1: balanced whole (GB-S), 2: chunk by chunk (GB-H)", 0, 2),
        **numbers(800, 8, 8)},
    buffers={"operands": Buffer(992, 8), "accumulators": Buffer(128, 32)},
    fibres=filters_and_pixels, work=work, events=events, timing=clustered,
    assumptions=(
        "a window is one vector, channels innermost, cut into chunks across the kernel's taps",
        "output positions are dealt to clusters in equal runs; clusters meet at the end of a layer only",
        "a chunk without a match still takes its unit a cycle; the units of a cluster meet after every chunk",
        "the permutation network of GB-H and the compaction of outputs are hidden behind the products"),
    sources=("sections 3 and 4; 32 clusters of 32 units, chunks of 128, 45 nm, 800 MHz: table 2",),
    technology="45 nm")
