"""The emulator catches what makes a kernel wrong: each mutant of a right kernel fails or computes wrong numbers."""

import re

import pytest

from sparsec.kernels.cuda import mma_sp
from sparsec.kernels.cuda.params import MmaParams, Tile
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.products import is_caught, needs_compiler, run

# Tails in all three extents, two warps in both directions, more stages of K than of shared memory; the last one lies
# where the epilogue begins.
PRODUCT = MmaParams(100, 72, 392, Tile(64, 32, 64, (2, 2), 3), epilogue=Epilogue("relu", residual=True))

BARRIER, WAIT = "tvm_builtin_cuda_cta_sync();", "tvm_builtin_ptx_cp_async_wait_group_async_wait_group_1();"


def in_lines(marker, pattern, replacement):
    """A substitution in the lines that hold a marker."""
    return lambda source: "".join(re.sub(pattern, replacement, line) if marker in line else line
                                  for line in source.splitlines(keepends=True))


def last_barrier_removed(source):
    head, _, tail = source.rpartition(BARRIER)
    return head + tail


MUTANTS = {
    "no barriers": lambda s: s.replace("__syncthreads();", ""),
    "no barrier before the epilogue": last_barrier_removed,
    "no barriers in the epilogue's warps": lambda s: s.replace("__syncwarp();", ""),
    "barrier before the wait": lambda s: re.sub(rf"{re.escape(WAIT)}\s*{re.escape(BARRIER)}", BARRIER + WAIT, s),
    "barrier by half of the warps": lambda s: s.replace("__syncthreads();", "if (threadIdx.x < 64) __syncthreads();"),
    "one stage too many under way": lambda s: s.replace("wait_group 1;", "wait_group 2;"),
    "no wait": lambda s: s.replace('asm volatile("cp.async.wait_group 1;" :  :  : "memory");', ""),
    "no commit": lambda s: s.replace('asm volatile("cp.async.commit_group;" :  : );', ""),
    "a stage filled too early": lambda s: re.sub(r"\((\w+) \+ 2\) % 3", r"(\1 + 3) % 3", s),
    "a stage read too early": lambda s: re.sub(r"\((\w+) % 3\) \* ", r"((\1 + 1) % 3) * ", s),
    "no swizzle where matrices are read": in_lines(
        "x4_shared_b16(_ptr", r"\^ \(\(\(int\)threadIdx.x\) & 7\)", "^ 0"),
    "a transposition": lambda s: s.replace("x4.shared", "x4.trans.shared"),
    "selectors exchanged": in_lines("mma.sp", r"%16, ([01]);", lambda m: f"%16, {1 - int(m[1])};"),
    "registers exchanged": lambda s: s.replace("{%8, %9, %10, %11}", "{%9, %8, %10, %11}"),
    "halves of the weight exchanged": lambda s: s.replace("{%4, %5, %6, %7}", "{%5, %4, %6, %7}"),
    "a divergent warp": lambda s: s.replace(
        "    tvm_builtin_ptx_ldmatrix", "    if (threadIdx.x & 16) tvm_builtin_ptx_ldmatrix"),
    "another instruction in half a warp": lambda s: re.sub(
        r"(tvm_builtin_ptx_ldmatrix\w+\(_ptr)", r"if (threadIdx.x & 16) __syncwarp(); \1", s, count=1),
    "a misaligned source": lambda s: s.replace("&(values_ptr[", "&(values_ptr[1 + "),
    "a misaligned destination": in_lines("st_shared_f32((v", r"\(v \+", "(2 + v +"),
    "a misaligned vector": lambda s: s.replace("*(half4*)(y_ptr + ", "*(half4*)(y_ptr + 2 + "),
    "an index beyond the registers": lambda s: re.sub(r"(x4_shared_b16\(_ptr_\d+)\[0\]", r"\1[threadIdx.x]", s),
    "one column too many": lambda s: s.replace(" < 9)", " < 10)"),
    "one feature too many": lambda s: s.replace(" < 33)", " < 34)"),
    "no zeros beyond the features": in_lines("_src_size_", r"\(uint\)condval_\d+", "(uint)16"),
    "one output too many": lambda s: s.replace(" < 25)", " < 26)"),
    "another output's bias": lambda s: s.replace("bias_ptr[", "bias_ptr[1 + "),
    "another column's residual": lambda s: s.replace("(residual_ptr + ", "(residual_ptr + 8 + "),
    "more shared memory than asked for": lambda s: s.replace("% 3)", "% 4)"),
}


@pytest.fixture(scope="module")
def product():
    """The product is right without a mutation."""
    assert run(PRODUCT, mma_sp.FAMILY)[0] == 0
    return PRODUCT


@needs_compiler
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(product, name):
    for seed in range(2):
        assert is_caught(product, mma_sp.FAMILY, seeds=(seed,), mutate=MUTANTS[name]), f"not caught with seed {seed}"


REPACKED = {
    "falling positions": {"metadata": lambda words: (words & 0x33333333) << 2 | words >> 2 & 0x33333333},
    "words of exchanged lanes": {"metadata": lambda words: words.reshape(-1, 2)[:, ::-1].ravel()},
    "words of exchanged rows": {"metadata": lambda words: words << 16 | words >> 16},
    "words in another order of steps": {"metadata": lambda words: words[::-1].copy()},
    "values of exchanged lanes": {"values": lambda values: values.reshape(-1, 2, 8)[:, ::-1].ravel()},
}


@needs_compiler
@pytest.mark.parametrize("name", REPACKED)
def test_wrong_packing_is_caught(product, name):
    assert is_caught(product, mma_sp.FAMILY, repack=lambda arrays: arrays | {
        key: change(arrays[key]) for key, change in REPACKED[name].items()})
