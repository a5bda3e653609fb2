"""The interpreter's own operators against ONNX's reference implementation."""

import numpy as np
import pytest
from onnx import defs
from onnx.reference import ReferenceEvaluator

from sparsec.graph.compare import run_onnxruntime
from sparsec.runtime.evaluator import knows
from sparsec.runtime.interpreted import OPERATORS
from tests.support.texts import model


def both(text, **feeds):
    """What our implementation and the reference's make of the inputs."""
    proto = model(text)
    return [ReferenceEvaluator(proto, new_ops=new).run(None, feeds)[0] for new in (OPERATORS, [])]


@pytest.mark.parametrize("spread", [0, 3], ids=["one group", "classes apart"])
@pytest.mark.parametrize("most", [0, 3, 99])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_boxes_are_chosen_as_the_reference_does(spread, most, threshold):
    rng = np.random.default_rng(most)
    corner = rng.random((1, 40, 2)) + spread * rng.integers(0, 5, (1, 40, 1))
    boxes = np.concatenate([corner, corner + rng.random((1, 40, 2))], axis=2).astype(np.float32)
    found, expected = both(
        "g (float[1,40,4] b, float[1,2,40] s, int64[1] m, float[1] t, float[1] l) => (int64[K,3] y) "
        "{ y = NonMaxSuppression(b, s, m, t, l) }", b=boxes, s=rng.random((1, 2, 40)).astype(np.float32),
        m=np.array([most]), t=np.array([threshold], np.float32),
        l=np.array([0.2], np.float32))
    np.testing.assert_array_equal(found, expected.reshape(-1, 3))


@pytest.mark.parametrize(("data", "indices", "batch"), [
    ((2, 3, 4), (5, 2), 0), ((2, 3, 4), (2, 3, 1), 2), ((2, 3, 4), (2, 5, 1), 1), ((4,), (0, 1), 0),
    ((4, 2), (3, 1), 0)])
def test_slices_are_gathered_as_the_reference_does(data, indices, batch):
    rng = np.random.default_rng(0)
    found, expected = both(f"g (float x, int64 i) => (float y) {{ y = GatherND<batch_dims={batch}>(x, i) }}",
                           x=rng.random(data).astype(np.float32), i=rng.integers(-2, 2, indices))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


@pytest.mark.parametrize("mode", ["edge", "reflect", "constant", "wrap"])
def test_what_is_cut_off_is_not_repeated(mode):
    proto = model(f'g (float x, int64 p, int64 a) => (float y) {{ y = Pad<mode="{mode}">(x, p, , a) }}', opset=19)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    feeds = {"x": x, "p": np.array([1, -1, 2, 0]), "a": np.array([-1, 0])}
    (found,) = ReferenceEvaluator(proto, new_ops=OPERATORS).run(None, feeds)
    np.testing.assert_array_equal(found, np.pad(x[1:], ((0, 0), (1, 2)), mode))


def test_taps_between_pixels_are_onnxruntimes():
    proto = model("g (float[2,4,9,8] x, float[2,36,4,9] o, float[2,18,4,9] m) => (float[2,6,4,9] y) "
                  "<float[6,2,3,3] w, float[6] b> { y = DeformConv<pads=[2,2,1,1], dilations=[2,1], strides=[2,1], "
                  "group=2, offset_group=2>(x, w, o, b, m) }", opset=19)
    rng = np.random.default_rng(0)
    feeds = {value.name: rng.standard_normal([each.dim_value for each in value.type.tensor_type.shape.dim], np.float32)
             for value in proto.graph.input}
    (found,) = ReferenceEvaluator(proto, new_ops=OPERATORS).run(None, feeds)
    np.testing.assert_allclose(found, run_onnxruntime(proto, feeds)[0], rtol=1e-4, atol=1e-4)


RESIZES = ['mode="linear", antialias=1, axes=[-1,-2]', 'mode="cubic", antialias=1, axes=[1,0]',
           'mode="cubic", exclude_outside=1, axes=[1,0], coordinate_transformation_mode="half_pixel_symmetric"',
           'mode="linear", axes=[-1,0], coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=3.0']


@pytest.mark.parametrize("attributes", RESIZES)
@pytest.mark.parametrize("scales", [(0.6, 0.45), (1.7, 2.3)])
def test_resizing_is_onnxruntimes(attributes, scales):
    proto = model(f"g (float[9,11] x) => (float y) <float[2] s, float[4] r> {{ y = Resize<{attributes}>(x, r, s) }}",
                  opset=18, s=scales, r=(0.1, 0.2, 0.9, 1.1))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    feeds = {"x": np.random.default_rng(0).random((9, 11), np.float32)}
    (found,) = ReferenceEvaluator(proto, new_ops=OPERATORS).run(None, feeds)
    np.testing.assert_allclose(found, run_onnxruntime(proto, feeds)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize(("operator", "indices", "updates"), [
    ("ScatterElements<axis=0", (2, 3), (2, 3)), ("ScatterElements<axis=-1", (3, 2), (3, 2)),
    ("ScatterElements<axis=1", (0, 3), (0, 3)), ("ScatterND<", (5, 1), (5, 4)), ("ScatterND<", (2, 3, 2), (2, 3)),
    ("ScatterND<", (0, 2), (0,))])
def test_what_is_scattered_is_the_references(operator, indices, updates, reduction):
    rng = np.random.default_rng(0)
    found, expected = both(f"g (float x, int64 i, float u) => (float y) {{ y = {operator.rstrip('<')}"
                           f"{', ' if '=' in operator else '<'}reduction=\"{reduction}\">(x, i, u) }}",
                           x=rng.random((3, 4)).astype(np.float32), i=rng.integers(-3, 3, indices),
                           u=rng.random(updates).astype(np.float32))
    np.testing.assert_array_equal(found, expected)


def test_the_interpreter_tells_what_it_knows():
    names = {schema.name for schema in defs.get_all_schemas() if not schema.domain}
    known = {name for name in names if knows(name)}
    assert known >= {"Unique", "STFT", "HardSwish", "MeanVarianceNormalization"}
    assert known.isdisjoint({"LSTM", "GRU", "RNN", "MaxRoiPool", "Multinomial"})
