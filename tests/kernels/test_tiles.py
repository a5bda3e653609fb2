"""AMX's tiles: who may use them, and that what multiplies by them keeps them in registers."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tvm

from sparsec import target
from sparsec.backends.cpu.build import settings
from sparsec.backends.cpu.calls import call
from sparsec.graph.layout import PaddedFlat, Tiled
from sparsec.kernels.cpu.codes import dense_amx
from sparsec.kernels.cpu.products import dense_amx as dense_amx_bf16
from tests.support.layers import codes, images
from tests.support.targets import compiled, isa

NEEDS_TILES = pytest.mark.skipif("amx_int8" not in target.machine_features(), reason="this process has no AMX")
FLAGS = "avx512f amx_tile amx_int8 amx_bf16"


@pytest.mark.parametrize("permitted", [True, False])
def test_tiles_are_a_feature_where_the_kernel_permits_them(monkeypatch, permitted):
    monkeypatch.setattr(target, "_cpuinfo", {"flags": FLAGS}.get)
    monkeypatch.setattr(target, "_permits_tiles", lambda: permitted)
    assert target.machine_features.__wrapped__() == set(FLAGS.split() if permitted else ["avx512f"])


@pytest.mark.parametrize("family", [dense_amx.FAMILY, dense_amx_bf16.FAMILY])
def test_tiles_are_refused_where_they_are_no_feature(family):
    assert "tiles" in family.offers(None, target.resolve("cpu-avx512"), isa("cpu-avx512"), "bf16")


def assembly(kernel, name):
    with settings(target.resolve(name)) as llvm:
        return tvm.compile(kernel.with_attr("global_symbol", "main"), target=llvm).mod.inspect_source("asm")


@pytest.mark.parametrize("layout", [Tiled(1, 6400, 700, 64), PaddedFlat(1, 130, 70, 70, 1, 71, 4)])
def test_sums_stay_in_tiles(layout):
    case, features = codes(16, layout, 96, 1.0, "uint8", False), isa("cpu-amx")
    for option in dense_amx.FAMILY.offers(case.layer, target.resolve("cpu-amx"), features, "fp32"):
        code = assembly(call(case.layer, option, features).kernel, "cpu-amx")
        assert len(re.findall(r"\btilestored\b", code)) == 4 // option.params.wide * 4
        assert len(re.findall(r"\btdpbsud\b", code)) >= 4
        assert len(re.findall(r"\b(ldtilecfg|tilerelease)\b", code)) == 2


def test_kernels_that_share_a_library_have_tiles_of_their_own():
    case, features = codes(16, Tiled(1, 64, 200, 64), 40, 1.0, "uint8", False), isa("cpu-amx")
    options = dense_amx.FAMILY.offers(case.layer, target.resolve("cpu-amx"), features, "fp32")
    calls = {f"kernel{n}": call(case.layer, option, features) for n, option in enumerate(options)}
    module = tvm.IRModule({name: each.kernel.with_attr("global_symbol", name) for name, each in calls.items()})
    with settings(target.resolve("cpu-amx")) as llvm:
        built = tvm.compile(module, target=llvm)
    roles = {option.params.roles for option in options}
    assert len(roles) > len({each.depth for each in roles})
    assert set(re.findall(r"^(sparsec_tiles_\w+):", built.mod.inspect_source("asm"), re.MULTILINE)) == {
        each.name for each in roles}
    if "amx_int8" in target.machine_features():
        answers = []
        for name, each in calls.items():
            y = np.zeros(each.output.size, "uint8")
            built[name](*[tvm.runtime.tensor(a) for a in (*each.constants, *case.inputs)], out := tvm.runtime.tensor(y))
            answers.append(out.numpy())
        assert all(np.array_equal(answers[0], each) for each in answers)


@NEEDS_TILES
def test_zeros_behind_the_last_columns_meet_no_nan():
    case, features = images(16, (1, 35, 20, 6, 9), 3, 1, 1.0, "none", False), isa("cpu")
    for option in dense_amx_bf16.FAMILY.offers(case.layer, target.resolve("cpu"), features, "bf16"):
        kernel = call(case.layer, option, features)
        run = compiled(kernel.kernel, "cpu")
        run(*kernel.constants, np.full_like(case.inputs[0], np.nan), out=kernel.output.size)
        assert np.isfinite(run(*kernel.constants, *case.inputs, out=kernel.output.size)).all()


@NEEDS_TILES
def test_kernels_for_cpu_amx_are_those_of_this_machine():
    case, features = codes(16, Tiled(1, 64, 200, 64), 40, 1.0, "uint8", False), isa("cpu-amx")
    answers = []
    for name in ("cpu", "cpu-amx"):
        option = dense_amx.FAMILY.offers(case.layer, target.resolve(name), features, "fp32")[0]
        kernel = call(case.layer, option, features)
        answers.append(compiled(kernel.kernel, name)(*kernel.constants, *case.inputs, out=kernel.output.size,
                                                     dtype="uint8"))
    assert np.array_equal(*answers)


@NEEDS_TILES
def test_a_process_that_looks_at_the_features_may_use_tiles_on_every_thread():
    asked = subprocess.run([sys.executable, "-c", """
import ctypes, sys, threading
from sparsec.target import machine_features
found, permitted = ctypes.c_uint64(), []
def look():
    ctypes.CDLL(None).syscall(158, 0x1022, ctypes.byref(found))  # ARCH_GET_XCOMP_PERM
    permitted.append(found.value >> 18 & 1)
begun = threading.Event()
waiting = threading.Thread(target=lambda: (begun.wait(), look()))
waiting.start()
look()
machine_features()
begun.set()
waiting.join()
look()
print(permitted)"""], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "[0, 1, 1]"
