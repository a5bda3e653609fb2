"""Kernels whose partial sums wait in a buffer of their own, by rows that registers hold."""

from dataclasses import replace

import pytest

from sparsec.graph.layout import Tiled
from sparsec.kernels.cpu.codes import sparse
from sparsec.kernels.cpu.products import spmm, spmm_matched
from sparsec.target import resolve
from tests.support.family_checks import SMALL, check
from tests.support.layers import codes, images
from tests.support.targets import isa

ISA = isa("cpu", 1)
QUANTISED = codes(ISA.lanes, Tiled(1, 64, 400, 64), 20, 0.2, "uint8", False)
FLOATS = images(ISA.lanes, (1, 40, 20, 5, 40), 3, 1, 0.2, "none", False)


@pytest.mark.parametrize(("family", "case"), [
    (sparse.FAMILY, QUANTISED), (spmm.FAMILY, FLOATS), (spmm_matched.FAMILY, FLOATS)], ids=["codes", "rows", "matched"])
def test_sums_of_few_rows_in_flight_wait_from_chunk_to_chunk(family, case):
    options = family.offers(case.layer, replace(resolve("cpu"), **SMALL), ISA, "int8")
    waiting = [each for each in options if each.params.tiling.chunks > 1]
    fewest = min(waiting, key=lambda each: each.params.group)
    assert fewest.params.group <= 2
    check(family, case, fewest, ISA, "cpu")
