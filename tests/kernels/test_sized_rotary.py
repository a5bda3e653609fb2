"""Rotations at run-time sizes agree with numpy, for tables and views of every kind, on every instruction set."""

import numpy as np
import pytest

from sparsec.backends.cpu.build import build_kernels
from sparsec.kernels.cpu.tensors import sized_rotary
from sparsec.kernels.cpu.tensors.sized_rotary import SizedRotary
from sparsec.runtime.loading import load_code
from sparsec.runtime.sized.rotary import Rotary
from sparsec.target import resolve
from tests.support.targets import TARGETS, isa

CASES = {"tokens": (2, 3, 5, ()), "batch": (2, 3, 5, (2, 1)), "one batch": (2, 1, 1, (1, 1)), "none": (1, 2, 0, ())}
DEPTHS = 32, 6


@pytest.mark.parametrize("target", TARGETS)
def test_the_kernel_is_its_reference(target):
    kernels = {f"f{depth}{both}": sized_rotary.build(SizedRotary(depth, both), isa(target))
               for depth in DEPTHS for both in (False, True)}
    library = load_code(*build_kernels(kernels, resolve(target)))
    rng = np.random.default_rng(0)
    for batch, heads, tokens, lead in CASES.values():
        for depth in DEPTHS:
            x = rng.standard_normal((batch, tokens, heads, depth), np.float32).transpose(0, 2, 1, 3)
            for both in (False, True):
                tables = [rng.standard_normal((*lead, tokens, depth if both else depth // 2), np.float32)
                          for _ in range(2)]
                whole = tables if both else [np.concatenate([each, each], axis=-1) for each in tables]
                (y,) = Rotary(library[f"f{depth}{both}"]).run([x, *tables])
                np.testing.assert_allclose(y, sized_rotary.reference(x, *whole), rtol=1e-5, atol=1e-6)
