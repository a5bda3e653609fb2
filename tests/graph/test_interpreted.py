"""The interpreter's own operators against ONNX's reference implementation."""

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

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
