"""Random networks of symbolic dimensions compute what onnxruntime computes at random sizes, 0 and 1 among them.

`SPARSEC_FUZZ_EXAMPLES` sets how many networks are tried.
"""

import os

import numpy as np
import pytest

import sparsec
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.target import machine_features, resolve
from tests.support.random_sizes import WIDTH, network

EXAMPLES = int(os.environ.get("SPARSEC_FUZZ_EXAMPLES", "4"))
TARGETS = [name for name in ("cpu", "cpu-avx2", "cpu-generic") if resolve(name).features <= machine_features()]
SIZES = [(1, 1), (0, 3), (1, 4), (3, 7)]


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_one_artifact_is_right_at_every_size(seed):
    model, rng = network(seed), np.random.default_rng(seed)
    artifact = sparsec.compile(model, target=TARGETS[seed % len(TARGETS)], tune="off", verify=False,
                               threads=1 + seed % 2)
    session = sparsec.InferenceSession(artifact)
    sizes = [*SIZES, (int(rng.integers(1, 4)), int(rng.integers(8, 90)))]
    for batch, tokens in [*sizes, *reversed(sizes)]:  # the second time what the first has worked out is repeated
        feeds = {name: rng.standard_normal((batch, tokens, WIDTH), np.float32) for name in ("x", "z")}
        expected = run_onnxruntime(model, feeds)
        errors = [relative_error(*pair) for pair in zip(session.run(None, feeds), expected, strict=True)]
        assert max(errors) < 1e-4, (batch, tokens, errors)
