"""Scales and zero points that do not fit what they quantise are refused by the name of the node."""

import pytest

from sparsec.errors import ModelError
from sparsec.graph.reader import load
from tests.support.texts import model

LINEAR = """g (float[2,3,4] x) => (uint8[2,3,4] y) <float[{scale}] s, {zero} z>
    {{ [culprit] y = QuantizeLinear<axis={axis}>(x, s, z) }}"""
BACK = """g (uint8[2,3,4] x) => (float[2,3,4] y) <float[3] s, {zero} z>
    {{ [culprit] y = DequantizeLinear<axis=1>(x, s, z) }}"""
DISAGREE = """g (float[2,3] x) => (float[2,3] y) <float s, uint8 z, int8 w>
    { q = QuantizeLinear(x, s, z) [culprit] y = DequantizeLinear(q, s, w) }"""
CONV = """g (uint8[1,2,5,5] x) => (uint8[1,4,3,3] y)
    <float s, uint8 z, int8[4,2,3,3] w, float[{scale}] ws, {zero} wz>
    {{ [culprit] y = QLinearConv(x, s, z, w, ws, wz, s, z) }}"""
MATMUL = """g (uint8[2,3] x) => (uint8[2,4] y) <float s, uint8 z, int8[3,4] w, float[{scale}] ws, int8[{scale}] wz>
    {{ [culprit] y = QLinearMatMul(x, s, z, w, ws, wz, s, z) }}"""
ADD = """g (uint8[2,3] x) => (uint8[2,3] y) <float s, float[3] long, uint8 z>
    { [culprit] y = com.microsoft.QLinearAdd(x, s, z, x, long, z, s, z) }"""


NBITS = """g (float[2,40] x) => (float[2,3] y) <uint8[3,2,16] w, float[{scales}] s, uint8[{zeros}] z>
    {{ [culprit] y = com.microsoft.MatMulNBits<K=40, N=3, bits={bits}, block_size=32>(x, w, s, z) }}"""


@pytest.mark.parametrize("text", [
    NBITS.format(scales=3, zeros=3, bits=4), NBITS.format(scales=6, zeros=6, bits=4),
    NBITS.format(scales=6, zeros=6, bits=8), NBITS.format(scales=6, zeros=3, bits=5),
    LINEAR.format(scale=2, zero="uint8[2]", axis=1), LINEAR.format(scale=3, zero="uint8[3]", axis=3),
    LINEAR.format(scale=3, zero="uint8[2]", axis=1), BACK.format(zero="int8[3]"), DISAGREE,
    CONV.format(scale=3, zero="int8[3]"), CONV.format(scale=4, zero="uint8[4]"), MATMUL.format(scale=3), ADD,
])
def test_scales_that_do_not_fit_are_refused_by_name(text):
    with pytest.raises(ModelError, match="culprit"):
        load(model(text))


@pytest.mark.parametrize("text", [
    NBITS.format(scales=6, zeros=3, bits=4),
    LINEAR.format(scale=3, zero="uint8[3]", axis=-2), LINEAR.format(scale=1, zero="uint8[1]", axis=9),
    BACK.format(zero="uint8[3]"), CONV.format(scale=4, zero="int8[4]"), MATMUL.format(scale=4),
])
def test_scales_that_fit_are_taken(text):
    load(model(text))
