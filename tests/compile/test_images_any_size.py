"""Networks on images of any height and width, and sequences of any length, run on kernels and are right."""

import numpy as np
import pytest

import sparsec
from sparsec.graph.compare import relative_error, run_onnxruntime
from tests.support.decoders import RNG
from tests.support.images import NETWORKS, network, quantised


def test_quantised_networks_compute_on_codes():
    model = quantised()
    artifact = sparsec.compile(model, tune="off", threads=1)
    assert artifact.report["outside"] == []
    assert all(layer["kernel"].startswith("q") for layer in artifact.report["layers"])
    session = sparsec.InferenceSession(artifact)
    for shape in ((1, 3, 21, 34), (1, 3, 5, 4)):
        x = RNG.standard_normal(shape, np.float32)
        for _ in range(2):
            assert relative_error(session.run(None, {"x": x})[0], run_onnxruntime(model, {"x": x})[0]) < 1e-2


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_run_them_at_every_size(name):
    model, shapes = network(name)
    artifact = sparsec.compile(model, tune="off", threads=1)
    assert artifact.report["outside"] == []
    session = sparsec.InferenceSession(artifact)
    for shape in shapes:
        x = RNG.standard_normal(shape, np.float32)
        expected = run_onnxruntime(model, {"x": x})
        for _ in range(2):  # the first call of a size, and the others
            assert relative_error(session.run(None, {"x": x})[0], expected[0]) < 1e-5
