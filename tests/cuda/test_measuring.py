"""Timing kernels on the GPU at hand, which is the host's: what is launched, and what the tuning log keeps."""

import json
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto

from sparsec.backends.cuda import driver
from sparsec.backends.registry import backend_of
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


def test_no_gpu_measures_nothing():
    target = resolve("cuda-sm80")
    assert driver.probe() is not None or backend_of(target).measurer(target) is None
