"""SAME padding of dilated windows against the specification's own words."""

import itertools

import numpy as np
import pytest

import sparsec
from tests.support.texts import model

KERNEL = 3
REDUCED = {"MaxPool": lambda taps: np.nanmax(taps, axis=0), "AveragePool": lambda taps: np.nanmean(taps, axis=0),
           "LpPool": lambda taps: np.sqrt(np.nansum(np.square(taps), axis=0)),
           "Conv": lambda taps: np.nansum(taps, axis=0).sum(axis=1, keepdims=True)}


def by_specification(x, operator, dilation, stride, auto):
    """The output of ceil(input / stride) positions and the padding that they need; padding is NaN."""
    size = x.shape[2]
    positions = -(-size // stride)
    total = max((positions - 1) * stride + (KERNEL - 1) * dilation + 1 - size, 0)
    before = total // 2 if auto == "SAME_UPPER" else total - total // 2
    around = ((0, 0), (0, 0), (before, total), (before, total))
    padded = np.pad(x.astype(np.float64), around, constant_values=np.nan)
    span = (positions - 1) * stride + 1
    taps = [padded[:, :, a * dilation:a * dilation + span:stride, b * dilation:b * dilation + span:stride]
            for a, b in itertools.product(range(KERNEL), repeat=2)]
    return REDUCED[operator](np.stack(taps))


@pytest.mark.parametrize(("dilation", "stride", "size"), [(2, 1, 9), (2, 2, 9), (3, 2, 10)])
@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("operator", REDUCED)
def test_padding_is_the_specifications(operator, auto, dilation, stride, size):
    positions = -(-size // stride)
    inputs, channels = ("x, w", 1) if operator == "Conv" else ("x", 2)
    text = (f"g (float[1,2,{size},{size}] x) => (float[1,{channels},{positions},{positions}] y) <float[1,2,3,3] w> "
            f'{{ y = {operator}<kernel_shape=[3,3], auto_pad="{auto}", dilations=[{dilation},{dilation}], '
            f"strides=[{stride},{stride}]>({inputs}) }}")
    x = np.random.default_rng(0).standard_normal((1, 2, size, size)).astype(np.float32)
    artifact = sparsec.compile(model(text, opset=22, w=np.ones((1, 2, 3, 3), np.float32)), tune="off")
    y, = sparsec.InferenceSession(artifact).run(None, {"x": x})
    np.testing.assert_allclose(y, by_specification(x, operator, dilation, stride, auto), rtol=1e-4, atol=1e-5)
