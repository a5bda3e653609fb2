"""The recurrences agree with numpy for every cell, direction, instruction set and number of threads."""

import numpy as np
import pytest

from sparsec.graph.operators.recurrence import EARLY, Activation
from sparsec.kernels.cpu.tensors import recurrent
from sparsec.kernels.tensors import RecurrentParams
from tests.support.targets import TARGETS, aligned, compiled, isa

SIGMOID, TANH, RELU = map(Activation, ("sigmoid", "tanh", "relu"))
LAYERS = [
    RecurrentParams("RNN", 3, 2, 5, (TANH,)), RecurrentParams("RNN", 4, 1, 70, (RELU,), backwards=True),
    RecurrentParams(EARLY, 3, 2, 33, (SIGMOID, TANH)),
    RecurrentParams("GRU", 3, 2, 16, (Activation("hard_sigmoid", 0.2, 0.5), TANH), lengths=True),
    RecurrentParams("LSTM", 3, 2, 20, (SIGMOID, TANH, TANH), lengths=True, backwards=True, clip=0.25),
    RecurrentParams("LSTM", 2, 3, 64, (SIGMOID, TANH, Activation("leaky_relu", 0.1)), peepholes=True),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("params", LAYERS)
def test_recurrence(params, target, threads):
    rng, p = np.random.default_rng(0), params
    x, r, bias, reset, peepholes, h, c = (rng.standard_normal(shape, "f4") * np.float32(0.2) for shape in (
        (p.steps, p.batch, p.gates), (p.hidden, p.gates), (p.gates,), (p.hidden,), (3 * p.hidden,),
        (p.batch, p.hidden), (p.batch, p.hidden)))
    lengths = np.arange(p.steps, p.steps - p.batch, -1) if p.lengths else np.full(p.batch, p.steps)
    expected = recurrent.reference(x, r, bias, reset, peepholes, h, c, lengths, p)
    padding = p.row(isa(target).lanes) - p.gates
    padded = [np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, padding)]) for array in (x, r, bias)]
    arguments = [*padded, reset, peepholes, h, c, lengths.astype("i4")]
    outputs = [aligned(np.zeros(array.size, "f4")) for array in expected]
    run = compiled(recurrent.build(p, isa(target, threads)), target)
    run.module["main"](*(aligned(a.ravel()) for a in arguments), *outputs)
    for got, array in zip(outputs[:3 if p.cell == "LSTM" else 2], expected, strict=False):
        np.testing.assert_allclose(got, array.ravel(), rtol=1e-4, atol=1e-5)
