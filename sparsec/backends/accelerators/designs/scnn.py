"""SCNN (Parashar et al., ISCA 2017): Cartesian products of compressed weights and activations, tile by tile; its twin.

The input plane is cut into a tile for each processing element (PE). For every group of outputs whose partial sums fit
the accumulators, and every input channel, a PE multiplies all its non-zero activations by all non-zero weights, 4 x 4 a
cycle, and scatters the products to the accumulators. PEs wait for each other at the end of a group of outputs, when
they exchange halos (PT-IS-CP-sparse, section 3). Strides become channels, one a phase.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.composed import Composed, Fibres
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, ceil_div
from sparsec.backends.accelerators.representation import Dense, RunLength, fill
from sparsec.backends.accelerators.timing import Configuration, barrier

STORED = RunLength(run_bits=4)


def grid(sizes: tuple[int, int], config: Configuration) -> tuple[int, int]:
    """Rows and columns of a plane that a PE has."""
    return -(-sizes[0] // (config["units"] // config["columns"])), -(-sizes[1] // config["columns"])


def group(layer: Operands, config: Configuration) -> int:
    """Outputs whose partial sums, halos included, fit the accumulators of a PE together."""
    (rows, columns), (high, wide) = grid(layer.x.shape[2:], config), layer.weight.shape[2:]
    return int(np.clip(config["accumulators"] // ((rows + high - 1) * (columns + wide - 1)), 1, len(layer.weight)))


def tiles(plane: NDArray[np.int32], config: Configuration) -> NDArray[np.int32]:
    """(images x PEs, channels, places) of (images, channels, height, width); what lies outside the plane is -1 or 0."""
    images, channels, high, wide = plane.shape
    rows, columns = grid((high, wide), config)
    down, across = config["units"] // config["columns"], config["columns"]
    room = np.zeros((images, channels, down * rows, across * columns), plane.dtype)
    room[:, :, :high, :wide] = plane
    parts = room.reshape(images, channels, down, rows, across, columns).transpose(0, 2, 4, 1, 3, 5)
    return parts.reshape(images * down * across, channels, rows * columns)


def weights(layer: Operands, config: Configuration) -> NDArray[np.int32]:
    """(groups, channels, outputs of a group x height x width)."""
    outputs, channels, high, wide = layer.weight.shape
    size = group(layer, config)
    filled = fill(layer.weight, -outputs % size)
    return filled.reshape(-1, size, channels, high * wide).swapaxes(1, 2).reshape(-1, channels, size * high * wide)


def fibres(layer: Operands, config: Configuration) -> Fibres:
    """Of weights those of a group and channel, of activations those of a tile and channel."""
    plain = layer.unstrided()
    w, x = weights(plain, config), tiles(plain.x, config)
    return w.reshape(-1, w.shape[2]), x.reshape(-1, x.shape[2])


def work(layer: Operands, config: Configuration) -> Work:
    """A step is a group of outputs of an image: over the channels, the vectors of 4 of both operands, all with all."""
    plain = layer.unstrided()
    w, x = weights(plain, config), tiles(plain.x, config)
    of_w, of_x = (STORED.count(each.reshape(-1, each.shape[2]) != 0).reshape(each.shape[:2]) for each in (w, x))
    some_w, some_x = (np.count_nonzero(each, axis=2) for each in (w, x))
    vectors_w, vectors_x = ceil_div(of_w, config["wide"]), ceil_div(of_x, config["multipliers"] // config["wide"])
    images, (count, products) = len(plain.x), (layer.useful, int((some_x @ some_w.T).sum()))
    table = (vectors_x @ vectors_w.T).reshape(images, config["units"], -1).swapaxes(1, 2)
    entries = int((of_x @ of_w.T).sum())
    return Work(table.reshape(-1, config["units"]), count, padding=entries - products, discarded=products - count,
                accesses={"weights": int((vectors_w.sum(axis=0) * (vectors_x > 0).sum(axis=0)).sum()),
                          "activations": int(vectors_x.sum()) * len(w), "accumulators": 2 * products})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """PE by PE: vectors of decoded activations by vectors of decoded weights, scattered to where they belong."""
    plain = layer.unstrided()
    w, x, (high, wide) = weights(plain, config), tiles(plain.x, config), plain.weight.shape[2:]
    index = np.arange(plain.x[0, 0].size, dtype=np.int32).reshape(1, 1, *plain.x.shape[2:])
    place = tiles(index, config)[:, 0]
    left, right = (STORED.decode(STORED.encode(each.reshape(-1, each.shape[2]), 16)) for each in (w, x))
    _, rows, columns = plain.windows.shape[:3]
    for tile, channel, step in np.ndindex(len(x), x.shape[1], len(w)):
        image, unit = divmod(tile, config["units"])
        (at, values), (of, factors) = right.fibre(tile * x.shape[1] + channel), left.fibre(step * x.shape[1] + channel)
        for a in range(0, len(at), config["multipliers"] // config["wide"]):
            y, column = np.divmod(place[unit][at[a : a + config["multipliers"] // config["wide"]]], plain.x.shape[3])
            some = values[a : a + len(y), None]
            for b in range(0, len(of), config["wide"]):
                output, tap = np.divmod(of[b : b + config["wide"]], high * wide)
                down = y[:, None] + plain.pads[0] - tap // wide
                right_ = column[:, None] + plain.pads[1] - tap % wide
                here = (down >= 0) & (down < rows) & (right_ >= 0) & (right_ < columns)
                flat = ((step * group(plain, config) + output) * len(plain.x) + image) * rows * columns
                products = some * factors[b : b + config["wide"]]
                yield Event(image * len(w) + step, unit, 1, np.where(here, flat + down * columns + right_, -1).ravel(),
                            products.ravel(), int(np.count_nonzero(products == 0)))


def dense_work(layer: Operands, config: Configuration) -> Work:
    """The twin: a PE has a tile of the output plane, and takes an output's products 16 a cycle."""
    outputs, taps = layer.filters.shape
    ones = np.ones((1, 1, *layer.windows.shape[1:3]), np.int32)
    places = np.count_nonzero(tiles(ones, config), axis=2).T.astype(np.int64)
    count, every = layer.useful, len(layer.vectors) * outputs * taps
    each = -(-taps // config["multipliers"])
    return Work(places * outputs * each, count, every - count, times=np.array([len(layer.x)]), accesses={
        "weights": len(layer.vectors) * outputs * each, "activations": len(layer.vectors) * each,
        "accumulators": 2 * len(layer.vectors) * outputs * each})


def dense_events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Position by position of a tile."""
    outputs, taps = layer.filters.shape
    _, rows, columns = layer.windows.shape[:3]
    high, wide = grid((rows, columns), config)
    for position, vector in enumerate(layer.vectors):
        image, place = divmod(position, rows * columns)
        unit = place // columns // high * config["columns"] + place % columns // wide
        for output in range(outputs):
            yield Event(image, unit, -(-taps // config["multipliers"]),
                        np.full(taps, output * len(layer.vectors) + position),
                        layer.filters[output].astype(np.int64) * vector)


def dense_fibres(layer: Operands, _config: Configuration) -> Fibres:
    """Filters and planes."""
    return layer.filters, layer.x.reshape(-1, layer.x.shape[3])


PARAMETERS = {
    "units": Parameter(64, "PEs"), "columns": Parameter(8, "PEs in a row of the grid", divides="units"),
    "multipliers": Parameter(16, "of a PE"), **numbers(1000)}
PAPER = "Parashar et al., SCNN: An Accelerator for Compressed-sparse Convolutional Neural Networks, ISCA 2017"

ACCELERATOR = Composed(
    name="scnn", title="SCNN [2017]", paper=PAPER, operators=frozenset({Operator.CONV}),
    weights=STORED, activations=STORED, skips_weights=True, skips_activations=True, balance="N/A", reuse="input act.",
    parameters=PARAMETERS | {"wide": Parameter(4, "weights of a vector", divides="multipliers"),
                             "accumulators": Parameter(1024, "partial sums of a PE: 32 banks of 32")},
    buffers={"weights": Buffer(500, 80), "activations": Buffer(10 * 1024, 80), "accumulators": Buffer(192, 24)},
    fibres=fibres, work=work, events=events, timing=barrier, area_mm2=7.9, technology="16 nm",
    assumptions=(
        ("the queues before the accumulators hide conflicts of their 32 banks, as section 4 argues for twice as many "
        "banks as products"), "the exchange of halos and the compression of outputs are hidden behind the next group",
        "strides, which the paper does not discuss, become channels: only phases that meet are multiplied",
        "planes too large for the accumulators take one output at a time",
        "products that fall outside the plane take their place and are discarded"),
    sources=(("sections 3 and 4, tables 2 to 4: 8 x 8 PEs of 4 x 4 multipliers, 16 bits, 10 KB of activations in and "
             "out and 500 bytes of weights a PE, 24-bit accumulators"),))

TWIN = Composed(
    name="dcnn", title="DCNN, SCNN's dense twin", paper=PAPER, surveyed=False, operators=frozenset({Operator.CONV}),
    weights=Dense(), activations=Dense(), skips_weights=False, skips_activations=False, balance="-", reuse="input act.",
    parameters=PARAMETERS, buffers={"weights": Buffer(500, 256), "activations": Buffer(10 * 1024, 256),
                                    "accumulators": Buffer(192, 24)},
    fibres=dense_fibres, work=dense_work, events=dense_events, timing=barrier, area_mm2=5.9, technology="16 nm",
    assumptions=("a PE's 16 multipliers make one dot product along the window, channels innermost",
                 "tiles are of the output plane; an activation stays for all outputs, weights are read for each"),
    sources=("section 5: PT-IS-DP-dense on the same 1,024 multipliers",))
