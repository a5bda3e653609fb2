"""The instruction sets that kernel tests run on, and what every one of those tests needs."""

from dataclasses import replace

import numpy as np
import pytest
import tvm

from sparsec.backends.cpu.build import settings
from sparsec.kernels.emit.isa import isa_of
from sparsec.target import machine_features, resolve


def supported(name):
    return resolve(name).features <= machine_features()


def runnable(*names):
    """The targets as parameters of a test, skipped where this processor cannot run them."""
    return [pytest.param(name, marks=pytest.mark.skipif(not supported(name), reason=f"{name} needs another processor"))
            for name in names]


TARGETS = runnable("cpu-generic", "cpu-avx2", "cpu-avx512")

AVX_VNNI = replace(resolve("cpu-avx2"), name="avx-vnni", mcpu="alderlake",
                   features=resolve("cpu-avx2").features | {"avx_vnni"})


def host(target, *features):
    """A target as a test's parameter, skipped where the processor lacks features."""
    missing = set(features) - machine_features()
    return pytest.param(target, id=resolve(target).name,
                        marks=pytest.mark.skipif(bool(missing), reason=f"this processor has no {missing}"))


FEATURED = [host("cpu", "avx512_vnni"), host(AVX_VNNI, "avx_vnni")]
"""What has instructions that `TARGETS` lack: products of bytes, bf16 where the processor has it."""


def isa(name, threads=1):
    return isa_of(resolve(name), threads)


def aligned(array):
    """A copy at a 64-byte boundary, as the runtime guarantees, with NaN behind it."""
    array = np.ascontiguousarray(array)
    storage = np.full(array.nbytes + 192, 0xFF, np.uint8)
    start = -storage.ctypes.data % 64
    copy = storage[start:start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def compiled(func, name):
    """The kernel as a function of numpy arrays; `out` is the length of its result, `inside` what it finds there."""
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main").without_attr("tirx.private")})
    with settings(resolve(name)) as llvm:
        executable = tvm.compile(module, target=llvm)

    def run(*arrays, out, dtype="float32", inside=None):
        guarded = aligned(np.full(out + 16, 77 if dtype in ("uint8", "int8") else np.nan, dtype))
        guarded[:out] = guarded[:out] if inside is None else inside
        tensors = [tvm.runtime.from_dlpack(aligned(a)) for a in arrays]
        executable["main"](*tensors, tvm.runtime.from_dlpack(guarded[:out]))
        np.testing.assert_array_equal(guarded[out:], guarded[-1], "the kernel wrote behind its output")
        return guarded[:out]

    run.module = executable
    return run
