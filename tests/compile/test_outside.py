"""A weighted layer that no kernel takes is named, and refused by `strict`, at run-time sizes as at fixed ones."""

import ast
import re

import pytest

import sparsec
from sparsec.compiler.outside import in_bodies, left_as_operators
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph import reader
from tests.support import texts

OPEN = {
    "Gemm": "g (double[n,8] x) => (double[n,8] y) <double[8,8] w> { y = Gemm(x, w) }",
    "MatMul": "g (int64[n,8] x) => (int64[n,8] y) <int64[8,8] w> { y = MatMul(x, w) }",
    "Conv": "g (double[n,3,6,6] x) => (double[n,4,4,4] y) <double[4,3,3,3] w> { y = Conv(x, w) }",
    "LSTM": "g (float[s,n,8] x, float[1,16,4] r) => (float[s,1,n,4] y) <float[1,16,8] w> "
            "{ y = LSTM<hidden_size=4>(x, w, r) }",
    "MatMulInteger": "g (uint8[n,8] x) => (int32[n,8] y) <int8[8,8] w> { y = MatMulInteger(x, w) }",
    "ConvTranspose": "g (float[n,3,h,k] x) => (float[n,4,a,b] y) <float[3,4,4,4] w> "
                     "{ y = ConvTranspose<strides=[2,2]>(x, w) }"}


@pytest.mark.parametrize("operator", OPEN)
def test_strict_refuses_at_run_time_sizes_what_no_kernel_takes(operator):
    with pytest.raises(UnsupportedOperatorError, match="1 layer would run without sparsec's kernels") as refused:
        sparsec.compile(texts.model(OPEN[operator]), tune="off", verify=False, strict=True)
    assert ("float32" in str(refused.value)) == ("double" in OPEN[operator] or "int64" in OPEN[operator])


@pytest.mark.parametrize("size", [None, 2])
def test_a_layer_is_named_once_with_its_reason(size):
    artifact = sparsec.compile(texts.model(OPEN["Gemm"]), tune="off", verify=False, dims=size and {"n": size})
    (row,) = artifact.report["outside"]
    assert (row["operator"], row["reason"]) == ("Gemm", "Gemm stays: computes in DOUBLE, not float32")


def test_layers_in_bodies_have_no_kernels():
    model = reader.load(texts.model("g (float[2,8] x, bool c) => (float[2,8] y) <float[8,8] w> { y = If(c) "
                                    "<then_branch = t () => (float[2,8] a) { a = MatMul(x, w) }, "
                                    "else_branch = e () => (float[2,8] b) { b = Relu(x) }> }"))
    (branches,) = model.graph
    assert left_as_operators(model.graph, ()) == in_bodies(branches) != []


def test_the_sizes_that_are_advised_hold_together():
    text = ("g (float[batch,seq,8] x, float[batch,past,8] old, float[batch,total] mask) => "
            "(float[batch,seq,total] y) <int64[1] axes> "
            "{ k = Concat<axis=1>(old, x) t = Transpose<perm=[0,2,1]>(k) s = MatMul(x, t) a = Unsqueeze(mask, axes) "
            "y = Add(s, a) }")
    model = texts.model(text, axes=[1])
    (row,) = sparsec.compile(model, tune="off", verify=False).report["outside"]
    dims = ast.literal_eval(re.search(r"dims=(\{.*?\})", row["reason"])[1])
    assert dims["total"] == dims["past"] + dims["seq"]
    assert sparsec.compile(model, tune="off", dims=dims).report["verification"]["relative_error"]["y"] < 1e-5
