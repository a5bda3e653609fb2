"""Inputs that steer positions may hold anything: the result is some result or an error, never a crash."""

import contextlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from sparsec.backends.cpu.build import build
from sparsec.backends.cpu.lower import lower
from sparsec.target import resolve
from tests.support.vm import model_of, run

GRAPHS = {
    "slice": "(float[5,6] x, int64[2] s, int64[2] e, int64[2] a, int64[2] t) => (float[3,4] y) "
             "{ y = Slice(x, s, e, a, t) }",
    "pad": "(float[5,6] x, int64[4] p) => (float[8,9] y) { y = Pad(x, p) }",
    "pad_reflect": '(float[5,6] x, int64[4] p) => (float[8,9] y) { y = Pad<mode="reflect">(x, p) }',
    "pad_wrap": '(float[5,6] x, int64[4] p) => (float[8,9] y) { y = Pad<mode="wrap">(x, p) }',
    "resize": '(float[1,1,4,4] x, float[0] r, float[4] s) => (float[1,1,7,9] y) { y = Resize<mode="cubic">(x, r, s) }',
    "reduce": "(float[3,3] x, int64[1] a) => (float[3] y) { y = ReduceSum<keepdims=0>(x, a) }",
    "col2im": "(float[1,4,9] x, int64[2] i, int64[2] b) => (float[1,1,4,4] y) { y = Col2Im(x, i, b) }",
    "stft": "(float[1,32,1] x, int64 s, float[8] w) => (float[1,4,5,2] y) { y = STFT(x, s, w) }",
    "one_hot": "(int64[4] i, int64 d, float[2] v) => (float[4,3] y) { y = OneHot(i, d, v) }",
    "cumsum": "(float[3,4] x, int64 a) => (float[3,4] y) { y = CumSum(x, a) }",
    "trilu": "(float[3,4] x, int64 k) => (float[3,4] y) { y = Trilu(x, k) }",
    "gather": "(float[3,4] x, int64[2] i) => (float[2,4] y) { y = Gather(x, i) }",
    "max_unpool": "(float[1,1,2,2] x, int64[1,1,2,2] i) => (float[1,1,4,4] y) "
                  "{ y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(x, i) }",
    "compress": "(float[6] x, bool[6] c) => (float[2] y) { y = Compress(x, c) }",
    "suppression": "(float[1,5,4] b, float[1,1,5] s, int64[1] m, float[1] o, float[1] l) => (int64[2,3] y) "
                   "{ y = NonMaxSuppression(b, s, m, o, l) }",
    "roi_align": "(float[1,2,5,5] x, float[2,4] r, int64[2] b) => (float[2,2,1,1] y) { y = RoiAlign(x, r, b) }",
    "grid_sample": "(float[1,1,4,4] x, float[1,2,2,2] g) => (float[1,1,2,2] y) { y = GridSample(x, g) }",
    "grid_sample_border": "(float[1,1,4,4] x, float[1,2,2,2] g) => (float[1,1,2,2] y) "
                          '{ y = GridSample<padding_mode="border", mode="cubic">(x, g) }',
    "grid_sample_reflection": "(float[1,1,4,4] x, float[1,2,2,2] g) => (float[1,1,2,2] y) "
                              '{ y = GridSample<padding_mode="reflection", mode="nearest">(x, g) }',
    "deform_conv": "(float[1,1,4,4] x, float[1,1,2,2] w, float[1,8,3,3] o) => (float[1,1,3,3] y) "
                   "{ y = DeformConv(x, w, o) }",
    "gru": "(float[3,2,4] x, float[1,9,4] w, float[1,9,3] r, float[1,18] b, int32[2] l) => (float[3,1,2,3] y) "
           "{ y = GRU<hidden_size=3>(x, w, r, b, l) }",
}
INTEGERS = (0, -1, 1000, 2**31 - 1, -(2**31), 2**40)
FLOATS = (0.0, -1.0, 1e30, -1e30, np.inf, np.nan)


def run_with_extremes(text):
    """Run a model with every input filled with each extreme value in turn."""
    program = build(lower(model_of('<ir_version: 8, opset_import: ["": 22]> g ' + text), resolve("cpu")))
    for integer, real in zip(INTEGERS, FLOATS, strict=True):
        feeds = {spec.name: np.full(spec.shape, real if spec.dtype == "float32" else integer).astype(spec.dtype)
                 for spec in program.inputs}
        with contextlib.suppress(IndexError):
            run(program, feeds)


@pytest.fixture(scope="module")
def worker():
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        yield pool


@pytest.mark.parametrize("name", GRAPHS)
def test_extreme_values_do_not_crash(worker, name):
    worker.submit(run_with_extremes, GRAPHS[name]).result(timeout=120)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_integer_division_by_anything(worker, dtype):
    numbers = np.array([0, 1, -1, 2, -3, np.iinfo(dtype).min, np.iinfo(dtype).max]).astype(dtype)
    x, y = (grid.ravel() for grid in np.meshgrid(numbers, numbers))
    text = f"({dtype}[{x.size}] x, {dtype}[{x.size}] y) => ({dtype}[{x.size}] q, {dtype}[{x.size}] r)"
    q, r = worker.submit(divide, text + "{ q = Div(x, y) r = Mod(x, y) }", x, y).result(timeout=60)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(r, np.mod(x, y))
    for quotient, a, b in zip(*(array.tolist() for array in (q, x, y)), strict=True):
        exact = (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1) if b else 0
        assert quotient == np.array(exact).astype(dtype)


def divide(text, x, y):
    program = build(lower(model_of('<ir_version: 8, opset_import: ["": 22]> g ' + text), resolve("cpu")))
    return run(program, {"x": x, "y": y})
