"""Operators without a kernel of their own keep NaN and infinities on GPUs as ONNX's reference does, in the emulator."""

import numpy as np
import pytest

from sparsec.backends.cuda.lower import lower
from sparsec.compiler.pipeline import run_passes
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.cuda import walk
from tests.support.cuda.emulator import emulate
from tests.support.texts import model

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
TARGET = resolve("cuda-sm80")
SPECIALS = np.float32([np.nan, np.inf, -np.inf, 0.0, 1.5, -1.5, 1e-40, 3e38])
A, B = (each.reshape(1, 1, 8, 8).copy() for each in np.meshgrid(SPECIALS, SPECIALS))
GRAPHS = {
    "activations": """float[1,1,8,8] r, float[1,1,8,8] c, float[1,1,8,8] h, float[1,1,8,8] l) <float low, float high>
        { r = Relu(a) c = Clip(a, low, high) h = HardSigmoid(a) s = Add(a, b) l = LeakyRelu(s) }""",
    "binary": "float[1,1,8,8] m, float[1,1,8,8] n) { m = Max(a, b) n = Min(b, a) }",
    "reductions": """float[1,1,8,1] m, float[1,1,1,8] n, float[1,1,4,4] p)
        { m = ReduceMax<axes=[3]>(b) n = ReduceMin<axes=[2]>(a) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b) }""",
}


@pytest.mark.parametrize("name", GRAPHS)
def test_specials_are_those_of_the_reference(name):
    graph = load(model(f"g (float[1,1,8,8] a, float[1,1,8,8] b) => ({GRAPHS[name]}", 17, low=-1, high=2))
    feeds = {"a": A, "b": B}
    expected = evaluate(graph, feeds)
    run_passes(graph, Context(TARGET))
    for found, wanted in zip(walk.run(lower(graph, TARGET, "fp16"), feeds), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
