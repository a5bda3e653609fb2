"""Models on a real GPU beside onnxruntime: `pytest -m gpu`."""

import threading

import numpy as np
import onnxruntime
import pytest

import sparsec
from sparsec.backends.cuda import driver
from sparsec.cost.option import HALF_PRECISIONS
from sparsec.graph import reader
from sparsec.graph.compare import random_feeds
from sparsec.machine.memory import CUDA, on_device
from sparsec.target import CUDA_ARCHS
from tests.support.cuda import networks
from tests.support.cuda.sass import needs_nvcc

GPU = driver.probe()
ARCH = "" if GPU is None or GPU.capability is None else "sm" + "".join(map(str, GPU.capability))
pytestmark = [pytest.mark.gpu, needs_nvcc,
              pytest.mark.skipif(ARCH.replace("sm", "sm_") not in CUDA_ARCHS,
                                 reason="there is no GPU that kernels are made for")]


def compiled(build, precision="fp16"):
    """A session of a network, its inputs, and what onnxruntime computes."""
    model = build()
    feeds = random_feeds(reader.load(model))
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, feeds)
    return sparsec.InferenceSession(sparsec.compile(model, f"cuda-{ARCH}", precision=precision)), feeds, expected


def check(found, expected, precision="fp16"):
    for mine, reference in zip(found, expected, strict=True):
        assert np.abs(mine - reference).max() <= HALF_PRECISIONS[precision] * np.abs(reference).max()


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
@pytest.mark.parametrize("build", [networks.transformer, networks.network])
def test_models_match_onnxruntime(build, precision):
    session, feeds, expected = compiled(build, precision)
    check(session.run(None, feeds), expected, precision)


def test_threads_have_answers_of_their_own():
    session, feeds, expected = compiled(networks.network)
    failures = []

    def work():
        try:
            for _ in range(200):
                check(session.run(None, feeds), expected)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_tensors_of_the_gpu_go_in_and_out():
    session, feeds, expected = compiled(networks.network)
    memory = on_device(CUDA)
    found = session.run_with_device(None, {name: memory.place(array) for name, array in feeds.items()})
    check([memory.fetch(each, frozenset()) for each in found], expected)
