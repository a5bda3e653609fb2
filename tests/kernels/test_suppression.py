"""NonMaxSuppression chooses the boxes that onnxruntime chooses, in its order, for any sizes and limits."""

import numpy as np
import onnxruntime
import pytest

import sparsec
from sparsec.backends.cpu.build import build_kernels
from sparsec.graph.compare import run_onnxruntime
from sparsec.kernels.cpu.tensors import sized_suppression
from sparsec.kernels.emit.isa import isa_of
from sparsec.runtime.interpreted import NonMaxSuppression
from sparsec.runtime.loading import load_code
from sparsec.runtime.sized.suppression import Suppression
from sparsec.target import resolve
from tests.support.texts import model

INPUTS = {"m": "int64[1] m", "t": "float[1] t", "l": "float[1] l"}
ROUNDS = 12


def network(given, *, centred=False):
    """A model of the operator with some of its optional inputs."""
    listed = "".join(f", {INPUTS[name]}" for name in given)
    taken = ", ".join(name if name in given else "" for name in INPUTS).rstrip(", ")
    return model(f"g (float[B,N,4] b, float[B,C,N] s{listed}) => (int64[K,3] y) {{ y = NonMaxSuppression"
                 f"<center_point_box={int(centred)}>(b, s{', ' if taken else ''}{taken}) }}")


def feeds_of(rng, given):
    """Boxes and scores with ties, boxes that touch, that are turned around and that are empty, and limits they meet."""
    batches, classes, count = (int(rng.integers(1, most)) for most in (3, 4, 90))
    boxes = (np.round(rng.random((batches, count, 4)) * 8) / 8 if rng.random() < 0.5 else
             10 * rng.random((batches, count, 4)))
    scores = np.round(rng.random((batches, classes, count)) * rng.choice([4, 1e6])) / 4
    limits = {"m": np.array([rng.choice([0, 1, 7, 1000])]), "t": np.array([rng.choice([0, 0.5, 0.7, 1])], np.float32),
              "l": np.array([rng.choice([-1, 0, 0.25, 0.5])], np.float32)}
    return {"b": boxes.astype(np.float32), "s": scores.astype(np.float32), **{name: limits[name] for name in given}}


@pytest.fixture(scope="module", params=["cpu", "cpu-avx2", "cpu-generic"])
def kernel(request):
    target = resolve(request.param)
    library, objects = build_kernels({"suppression": sized_suppression.build(isa_of(target))}, target)
    return load_code(library, objects)["suppression"]


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("given", ["mtl", "mt", "ml", "m", "t", ""])
def test_the_boxes_are_onnxruntimes(kernel, given, centred):
    session = onnxruntime.InferenceSession(network(given, centred=centred).SerializeToString())
    step, rng = Suppression(kernel, centred=centred), np.random.default_rng(len(given))
    for _ in range(ROUNDS):
        feeds = feeds_of(rng, given)
        (expected,) = session.run(None, feeds)
        arrays = [feeds.get(name) for name in "bsmtl"]
        (found,) = step.run(arrays)
        np.testing.assert_array_equal(found, expected)
        with np.errstate(all="ignore"):
            (alike,) = NonMaxSuppression._run(None, *arrays, center_point_box=int(centred))
        np.testing.assert_array_equal(alike, expected)


@pytest.mark.parametrize("dims", [{}, {"B": 1, "N": 24, "C": 2}], ids=["any", "fixed"])
def test_artifacts_of_any_and_of_fixed_sizes_call_the_kernel(dims):
    proto = network("mtl")
    artifact = sparsec.compile(proto, dims=dims, tune="off", strict=True)
    assert not artifact.report["outside"]
    session, rng = sparsec.InferenceSession(artifact), np.random.default_rng(0)
    feeds = {"b": rng.random((1, 24, 4), np.float32), "s": rng.random((1, 2, 24), np.float32),
             "m": np.array([5]), "t": np.array([0.3], np.float32), "l": np.array([0.2], np.float32)}
    np.testing.assert_array_equal(session.run(None, feeds)[0], run_onnxruntime(proto, feeds)[0])
    if not dims:
        feeds["b"], feeds["s"] = rng.random((3, 7, 4), np.float32), rng.random((3, 0, 7), np.float32)
        assert session.run(None, feeds)[0].shape == (0, 3)
        with pytest.raises(sparsec.SparsecError, match="7 in input 'b' and 9 in input 's'"):
            session.run(None, {**feeds, "s": rng.random((3, 2, 9), np.float32)})
