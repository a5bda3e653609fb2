"""A small network with a single right answer, and that answer from a session of its own."""

import gc
import weakref

import numpy as np

import sparsec
from sparsec.runtime.sized.kernels import Kernels
from tests.support.texts import model

NETWORK = model("g (float[1,3,16,16] x) => (float[1,5] y) <float[8,3,3,3] w, float[8,8,3,3] v, float[8,5] u>"
                "{ a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) c = Conv<strides=[2,2]>(b, v) p = GlobalAveragePool(c)"
                "f = Flatten(p) y = MatMul(f, u) }")
X = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)


def answer(artifact, calls=1):
    """The bytes of the output, the same in every call."""
    session = sparsec.InferenceSession(artifact)
    outputs = {session.run(None, {"x": X})[0].tobytes() for _ in range(calls)}
    assert len(outputs) == 1
    return outputs.pop()


def go_with(sessions):
    """Whether the kernels and weights of the one session for run-time sizes in a list go when it is closed and taken.

    Without the collector of garbage: nothing refers to itself.
    """
    kernels = weakref.ref(next(each for each in gc.get_objects() if isinstance(each, Kernels)
                               and each._tensors is sessions[0]._sized._tensors))
    gc.disable()
    try:
        sessions.pop().close()
        return kernels() is None
    finally:
        gc.enable()
