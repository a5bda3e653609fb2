"""What lowering promises: one function, shared constants, views instead of copies, and one error naming every node."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import tirx as T

from sparsec.backends.cpu import lower as lowering
from sparsec.backends.cpu.build import build
from sparsec.backends.relax.context import LoweringContext
from sparsec.errors import UnsupportedOperatorError
from sparsec.kernels.emit.isa import isa_of
from sparsec.target import resolve
from tests.support.targets import runnable
from tests.support.vm import compile_and_run, machine_of, model_of, onnxruntime_run

HEADER = '<ir_version: 8, opset_import: ["": 17, "sparsec": 1]> g '


@T.prim_func(s_tir=True)
def double(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")):
    T.func_attr({"global_symbol": "double", "tirx.noalias": True})
    with T.sblock("root"):
        T.reads()
        T.writes()
        for i in T.vectorized(6):
            Y[i] = X[i] * T.float32(2)


def lower_double(context, node):
    context.bind(node.outputs[0], context.call(double, [context.flat(node.inputs[0])], 6))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", runnable("cpu", "cpu-avx2", "cpu-generic"))
def test_own_kernels_and_onnx_operators_share_one_function(monkeypatch, target, threads):
    monkeypatch.setitem(lowering.LOWERINGS, "sparsec::Double", lower_double)
    model = model_of(HEADER + """(float[2,3] x) => (float[2,3] z, float[2,3] x2, float[2,3] y) {
        y = sparsec.Double(x)  w = Relu(y)  v = sparsec.Double(w)  z = Add(v, x)  x2 = Identity(x) }""")
    for value in [node.outputs[0] for node in model.graph]:
        value.shape, value.type = model.graph.inputs[0].shape, model.graph.inputs[0].type
    x = np.random.default_rng(0).standard_normal((2, 3), "f4")
    z, x2, y = compile_and_run(model, {"x": x}, target, threads)
    np.testing.assert_array_equal(z, np.maximum(x * 2, 0) * 2 + x)
    np.testing.assert_array_equal(x2, x)
    np.testing.assert_array_equal(y, x * 2)


def test_equal_constants_are_stored_once():
    context = LoweringContext(relax.BlockBuilder(), isa_of(resolve("cpu")), resolve("cpu"), lowering.lower_operator)
    a, b, c = (context.constant(np.full(shape, 7, "f4")) for shape in [(4,), (4,), (2, 2)])
    assert a.same_as(b)
    assert not a.same_as(c)
    assert [v.shape for v in context.constants.values()] == [(4,), (2, 2)]


def test_every_node_that_cannot_be_lowered_is_named(capfd):
    model = model_of(HEADER + """(float[2,3] x) => (float[2,3] z) {
        y = sparsec.Unknown(x)  v = Relu(y)  w = sparsec.Other(x)  z = Add(v, w) }""")
    with pytest.raises(UnsupportedOperatorError, match=r"(?s)2 node.*sparsec::Unknown \(opset 1\).*sparsec::Other"):
        lowering.lower(model, resolve("cpu"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("rows", "reduced", "keepdims"), [(3, "2,1,4", 0), (0, "2,1,4", 0), (3, "2,5,4", 1),
                                                           (0, "2,7,4", 1)])
def test_axes_at_run_time_must_lead_to_the_shape_that_the_file_declares(rows, reduced, keepdims):
    model = model_of(HEADER.replace("17", "18") + f"(float[2,{rows},4] x, int64[1] axes) => (float[{reduced}] y) "
                     f"{{ y = ReduceL2<keepdims={keepdims}>(x, axes) }}")
    with pytest.raises(UnsupportedOperatorError, match="no axes lead"):
        lowering.lower(model, resolve("cpu"))


def test_plain_operators_match_onnxruntime():
    model = model_of(HEADER + """(float[2,3,8,8] x, float[8] y) => (float[2,3,8,8] z, float[2,3] m) {
        a = Add(x, y)  z = Softmax<axis=-1>(a)  r = ReduceMean<axes=[2,3], keepdims=0>(a)  m = Relu(r) }""")
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((2, 3, 8, 8), "f4"), "y": rng.standard_normal(8, "f4")}
    for got, expected in zip(compile_and_run(model, feeds), onnxruntime_run(model, feeds), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_outputs_own_their_memory():
    model = model_of(HEADER + """(float[2,6] x) => (float[3,4] y, float[2,6] same, float[12] z, float[2] c)
        <float[2] k = {1, 2}, int64[2] s = {3, 4}, int64[1] f = {12}> {
        y = Reshape(x, s)  same = Identity(x)  w = Reshape(y, f)  z = Identity(w)  c = Identity(k) }""")
    lowered = lowering.lower(model, resolve("cpu"))
    x = tvm.runtime.tensor(np.ones((2, 6), "f4"))
    constants = [tvm.runtime.tensor(array) for array in lowered.constants]
    outputs = machine_of(build(lowered))["main"](x, *constants)
    for memory in (x, *constants):
        memory.copyfrom(np.zeros(memory.shape, "f4"))
    for output in outputs[:3]:
        assert (output.numpy() == 1).all()
    np.testing.assert_array_equal(outputs[3].numpy(), [1, 2])
