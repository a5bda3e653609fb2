"""Eyeriss v2 (Chen et al., JETCAS 2019): rows of compressed activations meet columns of compressed weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.composed import Composed, Fibres
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, ceil_div, side_by_side
from sparsec.backends.accelerators.representation import RunLength, fill
from sparsec.backends.accelerators.timing import Configuration, dealt

STORED = RunLength(run_bits=4, count_bits=7)


def block(layer: Operands, config: Configuration) -> tuple[int, int]:
    """Outputs and channels whose weights of one kernel row a processing element (PE) holds, zeros left out.

    As many channels as its activations allow and whose blocks all fit; fewer outputs where one channel does not.
    """
    outputs = min(len(layer.weight), config["partial_sums"])
    most = int(np.clip(config["activations"] // layer.weight.shape[3], 1, layer.weight.shape[1]))
    sizes = [(outputs, channels) for channels in range(most, 0, -1)]
    sizes += [(fewer, 1) for fewer in range(outputs - 1, 0, -1)]
    mask = layer.weight != 0
    for size in sizes:
        if _pairs(mask, size).max(initial=0) * 2 <= config["weights"]:
            return size
    return 1, 1


def _pairs(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.int64]:
    """(output blocks, channel blocks, kernel rows) words of two weights in every block; a column begins a new one."""
    (outputs, channels), (_, _, high, wide) = size, mask.shape
    filled = fill(mask, -len(mask) % outputs, -mask.shape[1] % channels)
    columns = filled.reshape(-1, outputs, filled.shape[1] // channels, channels, high, wide).sum(axis=1)
    return np.asarray(ceil_div(columns, 2).sum(axis=(2, 4)), np.int64)


def blocks(layer: Operands, config: Configuration) -> NDArray[np.int32]:
    """(output blocks, channel blocks, kernel rows, columns: channel by kernel column, outputs of a block)."""
    outputs, channels = block(layer, config)
    k, c, high, wide = layer.weight.shape
    w = fill(layer.weight, -k % outputs, -c % channels)
    w = w.reshape(-1, outputs, w.shape[1] // channels, channels, high, wide).transpose(0, 2, 4, 3, 5, 1)
    return w.reshape(*w.shape[:3], channels * wide, outputs)


def delivery(words: NDArray[np.int64], rows: int, config: Configuration) -> NDArray[np.int64]:
    """(blocks x rows,) cycles until the weights of an item have come.

    The PEs of a row share a port that brings a word of `words` (blocks,) a cycle: once for neighbours with one block.
    """
    group = np.arange(len(words) * rows) // config["row"]
    of = np.repeat(np.arange(len(words)), rows)
    first = np.ones(len(of), np.bool_)
    first[1:] = (of[1:] != of[:-1]) | (group[1:] != group[:-1])
    return np.asarray(np.bincount(group, np.where(first, words[of], 0)), np.int64)[group]


def rows(layer: Operands, config: Configuration) -> NDArray[np.int32]:
    """(channel blocks, kernel rows, columns, images x output rows, output columns) the activations that meet them."""
    _, channels = block(layer, config)
    seen = layer.windows  # (images, out rows, out columns, kernel rows, kernel columns, channels)
    seen = fill(seen, 0, 0, 0, 0, 0, -seen.shape[5] % channels)
    images, high, wide, r, s, _ = seen.shape
    seen = seen.reshape(images * high, wide, r, s, -1, channels).transpose(4, 2, 5, 3, 0, 1)
    return seen.reshape(seen.shape[0], r, channels * s, images * high, wide)


def fibres(layer: Operands, config: Configuration) -> Fibres:
    """Columns of a PE's weights, and rows of activations."""
    w = blocks(layer, config)
    return w.reshape(-1, w.shape[4]), layer.x.reshape(-1, layer.x.shape[3])


def is_depthwise(layer: Operands) -> bool:
    """Whether a channel meets one output only: then no cycle can be skipped (section V-A)."""
    return layer.weight.shape[:2] == (1, 1)


