"""Floats at run-time sizes have layers of 8 bits on GPUs, by samples: emulated, beside onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from sparsec.backends.cuda.backend import CudaBackend
from sparsec.kernels.cuda.families import FAMILIES
from sparsec.report.explain import explain
from tests.support.cuda import networks
from tests.support.cuda.emulator import emulate
from tests.support.cuda.sized import Compiled

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")


@pytest.fixture(autouse=True)
def eight_bits(monkeypatch):
    """Layers that may have 8 bits have them, which small ones would not choose."""
    monkeypatch.setattr(networks, "RNG", np.random.default_rng(0))
    every = CudaBackend.offers

    def offers(self, node, job):
        options, reasons = every(self, node, job)
        return [each for each in options if FAMILIES[each.family].dtype] or options, reasons

    monkeypatch.setattr(CudaBackend, "offers", offers)


def texts(batch, tokens, seed=0):
    return {"ids": np.random.default_rng(seed).integers(0, 50, (batch, tokens)), "mask": np.ones((batch, tokens), int)}


def images(*sizes, seed=0):
    batch, height, width = sizes
    return {"x": np.random.default_rng(seed).standard_normal((batch, 4, height, width)).astype(np.float32)}


def convolutional():
    """Windows of images of any size, with zeros around them, a transposed convolution, and what is joined to each."""
    g = networks.Graph()
    x = g("Relu", g.conv(g("Relu", g.conv("x", 16, 4, 3, stride=2)), 16, 16, 1))
    g("ConvTranspose", x, g.constant(g.random(16, 4, 2, 2)), g.constant(g.random(4)), strides=[2, 2], name="y")
    return g.model({"x": (TensorProto.FLOAT, ["n", 4, "h", "w"])}, {"y": ["n", 4, "p", "q"]})


TEXTS = networks.symbolic(networks.transformer(), "batch", "sequence"), texts, (4, 40), ((1, 1), (2, 10))
IMAGES = convolutional(), images, (2, 33, 20), ((1, 9, 8), (2, 16, 5))


@pytest.mark.parametrize(("model", "feeds_of", "sample", "sizes", "precision", "target", "limit"), [
    (*TEXTS, "int8", "cuda-sm80", 0.05), (*TEXTS, "fp8", "cuda-sm90", 0.1),
    (*IMAGES, "int8", "cuda-sm80", 0.05), (*IMAGES, "fp8", "cuda-sm89", 0.1)])
def test_samples_give_layers_8_bits_for_every_number_of_rows(
        model, feeds_of, sample, sizes, precision, target, limit):
    compiled = Compiled(model, target, precision=precision, inputs=feeds_of(*sample))
    rows = compiled.artifact.report["layers"]
    assert {row["rows"] for row in rows} == {1, 16, 128, 1024}
    assert all(row["kernel"].endswith(precision) and 0 < row["error"] < limit for row in rows)
    errors = {row["layer"]: set() for row in rows}
    for row in rows:
        errors[row["layer"]].add(row["error"])
    assert all(len(each) == 1 for each in errors.values())  # of one range, whatever the number of rows
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for size in sizes:
        feeds = feeds_of(*size, seed=1)
        (mine,), (reference,) = compiled(feeds), session.run(None, feeds)
        assert np.abs(mine - reference).max() <= 2 * limit * np.abs(reference).max()


def test_images_of_any_number_are_calibrated():
    model = networks.symbolic(networks.network(), "batch")
    x = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    compiled = Compiled(model, "cuda-sm80", precision="int8", inputs={"x": x})
    layers = {row["layer"] for row in compiled.artifact.report["layers"]}
    told = {row["layer"] for row in compiled.artifact.report["layers"] if row["error"] is not None}
    assert len(layers - told) <= 1  # the stem has an odd number of channels
    reference = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    assert np.abs(compiled({"x": x})[0] - reference).max() <= 0.1 * np.abs(reference).max()


def test_explanations_are_calibrated_too_and_say_what_is_missing_without_samples():
    model = networks.symbolic(networks.transformer(), "batch", "sequence")
    found = explain(model, "cuda-sm80", precision="int8", inputs=texts(2, 40))
    assert found.sizes == {"batch": 2, "sequence": 40}
    assert {row.kernel for row in found.any_size.rows} <= {"mma int8", "mma.sp int8"}
    rows = Compiled(model, "cuda-sm80", precision="int8").artifact.report["layers"]
    assert {row["widened"] for row in rows if row["kernel"] != "gaps int8"} == {
        "no samples tell the range of its activations; give real inputs"}
