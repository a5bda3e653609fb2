"""MASR (Gupta et al., PACT 2019): bitmasks of both operands of recurrent layers, outputs dealt to idle lanes."""

from __future__ import annotations

from collections.abc import Iterator

from sparsec.backends.accelerators.composed import Composed, filters_and_vectors
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, inner_products, matches
from sparsec.backends.accelerators.representation import Bitmap
from sparsec.backends.accelerators.timing import Configuration, dynamic

STORED = Bitmap()


def work(layer: Operands, _config: Configuration) -> Work:
    """A step is a vector, an item an output: as many cycles as places where both operands are not zero."""
    items = matches(layer.filters != 0, layer.vectors != 0).T
    count = int(items.sum())
    return Work(items, count, accesses={"weights": count, "activations": count, "outputs": items.size})


def events(layer: Operands, _config: Configuration) -> Iterator[Event]:
    """Output by output, from decoded bitmasks."""
    w, x = (STORED.decode(STORED.encode(each, 16)) for each in (layer.filters, layer.vectors))
    for each in inner_products(layer, w, x):
        yield Event(each.position, each.output, len(each.products), each.outputs, each.products)


ACCELERATOR = Composed(
    name="masr", title="MASR [2019]", operators=RECURRENT, extended=frozenset({Operator.FC}),
    paper="Gupta et al., MASR: A Modular Accelerator for Sparse RNNs, PACT 2019",
    weights=STORED, activations=STORED, skips_weights=True, skips_activations=True, balance="dyn. act. assignment",
    reuse="N/A",
    parameters={
        "units": Parameter(1024, "lanes, a multiplier each"), "multipliers": Parameter(1, "of a lane", 1, 1),
        **numbers(1000)},
    buffers={"weights": Buffer(32 * 1024, 16), "activations": Buffer(4096, 16), "outputs": Buffer(4096, 16)},
    fibres=filters_and_vectors, work=work, events=events, timing=dynamic, technology="16 nm",
    assumptions=("an output goes to whichever lane is idle first; lanes meet at the end of a step",
                 "reading masks is hidden behind the products", "gates are element-wise and hidden behind products",
                 "1,024 lanes at 1 GHz: the paper's modular design has several sizes"),
    sources=("the survey's sections 7.2.1 and 7.2.3; the paper's text was not at hand",))
