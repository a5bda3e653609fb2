"""Every activation agrees with float64 numpy on a dense grid and at its ends, on every instruction set."""

import re

import numpy as np
import pytest
from scipy.special import erf, expit
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit import activations
from sparsec.kernels.emit.activations import ACTIVATIONS
from sparsec.kernels.emit.tir import kernel, load, splat, store
from tests.support.targets import TARGETS, compiled, isa

ALPHA, BETA = 0.2, 0.6
ODD = np.array([np.inf, -np.inf, 3e38, -3e38, 1e10, -1e10, 0.0, -0.0, 1e-38, -1e-42,
                np.finfo(np.float32).max, np.finfo(np.float32).min], np.float32)
GRID = np.concatenate([
    np.linspace(-12, 12, 40_001), np.linspace(-130, 130, 9_989), np.geomspace(1e-8, 1e4, 1_000), ODD,
]).astype(np.float32)
GRID = np.resize(GRID, -(-GRID.size // 16) * 16)


def sigmoid_times(x, factor):
    return x * np.where(factor < -104, 0, expit(factor))  # as in float32


def gelu(x):
    return x * np.where(x < -14, 0, 0.5 * (1 + erf(x / np.sqrt(2))))


EXACT = {
    "none": lambda x: x,
    "relu": lambda x: np.where(x < 0, 0, x),  # -0 stays, as in onnxruntime
    "clip": lambda x: np.clip(x, ALPHA, BETA),
    "leaky_relu": lambda x: np.where(x < 0, ALPHA * x, x),
    "hard_sigmoid": lambda x: np.clip(ALPHA * x + BETA, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "sigmoid": expit,
    "silu": lambda x: sigmoid_times(x, x),
    "tanh": np.tanh,
    "gelu_erf": gelu,
    "gelu_tanh": lambda x: sigmoid_times(x, np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)),
    "gelu_narrow": gelu,
    "erf": erf,
    "exp": np.exp,
    "exp_normal": lambda x: np.exp(np.clip(x, -87, 87)),
    "exp_below_one": lambda x: np.exp(-np.abs(x)),
}
RELATIVE = {"exp", "tanh"}  # precise relative to the output even where it is tiny
FUNCTIONS = ACTIVATIONS | {
    name: lambda x, lanes, alpha, beta, name=name: getattr(activations, name)(x, lanes)
    for name in ("erf", "exp", "exp_normal")
} | {"exp_below_one": lambda x, lanes, alpha, beta: activations.exp_below_one(
    T.min(x, splat(0.0, lanes) - x), lanes)}


def elementwise(function, lanes, size):
    def body(b):
        with T.serial(0, size // lanes) as i:
            store(b["y"], i * lanes, function(load(b["x"], i * lanes, lanes), lanes, ALPHA, BETA))

    return kernel({"x": (size, "float32"), "y": (size, "float32")}, body)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_matches_float64(name, target):
    run = compiled(elementwise(FUNCTIONS[name], isa(target).lanes, GRID.size), target)
    result = run(GRID, out=GRID.size)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = EXACT[name](GRID.astype(np.float64))
        exact = np.where(np.abs(exact) > np.finfo(np.float32).max, np.sign(exact) * np.inf, exact)
    error = 3e-4 if name == "gelu_narrow" else 1e-6
    np.testing.assert_allclose(result, exact, rtol=error, atol=1e-44 if name in RELATIVE else error)
    assert (np.signbit(result) == np.signbit(exact))[(GRID == 0) & (exact == 0)].all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_propagates_and_nothing_calls_libm(name, target):
    lanes = isa(target).lanes
    run = compiled(elementwise(FUNCTIONS[name], lanes, lanes), target)
    assert np.isnan(run(np.full(lanes, np.nan, np.float32), out=lanes)).all()
    assert not re.findall(r"\b(?:exp2?|tanh|erf|rint|nearbyint|floor|trunc)f\b", run.module.mod.inspect_source("asm"))
