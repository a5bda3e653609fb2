"""Warp-group kernels equal numpy exactly on the emulator, and are warp-group instructions in Hopper's machine code."""

import re
from dataclasses import replace
from functools import partial

import pytest

from sparsec.errors import FormatError
from sparsec.kernels.cuda import tiles, wgmma_dense, wgmma_sp
from sparsec.kernels.cuda.params import Gather, MmaParams, Tile, Window
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.emulator.emulate import EmulationError
from tests.support.cuda.products import is_caught, needs_compiler, run
from tests.support.cuda.sass import check_limits, instructions, needs_cuobjdump, needs_nvcc

FAMILIES = {"sparse": wgmma_sp, "dense": wgmma_dense}
SMALL = Tile(64, 64, 64, (4, 1), 3)
PRODUCTS = {
    "aligned": MmaParams(64, 64, 128, SMALL),
    "tails": MmaParams(100, 70, 136, SMALL, epilogue=Epilogue("relu", residual=True)),
    "more stages than memory": MmaParams(64, 24, 392, SMALL),
    "one stage": MmaParams(64, 24, 60, SMALL),
    "two groups": MmaParams(150, 16, 200, Tile(128, 16, 64, (8, 1), 3), dtype="bfloat16", out="float32"),
    "shares of K": MmaParams(64, 24, 380, SMALL, split_k=2),
    "gathered pairs": MmaParams(64, 20, 100, SMALL, gather=Gather(132, 2)),
    "a convolution": MmaParams(64, 16, 9 * 16, SMALL, window=Window((4, 4, 16), (3, 3), (4, 4), pads=(1, 1))),
}


@needs_compiler
@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_products_are_exact(family, name):
    assert run(PRODUCTS[name], FAMILIES[family], seeds=range(2))[0] == 0


@needs_compiler
@pytest.mark.parametrize("tile", tiles.WARP_GROUP_TILES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tile_is_exact(family, tile):
    assert run(MmaParams(tile.rows + 8, tile.columns + 3, 200, tile), FAMILIES[family])[0] == 0


WAIT = "wgmma.wait_group.sync.aligned"


def one_set_of_registers(source):
    """Fragments of two stages in a row in the same registers."""
    first, second = re.findall(r"alignas\(64\) uint (_ptr_\d+)\[8\];", source)[:2]
    return re.sub(rf"\b{second}\b", first, source.replace(f"alignas(64) uint {second}[8];", ""))


MUTANTS = {
    "no proxy fence": (lambda s: s.replace('asm volatile("fence.proxy.async.shared::cta;" :  :  : "memory");', ""),
                       "no fence.proxy.async has published"),
    "no wait at the end": (lambda s: re.sub(r"wgmma_finish_n\d+\(_ptr", r"if (0) \g<0>", s), "ended before it waited"),
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

    def mutate(source):
        mutant = change(source)
        assert mutant != source
        return mutant

    with pytest.raises(EmulationError, match=reason):
        run(PRODUCTS["more stages than memory"], wgmma_sp, mutate=mutate)


@needs_compiler
def test_another_stretch_of_k_is_caught():
    assert is_caught(PRODUCTS["tails"], wgmma_sp, mutate=lambda source: source.replace(" + 64)", " + 32)"))


@pytest.mark.parametrize(("change", "reason"), [
    ({"layout": "kn"}, "tokens first"),
    ({"tile": replace(SMALL, depth=128)}, "128 bytes deep"),
    ({"tile": replace(SMALL, warps=(2, 2))}, "four warps"),
    ({"tile": replace(SMALL, stages=2)}, "one that arrives"),
    ({"k": 192, "split_k": 2}, "equal shares"),
    ({"tile": Tile(256, 64, 64, (16, 1), 3), "gather": Gather(64)}, "more registers"),
])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_products_are_refused(family, change, reason):
    with pytest.raises(FormatError, match=reason):
        FAMILIES[family].build(replace(PRODUCTS["aligned"], **change))


WINDOW = Window((56, 56, 64), (3, 3), (56, 56), pads=(1, 1))
WIDEST = 256  # those tiles leave the fewest registers
MANY = {
    "tokens": partial(MmaParams, 4096, 4096, 4096, epilogue=Epilogue("relu", residual=True)),
    "gathered windows": partial(MmaParams, 256, 4 * 56 * 56, 9 * 64, window=WINDOW, gather=Gather(9 * 64)),
}


@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize(("name", "tile"), [
    pytest.param(name, tile, id=f"{name}, {tile}") for name in MANY for tile in tiles.WARP_GROUP_TILES
    if name == "tokens" or tile.columns == WIDEST])
@pytest.mark.parametrize("family", FAMILIES)
def test_machine_code_is_warp_group_instructions(family, name, tile):
    p = MANY[name](tile)
    function = FAMILIES[family].build(p)
    check_limits(function, tile.threads, FAMILIES[family].shared_bytes(p), "sm_90a")
    stages = 2 + p.k_tiles % 2  # copies of the loop's body, and what remains
    count = partial(instructions, function, "sm_90a")
    assert count("HGMMA") == stages * (2 if family == "sparse" else 4)
    assert count("HGMMA.SP") == (count("HGMMA") if family == "sparse" else 0)
    assert count("MEMBAR.ALL.GPU") == 0  # a fence for shared memory alone
