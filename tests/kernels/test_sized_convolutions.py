"""Kernels for dense convolutions of images of any size are ONNX's, on every instruction set, however windows move."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from sparsec.backends.cpu.build import build_kernels
from sparsec.backends.cpu.convolutions import BUILDERS, offers
from sparsec.graph.compare import run_onnxruntime
from sparsec.graph.sized import DENSE, WINOGRAD, Convolution
from sparsec.kernels.cpu.tensors import sized_convolution, sized_winograd
from sparsec.runtime.loading import load_code
from sparsec.runtime.sized.windows import Windows, kernel_of
from sparsec.target import resolve
from tests.support.targets import TARGETS, isa

RNG = np.random.default_rng(0)
FOLLOWS = {"none": lambda y: y, "relu": lambda y: np.maximum(y, 0)}
BY_THREE = {"padded": {"pads": [1, 1, 1, 1]}, "uneven": {"pads": [1, 1, 2, 1]}, "same": {"auto_pad": "SAME_LOWER"},
            "dilated": {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
            "apart": {"dilations": [1, 3], "pads": [1, 3, 1, 3]}}
MOVES = {WINOGRAD: BY_THREE, DENSE: {
    **BY_THREE, "pixels": {"kernel_shape": [1, 1]}, "every other pixel": {"kernel_shape": [1, 1], "strides": [2, 2]},
    "strided": {"strides": [2, 1], "pads": [1, 1, 1, 1]},
    "stem": {"kernel_shape": [7, 7], "strides": [2, 2], "pads": [3, 3, 3, 3]}}}
SHAPES = {WINOGRAD: [(1, 16, 1, 1), (3, 17, 5, 8), (0, 16, 4, 4), (2, 40, 6, 31)],
          DENSE: [(1, 3, 1, 1), (3, 17, 5, 8), (0, 16, 4, 4), (2, 32, 6, 31)]}
WIDTHS = {WINOGRAD: sized_winograd.widths, DENSE: sized_convolution.widths}
FEW_BYTES = 1 << 17
"""An L2 cache that a few tiles fill, so that there are several blocks of them."""


@pytest.fixture(scope="module", params=TARGETS)
def machine(request):
    own, numbered = isa(request.param), {}
    for kind, widths in WIDTHS.items():
        for vectors in widths(64, 64, own):
            numbered[kind, vectors] = Convolution(kind, vectors, list(FOLLOWS)[vectors % 2], residual=bool(vectors % 2))
    built = {kernel_of({"kind": kind, "kernel": vectors}): BUILDERS[kind](each, own, FEW_BYTES)
             for (kind, vectors), each in numbered.items()}
    return own, numbered, load_code(*build_kernels(built, resolve(request.param)))


def onnx_s(given, x, weight, bias):
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w", "b"], ["y"], **given)], "g",
                              [helper.make_tensor_value_info("x", 1, x.shape)],
                              [helper.make_tensor_value_info("y", 1, None)],
                              [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return np.moveaxis(run_onnxruntime(model, {"x": x})[0], 1, -1)


def run(machine, kind, vectors, given, x, weight, bias, residual):
    own, numbered, kernels = machine
    attributes = {"kernel_shape": weight.shape[2:], "strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4,
                  "auto_pad": "NOTSET", **given, "outputs": len(weight)}
    step = {"kind": kind, "kernel": vectors}
    offered = {each.kind: each for each in offers(weight.shape, 64, own, lambda _: 0.0, strided=False)}
    packed = np.concatenate([offered[kind].pack(weight, vectors=vectors), bias])
    more = [residual] if numbered[kind, vectors].residual else []
    return Windows(kernels[kernel_of(step)], kind, attributes).run(
        [np.ascontiguousarray(np.moveaxis(x, 1, -1)), packed, *more])[0]


@pytest.mark.parametrize(("kind", "name", "shape"), [(kind, name, shape) for kind, moves in MOVES.items()
                                                     for name in moves for shape in SHAPES[kind]], ids=str)
def test_convolutions(machine, kind, name, shape):
    x, given = RNG.standard_normal(shape, np.float32), MOVES[kind][name]
    sides = given.get("kernel_shape", (3, 3))
    for (each, vectors), params in machine[1].items():
        if each != kind:
            continue
        outputs = machine[0].lanes * vectors + (3 * vectors) % 5 if kind == DENSE else (16, 35, 19)[vectors - 1]
        weight = 0.1 * RNG.standard_normal((outputs, shape[1], *sides), np.float32)
        bias = RNG.standard_normal(outputs, np.float32)
        expected = onnx_s(given, x, weight, bias)
        residual = RNG.standard_normal(expected.shape, np.float32)
        wanted = FOLLOWS[params.activation](expected + residual if params.residual else expected)
        found = run(machine, kind, vectors, given, x, weight, bias, residual)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_nan_travels_to_the_pixels_that_read_it(machine):
    x, bias = RNG.standard_normal((1, 16, 7, 9), np.float32), np.zeros(64, np.float32)
    x[0, 3, 2, 5] = x[0, 15, 6, 0] = np.nan
    weight, given = RNG.standard_normal((64, 16, 3, 3), np.float32), BY_THREE["padded"]
    for kind, vectors in machine[1]:
        found = run(machine, kind, vectors, given, x, weight, bias, np.zeros((1, 7, 9, 64), np.float32))
        np.testing.assert_array_equal(np.isnan(found), np.isnan(onnx_s(given, x, weight, bias)))
