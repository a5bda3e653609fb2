"""What products ask the cache for in time, because it no longer holds it."""

from dataclasses import replace

import pytest

from sparsec.backends.cpu.calls import call
from sparsec.graph.layout import Tiled
from sparsec.kernels.cpu.products import spmm, spmm_matched, spmm_pairs
from sparsec.target import resolve
from tests.support.layers import tiles
from tests.support.targets import isa

TARGET, ISA = replace(resolve("cpu-avx512"), l1_bytes=32 << 10, l2_bytes=1 << 20), isa("cpu-avx512")


def asked_for(family, tokens, residual):
    """The buffers that the kernel of most chunks prefetches, but for its weight."""
    case = tiles(16, Tiled(1, tokens, 768, 64), 768, "2:4", "none", residual)
    options = [each for each in family.offers(case.layer, TARGET, ISA, "fp32") if "direct" in each.kernel]
    kernel = call(case.layer, max(options, key=lambda each: each.params.tiling.chunks), ISA).kernel.script()
    lines = [line for line in kernel.splitlines() if "llvm.prefetch" in line]
    return {name for name in ("x", "y", "residual") for line in lines if f"{name}[" in line}


@pytest.mark.parametrize("family", [spmm.FAMILY, spmm_pairs.FAMILY, spmm_matched.FAMILY],
                         ids=["rows", "pairs", "matched"])
@pytest.mark.parametrize(("tokens", "residual", "expected"), [
    (128, False, {"x", "y"}), (128, True, {"x", "y", "residual"}), (64, True, set())])
def test_layers_ask_for_activations_that_fill_half_of_the_l2_cache(family, tokens, residual, expected):
    assert asked_for(family, tokens, residual) == expected
