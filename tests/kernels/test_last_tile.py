"""A last tile of the vectors that the others leave computes what an overlapping one does, and no pixel twice."""

from dataclasses import replace

import pytest

from sparsec.graph.layout import PaddedFlat, Tiled
from sparsec.kernels.cpu.products import spmm, tilings
from sparsec.kernels.cpu.products.stencil import convolution, linear
from sparsec.target import resolve
from tests.support.family_checks import SMALL, check
from tests.support.layers import over
from tests.support.targets import TARGETS, isa


def bare(lanes, outputs, side=14):
    """An image without anything between its pixels: of 14 x 14 the last vector is not half full."""
    return PaddedFlat(1, outputs, side, side, 0, side, lanes, clean=False)


CASES = {  # lanes -> geometry, layout of the output, residual
    "an image": lambda lanes: (convolution(bare(lanes, 40), bare(lanes, 24), (1, 1), (1, 1), (0, 0)), None, True),
    "tokens": lambda lanes: (linear(Tiled(1, 5 * lanes - 3, 50, 5 * lanes), 30, lanes), None, False),
    "an image with borders": lambda lanes: (convolution(
        *(PaddedFlat(1, count, 11, 13, 1, 15, lanes) for count in (20, 16)), (1, 1), (1, 1), (0, 0)),
        PaddedFlat(1, 16, 11, 13, 1, 15, lanes), False),
}


def options(stencil, layout, residual, target, threads):
    """A case and its kernels with such a tile, one for every width, mode and number of chunks."""
    case, features = over(stencil, layout, 0.3, "relu", residual), isa(target, threads)
    case = replace(case, layer=replace(case.layer, target=layout))
    found = spmm.FAMILY.offers(case.layer, replace(resolve(target), **SMALL), features, "fp32")
    kinds = {(t.vectors, t.mode, t.turns): each for each in found for t in [each.params.tiling] if t.ends}
    return case, features, kinds


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_last_tiles(case, target, threads):
    layer, features, kinds = options(*CASES[case](isa(target).lanes), target, threads)
    assert kinds
    for option in kinds.values():
        check(spmm.FAMILY, layer, option, features, target)


def test_tiles_that_come_out_even_have_no_such_last_one():
    image = bare(16, 8, side=28)
    stencil = convolution(image, image, (1, 1), (1, 1), (0, 0))
    assert stencil.vectors == 49
    assert 7 not in tilings.ending(stencil)
    assert tilings.ending(replace(stencil, segments=2)) == []
    *_, kinds = options(*CASES["an image"](16), "cpu-avx512", 1)
    assert {sum(t.params.tiling.last.widths) % 16 for t in kinds.values()} == {8 * isa("cpu-avx512").halves}
    assert all(t.params.tiling.busy_vectors * t.params.tiling.tiles <= 13 for t in kinds.values())
