"""A stem's kernel that writes the maxima of its image instead equals one after the other, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

from sparsec.backends.cpu.calls import call
from sparsec.kernels.cpu.images import pool_padded, pooled, stem_filtering
from sparsec.kernels.cpu.images.pool_padded import PoolParams
from sparsec.kernels.cpu.images.stem import StemProduct
from sparsec.kernels.cpu.images.stem_filtering import FAMILY
from sparsec.kernels.cpu.images.window import Window
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import resolve
from tests.support.padded import assert_same, padded, run_guarded
from tests.support.targets import TARGETS, compiled, isa

CASES = {  # image between, window, strides, (top, left) padding, output, threads
    "3x3/2 padded": ((25, 37), (3, 3), (2, 2), (1, 1), (13, 19), 3),
    "3x3/2 padded, of an even height": ((28, 36), (3, 3), (2, 2), (1, 1), (14, 18), 2),
    "3x3/2": ((31, 40), (3, 3), (2, 2), (0, 0), (15, 19), 2),
    "3x3/2 up to the end": ((30, 34), (3, 3), (2, 2), (0, 0), (15, 17), 3),
    "2x2/2": ((24, 66), (2, 2), (2, 2), (0, 0), (12, 33), 2),
    "2x3/1x2": ((13, 20), (2, 3), (1, 2), (0, 1), (12, 10), 2),
    "one run": ((3, 20), (3, 3), (2, 2), (1, 1), (2, 10), 1),
}


def problem(case, lanes, activation="clip"):
    """The layer with maxima behind, and its input."""
    (height, width), kernel, strides, begins, output, _ = CASES[case]
    shape, rng = (1, 2, 2 * height - 1, 2 * width - 1), np.random.default_rng(0)
    between = padded((1, 5, height, width), 0, lanes, clean=False)
    goal = padded((1, 5, *output), len(case) % 2, lanes, clean=len(case) % 2 > 0)
    weight, bias = rng.standard_normal((5, 2 * 5 * 5), "f4"), rng.standard_normal(5, "f4")
    layer = StemProduct(weight, bias, shape, between, (5, 5), (2, 2), (2, 2), Epilogue(activation, -1.0, 4.0),
                        Window(between, goal, kernel, strides, (1, 1), begins))
    return layer, rng.standard_normal(shape, "f4")


def options(layer, features):
    found = FAMILY.offers(layer, resolve("cpu"), features, "fp32")
    return [each for each in found if each.joined], [each for each in found if not each.joined]


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_stem_and_maxima(case, target, monkeypatch):
    monkeypatch.setattr(stem_filtering, "FAR_SHARE", 0.0)
    features = isa(target, CASES[case][-1])
    layer, x = problem(case, features.lanes)
    x[0, 0, 3, 5] = np.nan
    for joined in options(layer, features)[0][::3]:
        apart = replace(joined.params, pool=None)
        weights = stem_filtering.pack(layer.weight, apart)["weight"], layer.bias
        image = compiled(stem_filtering.build(apart, isa(target)), target)(*weights, x.ravel(), out=layer.target.size)
        expected = pool_padded.reference(image, PoolParams(layer.pool))
        kernel = call(layer, joined, features)
        result = run_guarded(kernel.kernel, target, *kernel.constants, x.ravel(), out=kernel.output.size)
        assert_same(result, expected, tolerance=0.0)


def test_every_thread_has_a_band(monkeypatch):
    monkeypatch.setattr(stem_filtering, "FAR_SHARE", 0.0)
    for case in CASES:
        for threads in (1, 2, 5):
            layer, _ = problem(case, 16)
            assert all(each.params.bands >= threads for each in options(layer, isa("cpu-avx512", threads))[0])


def test_images_that_stay_in_the_cache_are_written():
    joined, apart = options(problem("3x3/2", 16)[0], isa("cpu-avx512"))
    assert apart
    assert not joined


@pytest.mark.parametrize(("reason", "changed"), [
    ("activation", {}), ("several images", {"source": padded((2, 5, 8, 8), 0, 16)}), ("large", {"kernel": (7, 7)}),
    ("one row", {"kernel": (4, 4)}), ("one row", {"dilations": (2, 2)})])
def test_other_maxima_are_left_to_their_kernel(reason, changed):
    window = replace(problem("3x3/2", 16)[0].pool, **changed)
    assert reason in pooled.reject(window, "relu" if changed else "hard_swish")
