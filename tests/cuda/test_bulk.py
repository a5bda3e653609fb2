"""Products by specialised warps: exact whatever the blocks, wrong ones are caught, machine code within limits."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sparsec.kernels.cuda import eight_bits, specialised, wgmma, wgmma_bulk
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.cuda.params import MmaParams, Tile
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.emulator.emulate import EmulationError
from tests.support.cuda.products import FINISH, is_caught, needs_compiler, run
from tests.support.cuda.sass import check_limits, cubin, instructions, needs_cuobjdump, needs_nvcc

TILE = Tile(64, 64, 64, (4, 1), 3)
TAILS = MmaParams(100, 70, 328, TILE, epilogue=FINISH)
FAMILIES = {"2:4": wgmma_bulk.SPARSE, "dense": wgmma_bulk.DENSE}
BYTES = {family.name: family for family in (eight_bits.SPARSE_BULK_INT8, eight_bits.BULK_INT8,
                                            eight_bits.SPARSE_BULK_FP8, eight_bits.BULK_FP8)}


@needs_compiler
@pytest.mark.parametrize("blocks", [1, 3, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_tiles_are_dealt_to_blocks(name, blocks):
    p = replace(TAILS, dtype="bfloat16", out="bfloat16") if blocks == 1 else TAILS
    assert run(p, FAMILIES[name], seeds=range(3), blocks=blocks)[0] == 0


@pytest.mark.parametrize(("tiles", "blocks"), [(1, 1), (132, 132), (133, 67), (200, 100), (2048, 128)])
def test_blocks_take_equal_shares(tiles, blocks):
    assert specialised.dealt(MmaParams(64 * tiles, 8, 64, TILE)) == blocks


@pytest.mark.parametrize(("change", "reason"), [
    ({"k": 100}, "multiple of 16 bytes"), ({"split_k": 2}, "do not share K"),
    ({"dtype": "int8", "k": 400, "tile": replace(TILE, depth=128)}, "2-byte"),
    ({"tile": Tile(64, 32, 64, (2, 2), 3)}, "64 rows and all columns")])
def test_what_is_refused_says_why(change, reason):
    assert reason in wgmma_bulk.SPARSE.refuses(replace(TAILS, **change))


WAIT = "wgmma.wait_group.sync.aligned 1;"
MUTANTS = {
    "a stage that is released before its products have ended": (
        lambda s: s.replace(WAIT, WAIT.replace("1", "2")), "may still read"),
    "no wait for the copies": (
        lambda s: re.sub(r"mbarrier_has_ended\((\w+), [^;^]*\);", r"\1[0] = 1;", s),
        "still filling|nobody wrote"),
    "no wait for the release": (
        lambda s: re.sub(r"mbarrier_has_ended\((\w+), [^;]*\^[^;]*\);", r"\1[0] = 1;", s), "more arrivals|under way"),
    "bytes that never come": (
        lambda s: re.sub(r"(expect_tx\w*\([^;]*\(uint\))(\d+)\);", lambda m: f"{m[1]}{int(m[2]) + 16});", s),
        "deadlock"),
    "a phase too early": (
        lambda s: re.sub(r"\^ \(uint\)1\b", "^ (uint)0", s), "deadlock"),
}


@needs_compiler
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name):
    change, reason = MUTANTS[name]
    with pytest.raises(EmulationError, match=reason):
        run(TAILS, wgmma_bulk.SPARSE, mutate=change, seeds=range(3), blocks=1)


def steps_exchanged(arrays):
    """The two words of every lane in the other order."""
    units = arrays["units"].reshape(-1, wgmma_bulk.unit_bytes(1, sparse=True)).copy()
    words = units[:, wgmma_bulk.VALUES_BYTES:]
    words[:] = words.reshape(len(units), -1, 2, 4)[:, :, ::-1].reshape(words.shape)
    return {"units": units.ravel()}


@needs_compiler
def test_words_of_bytes_in_another_order_are_caught():
    p = replace(TAILS, dtype="int8", k=400, tile=replace(TILE, depth=128))
    assert run(p, eight_bits.SPARSE_BULK_INT8, blocks=1)[0] == 0
    assert is_caught(p, eight_bits.SPARSE_BULK_INT8, blocks=1, repack=steps_exchanged)


@pytest.mark.sampled(0.5)
@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize(("name", "tile"), [(name, tile) for name, family in (FAMILIES | BYTES).items()
                                            for tile in family.tiles])
def test_kernels_are_what_a_hopper_wants(name, tile):
    family = (FAMILIES | BYTES)[name]
    kind = {"int8": ("int8", "uint8", "I"), "e4m3": ("e4m3", "e4m3", "Q"), "": ("float16", "", "H")}
    dtype, coded, unit = kind[family.dtype]
    tile = replace(tile, depth=tile.depth * (1 + bool(family.dtype)))
    p = family.params(None, MmaParams(1024, 3000, 1024, tile, dtype, epilogue=FINISH, coded=coded))
    kernel = family.build(p, ())
    assert "setmaxnreg" not in cubin(kernel, wgmma.ARCHITECTURE)[1]  # which says where it is ignored
    check_limits(kernel, p.threads, family.shared_bytes(p), wgmma.ARCHITECTURE)
    counts = {each: instructions(kernel, wgmma.ARCHITECTURE, each) for each in (
        f"{unit}GMMA", f"{unit}GMMA.SP", "UTMALDG.2D", "UBLKCP", "USETMAXREG", "MEMBAR.ALL.GPU")}
    products = 2 * (2 if family.sparse else 4)  # two stages in the loop
    assert counts == {f"{unit}GMMA": products, f"{unit}GMMA.SP": products * family.sparse, "UTMALDG.2D": 1,
                      "UBLKCP": 1, "USETMAXREG": 2, "MEMBAR.ALL.GPU": 0}


@pytest.mark.parametrize("columns", [512, 1024])
def test_every_tile_is_dealt_to_its_own_blocks(columns):
    layer = GpuProduct(np.zeros((2048, 64), np.float32), np.zeros(2048, np.float32), columns, Epilogue())
    facts = layer.facts  # which layers of one weight share
    for rows in (layer, replace(layer, columns=columns // 2, facts=facts)):
        found = wgmma_bulk.SPARSE.offers(rows, SimpleNamespace(archs=("sm_90",)), ("sm_90",), "fp16")
        assert [each.params.blocks for each in found] == [specialised.dealt(each.params) for each in found]
        assert len(found) == len(wgmma_bulk.SPARSE_TILES)
