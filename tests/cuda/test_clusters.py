"""Products whose shares of K are a cluster: mutants, machine code, launches, prices; `test_families.py` has numbers."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import sparsec
from sparsec.backends.cuda import driver
from sparsec.backends.cuda.products import options
from sparsec.cost.gpu import DEVICES, Device
from sparsec.kernels.cuda import mma_dense, mma_sp, wgmma
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.cuda.params import MmaParams, Tile
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import resolve
from tests.support.cuda import host_gpu, networks
from tests.support.cuda.products import SMALL, is_caught, needs_compiler, run
from tests.support.cuda.sass import check_limits, instructions, needs_cuobjdump, needs_nvcc

PRODUCT = MmaParams(100, 72, 392, SMALL, epilogue=Epilogue("relu", residual=True), split_k=4, cluster=True)
ARRIVE, WAIT = (f"  tvm_builtin_ptx_barrier_cluster_{each};\n" for each in (
    "arrive_cluster_arrive_release()", "wait_cluster_wait_acquire()"))


def without_first(source):
    return source.replace(ARRIVE + WAIT, "", 1)


def without_last(source):
    head, _, tail = source.rpartition(ARRIVE + WAIT)
    return head + tail


MUTANTS = {
    "sums are read before they are written": without_first,
    "a block ends while others read its sums": without_last,
    "nobody waits": lambda source: source.replace(WAIT, ""),
    "a warp does not arrive": lambda source: source.replace(
        ARRIVE, f"if (threadIdx.x < 32) {ARRIVE}").replace(WAIT, f"if (threadIdx.x < 32) {WAIT}"),
    "a block's sums are added twice": lambda source: re.sub(r"(mapa\S+ \S+ \S+ )%2;", r"\g<1>0;", source),
}


@needs_compiler
def test_the_unmutated_kernel_is_right():
    wrong, (statistics,) = run(PRODUCT, mma_sp.FAMILY, seeds=range(3))
    assert wrong == 0
    assert statistics.bank_conflicts == 0


@needs_compiler
@pytest.mark.parametrize("name", MUTANTS)
def test_the_emulator_catches(name):
    assert is_caught(PRODUCT, mma_sp.FAMILY, mutate=MUTANTS[name], seeds=range(3))


@needs_compiler
@pytest.mark.parametrize("blocks", [2, 4, 8])
@pytest.mark.parametrize("family", [wgmma.DENSE, wgmma.SPARSE], ids=lambda family: family.name)
def test_warp_groups_share_k_in_clusters(family, blocks):
    p = MmaParams(72, 70, 512, Tile(64, 64, 64, (4, 1), 4), out="float32", split_k=blocks, cluster=True)
    assert run(p, family, seeds=range(2))[0] == 0


@needs_nvcc
@pytest.mark.parametrize(("family", "tile"), [
    (mma_dense.FAMILY, Tile(128, 128, 64, (2, 4), 4)), (mma_sp.FAMILY, Tile(128, 64, 64, (2, 2), 4)),
    (wgmma.DENSE, Tile(128, 256, 64, (8, 1), 4)), (wgmma.SPARSE, Tile(128, 128, 64, (8, 1), 5))],
    ids=lambda each: getattr(each, "name", ""))
@needs_cuobjdump
def test_kernels_read_the_clusters_shared_memory_and_stay_within_limits(family, tile):
    p = MmaParams(768, 128, 3072, tile, epilogue=Epilogue("gelu_erf", residual=True), split_k=4, cluster=True)
    kernel, architecture = family.build(p, ()), family.architecture or "sm_90"
    check_limits(kernel, tile.threads, family.shared_bytes(p), architecture)
    assert instructions(kernel, architecture, "UCGABAR_ARV") == 2
    assert instructions(kernel, architecture, "UCGABAR_WAIT") == 2


def layer(outputs=768, inputs=3072, tokens=128):
    return GpuProduct(np.ones((outputs, inputs), np.float32), np.zeros(outputs, np.float32), tokens, Epilogue())


def test_they_are_for_targets_that_all_have_clusters():
    found = {name: {each.params.cluster for each in options(layer(), resolve(name), "fp16")[0]}
             for name in ("cuda-sm90", "cuda-sm80", "cuda-sm80+sm90")}
    assert found == {"cuda-sm90": {False, True}, "cuda-sm80": {False}, "cuda-sm80+sm90": {False}}


def test_they_have_no_second_kernel_and_no_partial_sums():
    offers = [each for each in options(layer(), resolve("cuda-sm90"), "fp16")[0] if each.params.split_k == 4]
    pairs = {}
    for each in offers:
        key = each.kernel, each.detail.removesuffix(" in a cluster")
        pairs.setdefault(key, {})[each.params.cluster] = each.work
    for pair in (pair for pair in pairs.values() if len(pair) == 2):
        assert (pair[True].launches, pair[True].partial_bytes) == (1, 0)
        assert pair[True].exchanged_bytes == 3 * 4 * 768 * 128
        assert DEVICES["sm_90"].seconds(pair[True]) < DEVICES["sm_90"].seconds(pair[False])


RUN = """
import json, sys
import numpy as np
from tests.support.cuda import host_gpu
from tests.support.cuda.host_gpu import refused
from sparsec.runtime.session import InferenceSession
session = InferenceSession(sys.argv[1] + "/model.sparsec")
session.run(None, {"x": np.zeros((16, 3072), np.float32)})
print(json.dumps([row[:2] for row in host_gpu.log()]))
"""


@needs_nvcc
@pytest.mark.skipif(host_gpu.COMPILER is None, reason="the host's GPU needs gcc")
@pytest.mark.skipif(driver.probe() is not None, reason="there is an NVIDIA driver here")
def test_sessions_launch_clusters(tmp_path, monkeypatch):
    predict = Device.seconds
    monkeypatch.setattr(Device, "seconds", lambda self, work, threads=1: (
        1e-9 if work.exchanged_bytes else predict(self, work, threads)))
    host_gpu.build(tmp_path)
    graph = networks.Graph()
    graph.linear("x", 128, 3072, name="y")
    onnx.save(graph.model({"x": (TensorProto.FLOAT, [16, 3072])}, {"y": [16, 128]}), tmp_path / "model.onnx")
    artifact = sparsec.compile(tmp_path / "model.onnx", "cuda-sm90")
    assert "in a cluster" in artifact.report["layers"][0]["detail"]
    artifact.save(tmp_path / "model.sparsec")
    log = host_gpu.told(tmp_path, RUN, HOST_GPU_CAPABILITY="90")
    assert [what for what, name in log if name.startswith("product")] == ["cluster", "launch", "cluster", "record"]
