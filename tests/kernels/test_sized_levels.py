"""Scale and zero point of any number of floats are those that DynamicQuantizeLinear finds, bit for bit."""

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sparsec.backends.cpu.build import build_kernels
from sparsec.kernels.cpu.tensors import sized_levels
from sparsec.machine import tvm_runtime
from sparsec.runtime.loading import load_code
from sparsec.runtime.sized.quantized import OPERATORS
from sparsec.target import resolve
from tests.support.targets import TARGETS, isa

NODE = ReferenceEvaluator(helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero_point"]))
RNG = np.random.default_rng(0)
ARRAYS = {"one": np.float32([-2.5]), "positive": np.float32([1, 3]),
          **{f"{n}": RNG.standard_normal(n).astype(np.float32) for n in (15, 64, 255, 1000)}}


@pytest.fixture(scope="module", params=TARGETS)
def levels(request):
    built = {"levels": sized_levels.build(isa(request.param))}
    return load_code(*build_kernels(built, resolve(request.param)))["levels"]


@pytest.mark.parametrize("name", ARRAYS)
def test_the_kernel_and_numpy_are_onnx_s(levels, name):
    x = ARRAYS[name]
    share = tvm_runtime.load().from_dlpack
    scale, zero = np.zeros(1, np.float32), np.zeros(1, np.uint8)
    levels(*map(share, (np.array([x.size]), x, scale, zero)))
    expected = NODE.run(None, {"x": x})
    np.testing.assert_array_equal([*scale, *zero], expected[1:])
    for found, wanted in zip(OPERATORS["DynamicQuantizeLinear"]([x], {}), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
