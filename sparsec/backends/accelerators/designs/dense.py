"""The dense arrays that papers compare with: every product takes its cycle, zeros too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from sparsec.backends.accelerators.composed import Composed, filters_and_pixels
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, count_places, shares
from sparsec.backends.accelerators.representation import Dense
from sparsec.backends.accelerators.timing import Configuration, barrier


def tiles(layer: Operands, config: Configuration) -> tuple[int, int, int]:
    """Rounds of filters and of positions, and the units that share a position."""
    filters = config["filters"]
    positions = config["units"] // filters
    outputs, places = layer.shape
    return -(-outputs // filters), -(-places // positions), filters


def cycles(layer: Operands, config: Configuration) -> int:
    """Cycles of an output: every tap of the kernel, so many channels at a time."""
    _, channels, *taps = layer.weight.shape
    return int(np.prod(taps) * -(-channels // config["multipliers"]))


def work(layer: Operands, config: Configuration) -> Work:
    """A unit computes an output at a position, so many products a cycle; `filters` units share the position."""
    (outputs, places), (rounds, turns, filters) = layer.shape, tiles(layer, config)
    each = cycles(layer, config)
    busy = shares(np.full((1, outputs), each, np.int64), filters)
    open_ = count_places(places, turns, config["units"] // filters)
    table = (busy[:, None, None, :] * open_[None, :, :, None]).reshape(2 * rounds, -1)
    count, every = layer.useful, outputs * places * layer.filters.shape[1]
    return Work(table, count, every - count, times=np.tile([turns - 1, 1], rounds), accesses={
        "operands": every // filters + every // (config["units"] // filters), "accumulators": outputs * places})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Filter by filter and position by position."""
    (outputs, places), (_, turns, filters) = layer.shape, tiles(layer, config)
    across = config["units"] // filters
    for output in range(outputs):
        for position in range(places):
            yield Event(output // filters * turns + position // across, position % across * filters + output % filters,
                        cycles(layer, config), np.full(layer.filters.shape[1], output * places + position),
                        layer.filters[output].astype(np.int64) * layer.vectors[position])


def array(units: int, multipliers: int, filters: int, clock_mhz: int, bits: int) -> dict[str, Parameter]:
    """The parameters of an array."""
    return {"units": Parameter(units, "units"), "multipliers": Parameter(multipliers, "products of a unit and cycle"),
            "filters": Parameter(filters, "units that share a position, a filter each", divides="units"),
            **numbers(clock_mhz, bits, bits)}


BUFFERS = {"operands": Buffer(32 * 1024, 16), "accumulators": Buffer(2048, 32)}
_dense = partial(
    Composed, surveyed=False, operators=frozenset({Operator.FC, Operator.CONV}), extended=RECURRENT,
    weights=Dense(), activations=Dense(), skips_weights=False, skips_activations=False, balance="-",
    fibres=filters_and_pixels, work=work, events=events, timing=barrier)

DESIGNS = (
    _dense(name="dense", title="Dense array", reuse="output", buffers=BUFFERS, parameters=array(1024, 1, 32, 800, 8),
           paper="Gondimalla et al., MICRO 2019: the dense architecture that SparTen is compared with",
           assumptions=("as many multipliers as SparTen in the same clusters, each with an output of its own",),
           sources=("section 4",)),
    _dense(name="dadiannao", title="DaDianNao [2014]", reuse="output", buffers=BUFFERS | {
               "operands": Buffer(2 << 20, 16)}, parameters=array(256, 16, 256, 606, 16),
           paper="Chen et al., DaDianNao: A Machine-Learning Supercomputer, MICRO 2014",
           assumptions=("16 tiles of 16 filters, 16 products of each a cycle; a cycle takes channels of one tap",),
           sources=("as Cnvlutin describes it (Albericio et al., ISCA 2016, section 3)",)),
    _dense(name="diannao", title="DianNao [2014]", reuse="output", buffers=BUFFERS,
           parameters=array(16, 16, 16, 980, 16),
           paper="Chen et al., DianNao: A Small-Footprint High-Throughput Accelerator, ASPLOS 2014",
           assumptions=("16 outputs, 16 products of each a cycle; a cycle takes channels of one tap",),
           sources=("section 5",), area_mm2=3.02, power_mw=485.0, technology="65 nm"),
)
