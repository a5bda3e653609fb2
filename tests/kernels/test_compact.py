"""Which images have kernels that multiply pixels alone, and what such a kernel reads and writes around them."""

from dataclasses import replace

import numpy as np
import pytest

from sparsec.backends.cpu.calls import call
from sparsec.kernels.cpu.images.padded import padded_rows, pixels
from sparsec.kernels.cpu.products.spmm_compact import FAMILY, places
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import resolve
from tests.support.layers import images
from tests.support.padded import run_guarded
from tests.support.targets import isa

TARGET = "cpu-avx512"


def case_of(height, width, batch=1, *, residual=False):
    return images(16, (batch, 6, 8, height, width), 3, 1, 0.4, "relu", residual)


def offered(layer, *, halves=False, threads=1):
    return FAMILY.offers(layer, resolve(TARGET), replace(isa(TARGET, threads), halves=halves), "fp32")


@pytest.mark.parametrize(("size", "batch", "reason"), [
    ((4, 4), 1, None), ((2, 8), 1, None), ((2, 2), 2, None), ((3, 5), 1, None),
    ((5, 4), 1, "one vector holds"), ((16, 1), 1, "one vector holds"), ((1, 9), 1, "takes no time"),
    ((2, 2), 1, "takes no time")])
def test_images_of_one_vector_whose_rows_take_more(size, batch, reason):
    found = offered(case_of(*size, batch).layer)
    assert reason in found if reason else not isinstance(found, str)


def test_half_a_vector_is_less_where_the_processor_does_it_faster():
    layer = case_of(2, 2).layer
    wide = replace(layer.target, row_stride=8)
    apart = replace(layer, target=wide, stencil=replace(layer.stencil, tail=6))
    assert not isinstance(offered(apart, halves=True), str)
    assert isinstance(offered(apart, halves=False), str)


def test_residuals_and_groups_are_left_to_others():
    assert "residuals" in offered(case_of(4, 4, residual=True).layer)
    assert "groups" in offered(replace(case_of(4, 4).layer, groups=2))


@pytest.mark.parametrize("threads", [1, 3])
def test_an_unclean_output_has_nothing_else_written(threads):
    case = case_of(4, 4)
    target = replace(case.layer.target, clean=False)
    layer = replace(case.layer, target=target, epilogue=Epilogue(), stencil=replace(case.layer.stencil, masked=False))
    kernel = call(layer, offered(layer, threads=threads)[0], isa(TARGET, threads))
    y = run_guarded(kernel.kernel, TARGET, *kernel.constants, *case.inputs, out=layer.output.size)
    expected = layer.weight @ case.columns[:, places(target)] + layer.bias[:, None]
    np.testing.assert_allclose(pixels(y, padded_rows(target))[0].reshape(8, -1), expected, rtol=1e-4, atol=1e-4)
    assert np.isnan(y[:target.origin]).all()
