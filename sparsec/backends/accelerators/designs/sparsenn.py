"""SparseNN (Zhu et al. 2017): dense rows behind the non-zero activations, without its prediction of outputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsec.backends.accelerators.composed import Composed, filters_and_vectors
from sparsec.backends.accelerators.description import Parameter, numbers
from sparsec.backends.accelerators.energy import Buffer
from sparsec.backends.accelerators.layer import RECURRENT, Operands, Operator
from sparsec.backends.accelerators.mapping import Event, Work, shares
from sparsec.backends.accelerators.representation import Dense
from sparsec.backends.accelerators.timing import Configuration, barrier


def work(layer: Operands, config: Configuration) -> Work:
    """A step is a vector: a unit multiplies every activation that is not zero by its outputs' weights."""
    computed, some = np.count_nonzero(layer.filters, axis=1) > 0, np.count_nonzero(layer.vectors, axis=1)
    rows = shares(computed.astype(np.int64)[None], config["units"]).sum(axis=0)
    count, every = layer.useful, int(some.sum()) * int(rows.sum())
    return Work(some[:, None] * rows, count, every - count, accesses={
        "weights": every, "activations": int(some.sum()) * config["units"], "accumulators": 2 * every})


def events(layer: Operands, config: Configuration) -> Iterator[Event]:
    """Vector by vector, output by output, over the activations that are not zero."""
    vectors = layer.shape[1]
    for vector, x in enumerate(layer.vectors):
        at = np.flatnonzero(x)
        for output in np.flatnonzero(np.count_nonzero(layer.filters, axis=1)).tolist():
            weights = layer.filters[output]
            yield Event(vector, output % config["units"], len(at), np.full(len(at), output * vectors + vector),
                        weights[at].astype(np.int64) * x[at])


ACCELERATOR = Composed(
    name="sparsenn", title="SparseNN [2017]", operators=frozenset({Operator.FC}), extended=RECURRENT,
    paper="Zhu et al., SparseNN: An Energy-Efficient Neural Network Accelerator Exploiting Input and Output Sparsity, "
          "2017",
    weights=Dense(), activations=Dense(), skips_weights=False, skips_activations=True, balance="N/A", reuse="N/A",
    parameters={
        "units": Parameter(64, "processing elements"), "multipliers": Parameter(1, "of an element", 1, 1),
        **numbers(500)},
    buffers={"weights": Buffer(128 * 1024, 16), "activations": Buffer(4096, 16), "accumulators": Buffer(256, 16)},
    fibres=filters_and_vectors, work=work, events=events, timing=barrier, technology="65 nm",
    assumptions=(("the prediction of zero outputs is left out, since its factors U and V are trained with the network; "
                  "an output without any weight is not computed"),
                 "outputs are dealt to elements in turns; every element sees every activation that is not zero"),
    sources=("the survey's section 7.2.1; the paper's text was not at hand",))
