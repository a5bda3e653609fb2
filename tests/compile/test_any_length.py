"""Recurrent layers of any number of steps and members: one artifact is right at every size, with kernels for all."""

import functools

import numpy as np
import pytest

import sparsec
from sparsec.graph.compare import relative_error, run_onnxruntime
from tests.support import texts
from tests.support.recurrent import NETWORKS, feeds_of, network

SIZES = [(1, 1), (5, 1), (4, 3), (3, 21), (0, 2), (2, 0), (7, 4)]


def check(model, session, steps, batch, seed):
    feeds = feeds_of(model, steps, batch, seed)
    for own, expected in zip(session.run(None, feeds), run_onnxruntime(model, feeds), strict=True):
        assert own.shape == expected.shape
        assert relative_error(own, expected) < 1e-5, (steps, batch)


@functools.cache
def compiled(name):
    return sparsec.compile(NETWORKS[name], tune="off", verify=False, threads=1 + len(name) % 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_is_right_at_every_size(name):
    model, artifact = NETWORKS[name], compiled(name)
    assert artifact.report["outside"] == []
    assert {row["rows"] for row in artifact.report["layers"] if ".steps" in row["layer"]} == {1, 4, 16, 64}
    session = sparsec.InferenceSession(artifact)
    for seed, sizes in enumerate([*SIZES, *reversed(SIZES)]):
        if sizes[0] and sizes[1]:
            check(model, session, *sizes, seed)
        else:  # which onnxruntime refuses
            shapes = [array.shape for array in session.run(None, feeds_of(model, *sizes))]
            assert shapes[0][0] == sizes[0]
            assert all(shape[1] == sizes[1] for shape in shapes[1:])


def test_results_by_steps_are_the_same():
    model = NETWORKS["lstm with everything"]
    session = sparsec.InferenceSession(compiled("lstm with everything"))
    feeds, runner = feeds_of(model, 6, 5), session._sized.runner()
    by_steps = runner(feeds, range(3), [])
    assert all(np.array_equal(*pair) for pair in zip(by_steps, session.run(None, feeds), strict=True))


def test_what_kernels_cannot_do_is_named_and_right():
    model = network("GRU", "bidirectional", lengths=True, states=True, activations=["Softsign", "Elu"] * 2)
    artifact = sparsec.compile(model, tune="off", verify=False)
    assert {row["operator"] for row in artifact.report["outside"]} >= {"Scan"}
    for sizes in ((4, 3), (1, 1), (7, 5)):
        check(model, sparsec.InferenceSession(artifact), *sizes, 0)


def test_batches_may_come_first():
    model = network("LSTM", "bidirectional", states=True)
    other = network("LSTM", "bidirectional", states=True, layout=1)
    artifact = sparsec.compile(other, tune="off")
    assert artifact.report["outside"] == []
    session = sparsec.InferenceSession(artifact)
    for steps, batch in ((5, 3), (1, 1), (2, 17)):
        feeds = feeds_of(model, steps, batch)
        expected = run_onnxruntime(model, feeds)
        found = session.run(None, {name: np.ascontiguousarray(array.swapaxes(0, 1)) for name, array in feeds.items()})
        for own, wanted, axes in zip(found, expected, ((2, 0, 1, 3), (1, 0, 2), (1, 0, 2)), strict=True):
            assert relative_error(own, wanted.transpose(axes)) < 1e-5


FRONT_ENDS = {"of the same length": "pads = [2, 2]", "shorter": "dilations = [2]",
              "of half the length": "strides = [2], pads = [2, 2]"}


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_a_layer_behind_a_convolution_has_kernels(name):
    rng = np.random.default_rng(0)
    proto = texts.model(f"""g (float[batch,6,length] x) => (float[s,1,b,10] y)
        <float[12,6,5] k, float[1,30,12] w, float[1,30,10] r> {{
            c = Conv<{FRONT_ENDS[name]}>(x, k)
            t = Transpose<perm = [2, 0, 1]>(c) y = GRU<hidden_size = 10>(t, w, r) }}""",
                        k=rng.standard_normal((12, 6, 5)), w=rng.standard_normal((1, 30, 12)),
                        r=rng.standard_normal((1, 30, 10)))
    artifact = sparsec.compile(proto, tune="off")
    assert artifact.report["outside"] == []
    session = sparsec.InferenceSession(artifact)
    for batch, length in ((1, 9), (3, 20), (1, 9)):
        x = rng.standard_normal((batch, 6, length), np.float32)
        (own,), (expected,) = session.run(None, {"x": x}), run_onnxruntime(proto, {"x": x})
        assert relative_error(own, expected) < 1e-5
