"""Eyeriss (Chen et al., JSSC 2017): rows of kernels stay in the elements of a grid, which rest for zero activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparsec.backends.accelerators.composed import Composed, Fibres
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work
from sparsec.backends.accelerators.representation import Dense
from sparsec.backends.accelerators.timing import Configuration, barrier


@dataclass(frozen=True)
class Pass:
    """What the grid does at once: output rows of an image, and of each replica of the set its filters and channels."""

    image: int
    rows: range
    replicas: tuple[tuple[range, range], ...]


def fibres(layer: Operands, _config: Configuration) -> Fibres:
    """Filters and rows."""
    return layer.filters, layer.x.reshape(-1, layer.x.shape[3])


def shape_of(layer: Operands, config: Configuration) -> tuple[int, int, int, int]:
    """Output rows of a set, replicas of it, filters and channels of an element (JSSC 2017, sections III and V)."""
    outputs, channels, high, wide = layer.weight.shape
    down, across = config["units"] // config["columns"], config["columns"]
    rows = min(layer.windows.shape[1], across)
    replicas = down // min(high, down) * (across // rows)
    q = int(np.clip(config["row_activations"] // wide, 1, channels))
    p = int(np.clip(config["row_weights"] // (q * wide), 1, min(config["partial_sums"], outputs)))
    return rows, replicas, p, q


def set_rows(layer: Operands, config: Configuration) -> int:
    """Rows of a set: one a kernel row, or as many as the grid has, which then take several."""
    return int(min(layer.weight.shape[2], config["units"] // config["columns"]))


def passes(layer: Operands, config: Configuration) -> Iterator[Pass]:
    """In order: images, strips of output rows, filters, channels; replicas take other filters before other channels."""
    rows, replicas, p, q = shape_of(layer, config)
    outputs, channels = layer.weight.shape[:2]
    by_filter = min(replicas, -(-outputs // p))
    by_channel = replicas // by_filter
    for image in range(len(layer.x)):
        for top in range(0, layer.windows.shape[1], rows):
            strip = range(top, min(top + rows, layer.windows.shape[1]))
            for first in range(0, outputs, p * by_filter):
                for start in range(0, channels, q * by_channel):
                    yield Pass(image, strip, tuple(
                        (range(f, min(f + p, outputs)), range(c, min(c + q, channels)))
                        for f in range(first, min(first + p * by_filter, outputs), p)
                        for c in range(start, min(start + q * by_channel, channels), q)))


def waiting(each: Pass, layer: Operands, busy: int) -> int:
    """Cycles that the grid waits for its buses: an activation and four weights a cycle, the next pass's meanwhile."""
    high, wide = layer.weight.shape[2:]
    lines = (len(each.rows) - 1) * layer.strides[0] + high
    length = (layer.windows.shape[2] - 1) * layer.strides[1] + wide
    activations = sum(len(channels) for channels in {channels for _, channels in each.replicas}) * lines * length
    weights = sum(len(filters) * len(channels) for filters, channels in each.replicas) * high * wide
    return int(max(0, activations - busy, -(-weights // 4) - busy))


def work(layer: Operands, config: Configuration) -> Work:
    """A step is a pass: an element multiplies its filters' kernel rows by the rows of its channels, zeros too."""
    (high, wide), columns = layer.weight.shape[2:], layer.windows.shape[2]
    lines = np.bincount(np.arange(high) % set_rows(layer, config))  # kernel rows of an element's row of the set
    table, overhead = [], 0
    for each in passes(layer, config):
        row = np.zeros(config["units"], np.int64)
        products = np.array([len(filters) * len(channels) for filters, channels in each.replicas])
        busy = np.multiply.outer(products * columns * wide, np.repeat(lines, len(each.rows))).ravel()
        row[: len(busy)] = busy
        table.append(row)
        overhead += waiting(each, layer, int(row.max()))
    count, every = layer.useful, layer.shape[0] * layer.vectors.size
    awake = int(np.count_nonzero(layer.vectors)) * layer.shape[0]
    return Work(np.array(table), count, every - count, overhead=overhead, accesses={
        "multiplications": awake, "weights": awake, "activations": every, "partial sums": 2 * awake})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Pass by pass and element by element."""
    high, wide = layer.weight.shape[2:]
    _, rows, columns = layer.windows.shape[:3]
    positions = len(layer.vectors)
    seen = layer.windows
    for step, each in enumerate(passes(layer, config)):
        longest = 0
        for replica, (filters, channels) in enumerate(each.replicas):
            w = layer.weight[filters.start : filters.stop, channels.start : channels.stop].astype(np.int64)
            busy = len(filters) * len(channels) * columns * wide
            longest = max(longest, busy * -(-high // set_rows(layer, config)))
            for r in range(high):
                for column, row in enumerate(each.rows):
                    x = seen[each.image, row, :, r, :, channels.start : channels.stop]  # (out columns, taps, channels)
                    products = w[:, None, :, r] * x.transpose(0, 2, 1)[None]
                    place = np.array(filters)[:, None] * positions + (each.image * rows + row) * columns + np.arange(
                        columns)
                    yield Event(step, (replica * set_rows(layer, config) + r % set_rows(layer, config)) * len(
                        each.rows) + column, busy,
                                np.broadcast_to(place[:, :, None, None], products.shape).ravel(), products.ravel())
        yield Event(step, -1, waiting(each, layer, longest), np.zeros(0, np.int64), np.zeros(0, np.int64))


ACCELERATOR = Composed(
    name="eyeriss", title="Eyeriss [2017]", operators=frozenset({Operator.CONV}),
    extended=frozenset({Operator.FC}) | RECURRENT,
    paper="Chen et al., Eyeriss: An Energy-Efficient Reconfigurable Accelerator for Deep Convolutional Neural "
          "Networks, JSSC 2017",
    weights=Dense(), activations=Dense(), skips_weights=False, skips_activations=False, gates=True, balance="-",
    reuse="row",
    parameters={
        "units": Parameter(168, "processing elements, 12 x 14"),
        "columns": Parameter(14, "elements in a row", divides="units"),
        "multipliers": Parameter(1, "of an element", 1, 1),
        "row_weights": Parameter(224, "weights that an element holds"),
        "row_activations": Parameter(12, "activations that an element holds"),
        "partial_sums": Parameter(24, "partial sums that an element holds"), **numbers(200)},
    buffers={"weights": Buffer(448, 16), "activations": Buffer(24, 16), "partial sums": Buffer(48, 16)},
    fibres=fibres, work=work, events=events, timing=barrier, area_mm2=12.25, power_mw=278.0, technology="65 nm",
    assumptions=("a kernel of more rows than the grid has shares elements among its rows",
                 "replicas of a set take other filters before other channels; groups run one after the other",
                 "the buses bring an activation and four weights a cycle, for the next pass during this one",
                 "activations are run-length coded in DRAM only, which is left out: dense, as in the survey"),
    sources=("sections III to V: 12 x 14 elements, scratchpads of 224, 12 and 24 words, 200 MHz, 65 nm, 278 mW",))