def work(layer: Operands, config: Configuration) -> Work:
    """An item is a block of outputs and channels, a kernel row and an output row: for every activation its columns."""
    w, x = blocks(layer, config), rows(layer, config)
    entries = STORED.count(w.reshape(-1, w.shape[4]) != 0).reshape(w.shape[:4])
    taken = np.maximum(ceil_div(entries, config["multipliers"]), 1)  # an empty column takes a cycle to look at
    some = np.count_nonzero(x, axis=4)
    looked_at = np.full_like(some, x.shape[4]) if is_depthwise(layer) else some
    table = np.einsum("mcrk,crki->mcri", taken, looked_at, optimize=True).ravel()
    products, count = int(np.einsum("mcrk,crki->", entries, looked_at, optimize=True)), layer.useful
    zeros = int(np.einsum("mcrk,crki->", entries, looked_at - some, optimize=True))
    words = ceil_div(entries, 2).sum(axis=3).ravel()
    return Work((table + delivery(words, x.shape[3], config))[None], count, zeros, products - zeros - count, accesses={
        "weights": int(table.sum()), "activations": int(looked_at.sum()) * len(w), "partial sums": 2 * products})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Item by item, activation by activation, from decoded columns."""
    w, x = blocks(layer, config), rows(layer, config)
    entries = STORED.decode(STORED.encode(w.reshape(-1, w.shape[4]), 16))
    words = ceil_div(np.diff(entries.starts).reshape(w.shape[:4]), 2).sum(axis=3).ravel()
    waits, positions = delivery(words, x.shape[3], config), len(layer.vectors)
    for item, (m, c, r, row) in enumerate(np.ndindex(*w.shape[:3], x.shape[3])):
        yield Event(0, item, int(waits[item]), np.zeros(0, np.int64), np.zeros(0, np.int64))
        for column, place in np.argwhere((x[c, r, :, row] != 0) | is_depthwise(layer)):
            at, weights = entries.fibre(int(np.ravel_multi_index((m, c, r, column), w.shape[:4])))
            output = m * w.shape[4] + at
            inside = output < len(layer.weight)
            yield Event(0, item, max(1, -(-len(at) // config["multipliers"])),
                        np.where(inside, output * positions + row * x.shape[4] + place, -1),
                        weights * x[c, r, column, row, place], int(np.count_nonzero(weights == 0)))


ACCELERATOR = Composed(
    name="eyeriss-v2", title="Eyeriss v2 [2019]", operators=frozenset({Operator.FC, Operator.CONV}),
    extended=RECURRENT,
    paper="Chen et al., Eyeriss v2: A Flexible Accelerator for Emerging Deep Neural Networks on Mobile Devices, "
          "JETCAS 2019",
    weights=STORED, activations=STORED, skips_weights=True, skips_activations=True,
    balance="activation queuing", reuse="row",
    parameters={
        "units": Parameter(192, "PEs: 16 clusters of 3 x 4"), "multipliers": Parameter(2, "of a PE"),
        "row": Parameter(4, "PEs that share a port of weights", divides="units"),
        "partial_sums": Parameter(32, "outputs whose sums a PE holds"),
        "weights": Parameter(192, "weights of a kernel row that a PE holds, zeros left out"),
        "activations": Parameter(16, "activations of a window that a PE holds"),
        **numbers(200, 8, 8)},
    buffers={"weights": Buffer(288, 24), "activations": Buffer(24, 12), "partial sums": Buffer(80, 20)},
    fibres=fibres, work=work, events=events, timing=dealt, together=side_by_side, technology="65 nm",
    assumptions=("items are dealt to PEs in passes, which end together, in the order of outputs, channels and rows",
                 "a PE's weights come before it begins: its scratchpad holds no second block",
                 "the mesh brings any item to any PE, and activations and partial sums at no time",
                 "groups of a convolution share passes", "an activation spends a cycle on a column without weights"),
    sources=(("sections II to V: 8 x 2 clusters of 3 x 4 PEs with 2 multipliers each, 8-bit values, 20-bit sums, "
              "scratchpads of 96 x 24, 16 x 12 and 32 x 20 bits, ports of 24 bits, 65 nm; tables IV and VI: 200 MHz"),),
    checked=True)
