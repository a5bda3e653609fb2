"""What a kernel of several threads is taken to need, where other programs take processors from it."""

from dataclasses import replace

import pytest

from sparsec.backends.cpu.planning import largest_share, undisturbed
from sparsec.cost.option import Option, Work
from sparsec.cost.roofline import FORK_S
from sparsec.cost.tuning import SHARING
from sparsec.graph.layout import Tiled
from sparsec.kernels.cpu.products.spmm import SpmmParams
from sparsec.kernels.cpu.products.stencil import linear
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.emit.epilogue import Epilogue


@pytest.mark.parametrize(("together", "share", "least", "expected"), [
    (1.05, 1.0, 0.2, 1.05),
    (4.00, 1.0, 0.2, FORK_S + SHARING),  # another program had one of the processors
    (1.50, 1.0, 1.5, 1.50),  # both threads wait for the memory
    (9.00, 1.0, 1.5, FORK_S + SHARING * 1.5),
])
def test_times_of_several_threads_are_bounded_by_those_of_one(together, share, least, expected):
    assert undisturbed(together, share, least) == pytest.approx(expected)


@pytest.mark.parametrize(("tiles", "parts", "threads", "share"), [
    (1, 1, 2, 1.0), (1, 2, 2, 0.5), (3, 1, 2, 2 / 3), (8, 1, 3, 3 / 8)])
def test_the_thread_that_does_most_counts(tiles, parts, threads, share):
    tiling = Tiling(linear(Tiled(1, 16 * tiles, 8, 16), 4, 16), Epilogue(), "direct", 1, 8, parts=parts)
    option = Option("csr", "spmm/direct", "", SpmmParams(tiling), 0, Work(1, 1))
    assert largest_share(option, threads) == pytest.approx(share)
    assert largest_share(replace(option, params=None), threads) == 1.0
