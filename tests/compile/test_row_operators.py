"""Operators that keep the images of a batch apart are compiled with the layers around them, for any batch."""

import numpy as np
import pytest

import sparsec
from sparsec.graph import ort
from tests.support.texts import model

CONSTANTS = {"k": np.random.default_rng(0).standard_normal((6, 3, 3, 3), np.float32), "up": np.float32([1, 1, 2, 3]),
             "pads": [0, 0, 1, 2, 0, 0, 2, 1], "three": 3, "one": [1], "two": [2], "seven": 0.7, "sides": [5, 12]}
OPERATORS = (
    "Resize(c, , up)", 'Resize<mode="linear">(c, , up)', 'Resize<mode="cubic">(c, , up)',
    'Resize<mode="linear", axes=[2, 3]>(c, , , sides)', "Resize<axes=[-1, -2]>(c, , , sides)",
    "Pad(c, pads)", 'Pad<mode="reflect">(c, pads)',
    "CumSum(c, three)", "Hardmax<axis=1>(c)", "Trilu(c)", "ReduceL1<keepdims=0>(c, one)", "ReduceProd(c, two)",
    "LpNormalization<axis=1>(c)", "Selu(c)", "Celu(c)", "Softsign(c)", "ThresholdedRelu(c)", "Shrink<lambd=0.1>(c)",
    "Atan(c)", "Sum(c, c, c)", "Mean(c, c)", "Mod<fmod=1>(c, seven)", "ArgMax<axis=1>(c)",
    "ArgMin<axis=-1>(c)", "TopK<axis=1>(c, two)")


def unread(text):
    """The name of a second output, where the operator has one."""
    return ", indices" if text.startswith("TopK") else ""


@pytest.mark.parametrize("operators", [OPERATORS[::2], OPERATORS[1::2]])
def test_operators_that_keep_rows_apart_are_in_one_stage(operators):
    made = {f"y{n}": each for n, each in enumerate(operators)}
    outputs = ", ".join(f"{'int64' if each.startswith('Arg') else 'float'}[n,{','.join('abc')}] {name}"
                        if "keepdims" not in each else f"float[n,a,b] {name}" for name, each in made.items())
    proto = model(f"g (float[n,3,8,9] x) => ({outputs}) <float[6,3,3,3] k, float[4] up, int64[8] pads, int64 three, "
                  "int64[1] one, int64[1] two, float seven, int64[2] sides> { c = Conv<pads=[1,1,1,1]>(x, k) "
                  f"{' '.join(f'{name}{unread(each)} = {each}' for name, each in made.items())} }}", 18, **CONSTANTS)
    session = sparsec.InferenceSession(sparsec.compile(proto, tune="off", verify=False))
    expected = ort.session(proto)
    assert [step["op"] for step in session._sized.steps] == ["rows"]
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8, 9), np.float32)
        for found, wanted in zip(session.run(None, {"x": x}), expected.run(None, {"x": x}), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_what_is_made_of_rows_of_a_table_is_a_stage():
    proto = model("g (int64[n,t] i, float[n,t,1] w) => (float[n,16] y) <float[50,16] table, int64[1] one> {"
                  "e = Gather(table, i) m = Mul(e, w) r = Relu(m) y = ReduceSum<keepdims=0>(r, one) }", 18,
                  **CONSTANTS, table=np.random.default_rng(0).standard_normal((50, 16), np.float32))
    session, expected = sparsec.InferenceSession(sparsec.compile(proto, tune="off", verify=False)), ort.session(proto)
    assert [step["op"] for step in session._sized.steps] == ["rows", "ReduceSum"]
    for batch, tokens in ((0, 3), (1, 1), (3, 70)):
        feeds = {"i": np.random.default_rng(1).integers(-50, 50, (batch, tokens)),
                 "w": np.random.default_rng(2).standard_normal((batch, tokens, 1), np.float32)}
        for _ in range(2):
            np.testing.assert_allclose(session.run(None, feeds)[0], expected.run(None, feeds)[0], rtol=1e-4, atol=1e-4)
