"""Kernels of windows are ONNX's operators channels last, for every way to move windows, on every instruction set."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from sparsec.backends.cpu.build import build_kernels
from sparsec.graph.compare import run_onnxruntime
from sparsec.graph.sized import WINDOWS
from sparsec.kernels.cpu.tensors import sized_windows
from sparsec.runtime.loading import load_code
from sparsec.runtime.sized.windows import Windows, kernel_of
from sparsec.target import resolve
from tests.support.targets import TARGETS, isa

RNG = np.random.default_rng(0)
MOVES = {"plain": {}, "padded": {"pads": [1, 0, 2, 1]}, "strided": {"strides": [2, 3], "pads": [1, 1, 1, 1]},
         "dilated": {"dilations": [2, 1], "pads": [2, 1, 2, 1]}, "same": {"auto_pad": "SAME_LOWER", "strides": [2, 2]}}
KERNEL = [3, 2]
RESIZES = {"nearest": {"mode": "nearest"}, "linear": {"mode": "linear"},
           "floor": {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
           "corners": {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
           "cubic": {"mode": "cubic"}, "sharp": {"mode": "cubic", "cubic_coeff_a": -0.5}}


@pytest.fixture(scope="module", params=TARGETS)
def kernels(request):
    kinds = [kind for kind in WINDOWS if kind in sized_windows.KINDS]
    built = {kernel_of({"kind": kind}): sized_windows.build(kind, isa(request.param)) for kind in kinds}
    return load_code(*build_kernels(built, resolve(request.param)))


def image(channels):
    return RNG.standard_normal((2, channels, 7, 9), np.float32)


def run(kernels, kind, attributes, x, *more):
    step = Windows(kernels[kernel_of({"kind": kind})], kind, attributes)
    return step.run([np.ascontiguousarray(np.moveaxis(x, 1, -1)), *more])[0]


def onnx_s(kind, attributes, x, *constants):
    given = dict(zip([f"c{index}" for index in range(len(constants))], constants, strict=True))
    read = ["x", *(name if array.size else "" for name, array in given.items())]
    graph = helper.make_graph([helper.make_node(kind, read, ["y"], **attributes)], "g",
                              [helper.make_tensor_value_info("x", 1, x.shape)],
                              [helper.make_tensor_value_info("y", 1, None)],
                              [numpy_helper.from_array(array, name) for name, array in given.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    (y,) = run_onnxruntime(model, {"x": x})
    return np.moveaxis(y, 1, -1)


def moved(name):
    given = MOVES[name]
    return given, {"kernel_shape": KERNEL, "strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4,
                   "auto_pad": "NOTSET", **given}


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("name", MOVES)
def test_convolutions(kernels, name, channels):
    given, attributes = moved(name)
    x, weight = image(channels), RNG.standard_normal((5, channels, *KERNEL), np.float32)
    columns = run(kernels, "Im2col", attributes, x)
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, 5)
    np.testing.assert_allclose(columns @ matrix, onnx_s("Conv", given, x, weight), rtol=1e-4, atol=1e-4)
    each, bias = RNG.standard_normal((channels, 1, *KERNEL), np.float32), np.float32(range(channels))
    taps = np.concatenate([each.transpose(2, 3, 1, 0).reshape(-1), bias])
    np.testing.assert_allclose(run(kernels, "DepthwiseConv", attributes, x, taps),
                               onnx_s("Conv", {**given, "group": channels}, x, each, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [3, 70])
@pytest.mark.parametrize("name", MOVES)
def test_codes_are_copied_with_that_of_zero_as_padding(kernels, name, channels):
    attributes, codes, zero = moved(name)[1], RNG.integers(-128, 128, (2, channels, 7, 9), np.int8), np.int8([-5])
    columns = run(kernels, "Im2colCodes", attributes, codes, zero)
    expected = run(kernels, "Im2col", attributes, codes.astype(np.float32) + 5)
    np.testing.assert_array_equal(columns.astype(np.float32) + 5, expected)


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("name", MOVES)
def test_pools(kernels, name, channels):
    given, attributes = moved(name)
    x = image(channels)
    x[1, 1] = -1e30
    np.testing.assert_array_equal(run(kernels, "MaxPool", attributes, x),
                                  onnx_s("MaxPool", {**given, "kernel_shape": KERNEL}, x))
    x[0, :, 3, 3] = np.nan
    pixels = run(kernels, "Im2col", attributes, x)
    largest = run(kernels, "MaxPool", attributes, x)
    np.testing.assert_array_equal(np.isnan(largest[..., 0]), np.isnan(pixels).any(-1))
    if name != "dilated":
        y = image(channels)
        np.testing.assert_allclose(run(kernels, "AveragePool", attributes, y),
                                   onnx_s("AveragePool", {**given, "kernel_shape": KERNEL}, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RESIZES)
def test_resizes(kernels, name):
    x, given = image(20), RESIZES[name]
    attributes = {"nearest_mode": "round_prefer_floor", "coordinate_transformation_mode": "half_pixel", **given,
                  "axes": [2, 3]}
    none = np.zeros(0, np.float32)
    np.testing.assert_allclose(run(kernels, "Resize", {**attributes, "scales": [2.0, 0.5]}, x),
                               onnx_s("Resize", given, x, none, np.float32([1, 1, 2, 0.5])), rtol=1e-4, atol=1e-5)
    sizes = np.array([2, 20, 5, 14])
    np.testing.assert_allclose(run(kernels, "Resize", {**attributes, "scales": [0.0, 0.0]}, x, sizes),
                               onnx_s("Resize", given, x, none, none, sizes), rtol=1e-4, atol=1e-5)


def test_channels_become_pixels(kernels):
    x = image(12)
    expected = x.transpose(0, 2, 3, 1).reshape(2, 7, 9, 2, 3, 2).transpose(0, 1, 3, 2, 4, 5).reshape(2, 14, 27, 2)
    np.testing.assert_array_equal(run(kernels, "PixelShuffle", {"blocks": [2, 3]}, x), expected)


def test_an_image_smaller_than_a_window_is_refused(kernels):
    with pytest.raises(ValueError, match="fewer than a window of 3 takes"):
        run(kernels, "Im2col", moved("plain")[1], image(3)[:, :, :2])
