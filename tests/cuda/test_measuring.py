"""Timing kernels on the GPU at hand, which is the host's: what is launched, and what the tuning log keeps."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from sparsec.backends.cuda import driver
from sparsec.backends.cuda.products import options
from sparsec.backends.registry import backend_of
from sparsec.cost.tuning import key
from sparsec.kernels.cuda.arrange import project
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import resolve
from tests.support.cuda import host_gpu, networks
from tests.support.cuda.sass import needs_nvcc

SCRIPT = """
import json, sys
from sparsec.backends.cuda.measuring import ROUNDS
from sparsec.backends.cuda.replay import REPLAYS
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.planning import timer
from sparsec.compiler.prepare import prepare
from tests.support.cuda import host_gpu
prepared = prepare(sys.argv[1], CompileOptions("cuda-sm80", tune="measure"))
job, backend = prepared.job, prepared.backend
(node,) = (node for node in prepared.graph.graph if node.op_type == "MatMul")
option = min(backend.options(node, job), key=lambda each: job.calibration.machine.seconds(each.work))
measure, told = timer(node, job), []
for _ in range(2):
    told.append([measure(option), host_gpu.counts()["replays"]])
print(json.dumps({"told": told, "machine": job.measurer.machine, "each": ROUNDS * REPLAYS,
                  "left": {name: count for name, count in host_gpu.counts().items()
                           if name in ("live_graph", "live_executable")},
                  "recorded": sum(what == "record" for what, *_ in host_gpu.log())}))
"""


@needs_nvcc
@pytest.mark.skipif(host_gpu.COMPILER is None, reason="the host's GPU needs gcc")
@pytest.mark.skipif(driver.probe() is not None, reason="there is an NVIDIA driver here")
def test_a_kernel_is_timed_once_on_copies_of_its_weight(tmp_path):
    host_gpu.build(tmp_path)
    graph = networks.Graph()
    graph.linear("x", 64, 768, name="y")
    onnx.save(graph.model({"x": (TensorProto.FLOAT, [4, 768])}, {"y": [4, 64]}), tmp_path / "model.onnx")
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "model.onnx"], capture_output=True, text=True,
                          check=False, env=host_gpu.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (first, replays), (again, unchanged) = found["told"]
    assert replays == unchanged == found["each"]
    assert first == again == pytest.approx(1e-3 / 10 / 20)  # a millisecond for ten replays of twenty launches
    assert found["left"] == {"live_graph": 0, "live_executable": 0}
    assert found["recorded"] in (20, 40)  # twice where K is split
    assert found["machine"] == "host, CUDA 13.0"


BYTES = """
import json, sys
import numpy as np
from dataclasses import replace
from sparsec.backends.cuda.measuring import prepare_product
from sparsec.backends.cuda.products import options
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import resolve
from tests.support.cuda import host_gpu
weight, target, told = np.ones((64, 768), np.float32), resolve("cuda-sm80"), []
layer = GpuProduct(weight, np.zeros(64, np.float32), 4, Epilogue(), ranges=(-1, 1))
for each in (layer, replace(layer, written=True)):
    before = len(host_gpu.log())
    option = next(option for option in options(each, target, "int8")[0] if option.kernel == "mma int8")
    prepare_product(each, option, target)
    told.append([name for what, name, *_ in host_gpu.log()[before:] if what == "record"])
print(json.dumps(told))
"""


@needs_nvcc
@pytest.mark.skipif(host_gpu.COMPILER is None, reason="the host's GPU needs gcc")
@pytest.mark.skipif(driver.probe() is not None, reason="there is an NVIDIA driver here")
def test_a_kernel_of_8_bits_is_timed_with_what_makes_its_codes(tmp_path):
    host_gpu.build(tmp_path)
    encoded, written = host_gpu.told(tmp_path, BYTES)
    assert len(encoded) == 2 * len(written) == 40


@pytest.mark.parametrize(("name", "precision"), [
    ("cuda-sm80+cublaslt", "int8"), ("cuda-sm89+cublaslt", "fp8"), ("cuda-sm90+cublaslt", "int8"),
    ("cuda-sm90+cublaslt", "fp8")])
def test_every_option_of_a_layer_has_a_time_of_its_own(name, precision):
    weight, target = project(np.ones((768, 256), np.float32)), resolve(name)
    layer = GpuProduct(weight, np.zeros(768, np.float32), 4096, Epilogue(), ranges=(-1, 1))
    found = [option for each in (layer, replace(layer, written=True)) for option in options(each, target, precision)[0]
             if each is layer or option.codec == precision]
    keys = [key(option, target, 1, "machine") for option in found]
    assert len(set(keys)) == len(keys)
    assert "cublaslt" in {option.kernel for option in found}
    assert {option.encodes for option in found} == {False, True}


def test_no_gpu_measures_nothing():
    target = resolve("cuda-sm80")
    assert driver.probe() is not None or backend_of(target).measurer(target) is None
