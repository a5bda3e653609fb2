"""Ampere's sparse tensor cores (Nvidia 2020): matrices with two of four weights kept take half the cycles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.composed import Composed, filters_and_pixels
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work
from sparsec.backends.accelerators.representation import Dense, Entries, Scheme, Stored, Words, fill
from sparsec.backends.accelerators.timing import Configuration, dealt

ROWS, COLUMNS, DEPTH = 16, 8, 16
"""Outputs, positions and inputs of an instruction (mma.m16n8k16); twice the inputs where two of four are kept."""


@dataclass(frozen=True)
class TwoOfFour(Scheme):
    """Two values of each four and their 2-bit places where no four hold more; else every value."""

    family: ClassVar[str] = "2:4"

    def encode(self, fibres: NDArray[np.int32], value_bits: int) -> Stored:
        """Values and places, or values alone."""
        if not is_2of4(fibres != 0):
            return Dense().encode(fibres, value_bits)
        fours = fill(fibres, 0, -fibres.shape[1] % 4).reshape(-1, 4)
        places = np.sort(np.argsort(fours == 0, axis=1, kind="stable")[:, :2], axis=1)
        values = np.take_along_axis(fours, places, axis=1).astype(np.int64) & ((1 << value_bits) - 1)
        return Stored((fibres.shape[0], fibres.shape[1]), value_bits, {
            "values": Words(values.ravel(), value_bits), "places": Words(places.ravel(), 2)})

    def decode(self, stored: Stored) -> Entries:
        """Both values of each four, zeros too."""
        if "places" not in stored.memories:
            return Dense().decode(stored)
        values, places = stored.signed("values"), stored.memories["places"].values
        per_fibre = -(-stored.shape[1] // 4) * 2
        position = np.arange(values.size) % per_fibre // 2 * 4 + places
        within = position < stored.shape[1]
        starts = np.concatenate(([0], np.cumsum(within.reshape(stored.shape[0], -1).sum(axis=1))))
        return Entries(position[within], values[within], starts)

    def count(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Values that a fibre keeps."""
        if not is_2of4(mask):
            return Dense().count(mask)
        whole, rest = divmod(mask.shape[1], 4)
        padded = fill(mask, 0, -rest % 4)[:, 4 * whole :]
        within = np.argsort(~padded, axis=1, kind="stable")[:, :2] < rest if rest else np.zeros((len(mask), 0))
        return np.asarray(2 * whole + within.sum(axis=1), np.int64)

    def bits(self, mask: NDArray[np.bool_], value_bits: int) -> int:
        """Values and places."""
        if not is_2of4(mask):
            return Dense().bits(mask, value_bits)
        return int(len(mask) * -(-mask.shape[1] // 4) * 2 * (value_bits + 2))


def is_2of4(mask: NDArray[np.bool_]) -> bool:
    """Whether no four of a row hold more than two non-zeros."""
    padded = fill(mask, 0, -mask.shape[1] % 4)
    return bool(padded.reshape(-1, 4).sum(axis=1).max(initial=0) <= 2)


STORED = TwoOfFour()


def tile_cycles(layer: Operands, config: Configuration) -> int:
    """Cycles of a tile of outputs and positions on a core."""
    depth = DEPTH * (2 if is_2of4(layer.filters != 0) else 1)
    return int(-(-layer.filters.shape[1] // depth) * ROWS * COLUMNS * DEPTH // config["multipliers"])


def work(layer: Operands, config: Configuration) -> Work:
    """An item is a tile of 16 outputs at 8 positions."""
    outputs, positions = layer.shape
    tiles = -(-outputs // ROWS) * -(-positions // COLUMNS)
    count, kept = layer.useful, int(STORED.count(layer.filters != 0).sum())
    cycles = np.full((1, tiles), tile_cycles(layer, config), np.int64)
    return Work(cycles, count, kept * positions - count, accesses={
        "registers": int(cycles.sum()) * 2, "shared memory": tiles * (ROWS + COLUMNS) * layer.filters.shape[1]})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Tile by tile, from the stored values."""
    entries, (outputs, positions) = STORED.decode(STORED.encode(layer.filters, 16)), layer.shape
    across = -(-positions // COLUMNS)
    for item in range(-(-outputs // ROWS) * across):
        top, left = item // across * ROWS, item % across * COLUMNS
        places, products = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for output in range(top, min(outputs, top + ROWS)):
            at, weights = entries.fibre(output)
            for position in range(left, min(positions, left + COLUMNS)):
                places.append(np.full(len(at), output * positions + position))
                products.append(weights * layer.vectors[position, at])
        yield Event(0, item, tile_cycles(layer, config), np.concatenate(places), np.concatenate(products))


ACCELERATOR = Composed(
    name="ampere", title="Ampere's tensor cores [2020]", surveyed=False,
    paper="Nvidia, Nvidia A100 Tensor Core GPU Architecture, white paper, 2020",
    operators=frozenset({Operator.FC, Operator.CONV}), extended=RECURRENT, weights=STORED, activations=Dense(),
    skips_weights=True, skips_activations=False, balance="-", reuse="output",
    parameters={
        "units": Parameter(432, "tensor cores: 4 in each of 108 multiprocessors"),
        "multipliers": Parameter(256, "products of a core and cycle", 1, ROWS * COLUMNS * DEPTH),
        **numbers(1410)},
    buffers={"registers": Buffer(64 * 1024, 1024), "shared memory": Buffer(164 * 1024, 16)},
    fibres=filters_and_pixels, work=work, events=events, timing=dealt, area_mm2=826.0,
    power_mw=400000.0, technology="7 nm",
    assumptions=("a matrix is either two of four throughout, channels innermost, or runs dense; none is projected",
                 "tiles of 16 x 8 are dealt to cores in passes, and never wait for memory",
                 "float16 products as 16-bit integers; area and power are the whole GPU's"),
    sources=("108 multiprocessors of 4 cores, 256 dense products a cycle each, twice as many 2:4 ones, 1,410 MHz",))
