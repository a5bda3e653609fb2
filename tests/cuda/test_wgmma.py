"""Wrong warp-group kernels are caught, and right ones are warp-group instructions in Hopper's machine code."""

import re
from dataclasses import replace

import pytest

from sparsec.kernels.cuda import eight_bits, tiles, wgmma
from sparsec.kernels.cuda.params import Gather, MmaParams, Tile, Window
from tests.support.cuda.emulator.emulate import EmulationError
from tests.support.cuda.products import is_caught, needs_compiler, run
from tests.support.cuda.sass import check_limits, instructions, needs_cuobjdump, needs_nvcc

GROUP = Tile(64, 64, 64, (4, 1), 3)
MANY_STAGES = MmaParams(64, 24, 392, GROUP)


WAIT = "wgmma.wait_group.sync.aligned"


def one_set_of_registers(source):
    """Fragments of two stages in a row in the same registers."""
    first, second = re.findall(r"alignas\(64\) uint (_ptr_\d+)\[8\];", source)[:2]
    return re.sub(rf"\b{second}\b", first, source.replace(f"alignas(64) uint {second}[8];", ""))


MUTANTS = {
    "no proxy fence": (lambda s: s.replace('asm volatile("fence.proxy.async.shared::cta;" :  :  : "memory");', ""),
                       "no fence.proxy.async has published"),
    "no wait at the end": (lambda s: re.sub(r"wgmma_finish_\w+_n\d+\(_ptr", r"if (0) \g<0>", s),
                           "ended before it waited"),
    "no group": (lambda s: s.replace('asm volatile("wgmma.commit_group.sync.aligned;" :  :  : "memory");', ""),
                 "may still read"),
    "products of two stages in flight": (lambda s: s.replace(f"{WAIT} 1;", f"{WAIT} 2;"), "product may still read"),
    "a stage that is filled too early": (lambda s: s.replace(" * 2) + 2) % 3", " * 2) + 3) % 3"), "may still read"),
    "one set of registers": (one_set_of_registers, "register of a fragment changed"),
}


@needs_compiler
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name):
    change, reason = MUTANTS[name]
    with pytest.raises(EmulationError, match=reason):
        run(MANY_STAGES, wgmma.SPARSE, mutate=change)


@needs_compiler
def test_another_stretch_of_k_is_caught():
    tails = MmaParams(100, 70, 136, GROUP)
    assert is_caught(tails, wgmma.SPARSE, mutate=lambda source: source.replace(" + 64)", " + 32)"))


BYTES = MmaParams(100, 70, 400, Tile(64, 64, 128, (4, 1), 3), dtype="int8")
METADATA = {
    "rows exchanged": lambda words: words.reshape(-1, 2)[:, ::-1].ravel(),
    "halves of K exchanged": lambda words: words.reshape(-1, 2, 2)[:, ::-1].ravel(),
    "lanes as of halves": lambda words: words.reshape(-1, 2, 2).swapaxes(1, 2).ravel(),
    "steps exchanged": lambda words: words.reshape(-1, 2, 32)[:, ::-1].ravel(),
}
"""Orders of the words of 2:4 bytes that no instruction has."""


@needs_compiler
@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_bytes_in_another_order_are_caught(name):
    assert is_caught(BYTES, eight_bits.SPARSE_GROUPS_INT8,
                     repack=lambda arrays: arrays | {"metadata": METADATA[name](arrays["metadata"])})


@needs_compiler
def test_a_selector_of_metadata_of_bytes_is_caught():
    with pytest.raises(EmulationError, match="no selector but 0"):
        run(BYTES, eight_bits.SPARSE_GROUPS_INT8, mutate=lambda source: source.replace("%37, 0, 1;", "%37, 1, 1;"))


WINDOW = Window((56, 56, 64), (3, 3), (56, 56), pads=(1, 1))
WIDEST = [tile for tile in tiles.WARP_GROUP_TILES if tile.columns == 256]  # those leave the fewest registers


@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize("tile", WIDEST, ids=str)
@pytest.mark.parametrize("family", [wgmma.DENSE, wgmma.SPARSE, eight_bits.SPARSE_GROUPS_INT8],
                         ids=["dense", "sparse", "sparse bytes"])
def test_gathered_windows_stay_within_limits(family, tile):
    p = MmaParams(256, 4 * 56 * 56, 9 * 64, tile, window=WINDOW, gather=Gather(9 * 64))
    if family.dtype:
        p = replace(p, dtype=family.dtype, tile=replace(tile, depth=2 * tile.depth), gather=Gather(9 * 64, 2))
    function = family.build(p, ())
    check_limits(function, tile.threads, family.shared_bytes(p), wgmma.ARCHITECTURE)
    assert instructions(function, wgmma.ARCHITECTURE, "MEMBAR.ALL.GPU") == 0  # a fence for shared memory alone
