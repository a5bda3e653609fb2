"""ZeNA (Kim et al., IEEE Design & Test 2018): bitmaps of both operands, and kernels that idle groups fetch."""

from __future__ import annotations

from collections.abc import Iterator

from sparsec.backends.accelerators.composed import Composed, filters_and_pixels
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, inner_products, matches
from sparsec.backends.accelerators.representation import Bitmap
from sparsec.backends.accelerators.timing import Configuration, dynamic

STORED = Bitmap()


def work(layer: Operands, _config: Configuration) -> Work:
    """An item is an output row of a filter: as many cycles as places where both operands are not zero."""
    joined = matches(layer.filters != 0, layer.vectors != 0)
    items = joined.reshape(len(joined), -1, layer.windows.shape[2]).sum(axis=2)
    count = int(items.sum())
    return Work(items.reshape(1, -1), count, accesses={
        "weights": count, "activations": count, "partial sums": 2 * count})


def events(layer: Operands, _config: Configuration) -> Iterator[Event]:
    """Filter by filter and row by row, from decoded bitmaps."""
    w, x = (STORED.decode(STORED.encode(each, 16)) for each in (layer.filters, layer.vectors))
    columns = layer.windows.shape[2]
    for each in inner_products(layer, w, x):
        item = (each.output * layer.shape[1] + each.position) // columns
        yield Event(0, item, len(each.products), each.outputs, each.products)


ACCELERATOR = Composed(
    name="zena", title="Zena [2018]", operators=frozenset({Operator.CONV}),
    paper="Kim, Ahn and Yoo, ZeNA: Zero-Aware Neural Network Accelerator, IEEE Design & Test 2018",
    weights=STORED, activations=STORED, skips_weights=True, skips_activations=True, balance="dynamic group alloc.",
    reuse="N/A",
    parameters={
        "units": Parameter(168, "processing elements"), "multipliers": Parameter(1, "of an element", 1, 1),
        **numbers(200)},
    buffers={"weights": Buffer(512, 16), "activations": Buffer(512, 16), "partial sums": Buffer(256, 32)},
    fibres=filters_and_pixels, work=work, events=events, timing=dynamic, technology="65 nm",
    assumptions=("an element takes an output row of a filter at a time, whichever is idle first",
                 "finding the next pair of non-zeros in the bitmaps is hidden behind the product",
                 "as many elements as Eyeriss, at its clock; the buses are never waited for"),
    sources=("the abstract and the survey's sections 7.2.1 and 7.2.3; the paper's text was not at hand",))
