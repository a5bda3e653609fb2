"""Attention at run-time sizes agrees with numpy, for views and masks of every kind, on every instruction set."""

import numpy as np
import pytest

from sparsec.backends.cpu.build import build_kernels
from sparsec.graph.sized import MASK, ROUND, SCALE, WEIGHTS
from sparsec.kernels.cpu.tensors import sized_attention
from sparsec.kernels.cpu.tensors.sized_attention import SizedAttention
from sparsec.runtime.loading import load_code
from sparsec.runtime.sized.attention import Attention
from sparsec.target import resolve
from tests.support.targets import TARGETS, isa

CASES = {  # batch, heads, groups, tokens, keys, the mask's shape
    "one": (1, 4, 4, 1, 1, None), "groups": (2, 6, 2, 5, 37, (5, 37)),
    "keys alone": (1, 2, 1, 1, 100, (1, 1, 1, 100)),
    "rows alone": (2, 3, 3, 7, 32, (2, 1, 7, 1)), "no tokens": (1, 2, 2, 0, 3, None),
    "whole": (1, 1, 1, 3, 16, (3, 16))}
ROUNDED = (ROUND, MASK, SCALE, ROUND, WEIGHTS)
"""Scores are rounded to codes before the mask and behind it, their weights at last."""
LEVELS = np.array([4.0, -100, 155, 0.25, 0.9, 5.0, -128, 127, 0.2, 255, 0, 255, 1 / 255], np.float32)
SHAPES = (8, 8, 1, ()), (32, 24, 2, ()), (16, 8, 1, ROUNDED)  # depth, width, threads, steps


@pytest.fixture(scope="module", params=TARGETS)
def kernels(request):
    built = {f"{p}": (sized_attention.build(SizedAttention(*p[:2], 0.3, p[3]), isa(request.param, p[2])))
             for p in SHAPES}
    library = load_code(*build_kernels({f"f{i}": kernel for i, kernel in enumerate(built.values())},
                                       resolve(request.param)))
    own = isa(request.param)
    return [Attention(library[f"f{i}"], depth, width, sized_attention.padded(1, own), sized_attention.heights(own)[0],
                      threads) for i, (depth, width, threads, _) in enumerate(SHAPES)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", range(len(SHAPES)), ids=map(str, SHAPES))
def test_the_kernel_is_its_reference(kernels, number, case):
    batch, heads, groups, tokens, keys, shape = CASES[case]
    depth, width, _, steps = SHAPES[number]
    rng = np.random.default_rng(0)
    q = rng.standard_normal((batch, tokens, heads, depth), np.float32).transpose(0, 2, 1, 3)
    k = rng.standard_normal((batch, groups, keys + 5, depth), np.float32)[:, :, :keys]
    v = rng.standard_normal((batch, groups, width, keys), np.float32).swapaxes(2, 3)
    mask = None if shape is None else rng.standard_normal(shape, np.float32)
    for array in (k, mask):
        if array is not None and case == "whole":
            array.flags.writeable = False
    if steps and mask is None:
        mask = np.zeros((1, 1, tokens, keys), np.float32)
    params = SizedAttention(depth, width, 0.3, steps)
    (y,) = kernels[number].run([q, k, v, mask, *([LEVELS] if steps else [])])
    # a score between two codes may take either, and move its weight by one, too
    error = {"atol": 4 / 255} if steps else {"rtol": 2e-5, "atol": 2e-6}
    np.testing.assert_allclose(y, sized_attention.reference(q, k, v, mask, params, LEVELS), **error)
