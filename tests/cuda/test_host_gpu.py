"""Artifacts in TVM's real runtime for CUDA, on a GPU that records kernels instead of running them (`host_gpu.c`)."""

import json
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto

import sparsec
from sparsec.backends.cuda import driver
from tests.support.cuda import host_gpu, networks
from tests.support.cuda.sass import needs_nvcc

pytestmark = [
    needs_nvcc,
    pytest.mark.skipif(host_gpu.COMPILER is None, reason="the host's GPU needs gcc"),
    pytest.mark.skipif(driver.probe() is not None, reason="there is an NVIDIA driver here"),
]

RUN = """
import json, sys
import numpy as np
from tests.support.cuda import host_gpu
from sparsec.backends.cuda.replay import replay
from sparsec.runtime.session import InferenceSession
session = InferenceSession(sys.argv[1] + "/model.sparsec")
feeds = {"x": np.ones((4, 768), np.float32)}
shapes = [y.shape for y in session.run(None, feeds)]
ran = host_gpu.log()
seconds = replay(session.resident(feeds))()
print(json.dumps({"shapes": shapes, "ran": ran, "replayed": host_gpu.log()[len(ran):], "seconds": seconds,
                  "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the libraries, an artifact and its inputs."""
    folder = tmp_path_factory.mktemp("host_gpu")
    host_gpu.build(folder)
    graph = networks.Graph()
    graph("Softmax", graph.linear(graph("Relu", graph.linear("x", 128, 768)), 64, 128), name="y")
    onnx.save(graph.model({"x": (TensorProto.FLOAT, [4, 768])}, {"y": [4, 64]}), folder / "model.onnx")
    sparsec.compile(folder / "model.onnx", "cuda-sm80").save(folder / "model.sparsec")
    return folder


@pytest.fixture(scope="module")
def seen(folder):
    """What a run of the artifact and its replay did."""
    done = subprocess.run([sys.executable, "-c", RUN, folder], capture_output=True, text=True, check=False,
                          env=host_gpu.environment(folder))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def bench(folder, *arguments, environment=None):
    """What `sparsec bench` prints and writes."""
    done = subprocess.run([sys.executable, "-m", "sparsec", "bench", *arguments, "--json", folder / "bench.json"],
                          capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == (1 if environment is None else 0), done.stderr
    return done.stderr if environment is None else json.loads((folder / "bench.json").read_text())


def kernels(log, kind):
    return [name for what, name, *_ in log if what == kind]


def test_a_session_loads_the_fat_binary_and_launches_every_kernel(seen):
    assert seen["shapes"] == [[4, 64]]
    assert sum(name.startswith("product") for name in kernels(seen["ran"], "launch")) == 2
    assert kernels(seen["ran"], "record") == kernels(seen["ran"], "launch")
    assert kernels(seen["ran"], "replay") == ["graph"]
    assert len({stream for _, _, stream, _ in seen["ran"]} - {0}) == 1  # the session's own
    assert max(shared for *_, shared in seen["ran"]) > 48 << 10  # what a kernel must ask for before its launch


def test_a_replay_records_the_same_kernels_on_its_own_stream(seen):
    assert kernels(seen["replayed"], "record") == kernels(seen["ran"], "launch")
    assert len({stream for what, _, stream, _ in seen["replayed"] if what == "record"} - {0}) == 1
    assert seen["seconds"] == pytest.approx(1e-4)  # of ten replays in a millisecond of this GPU


def test_a_session_needs_no_compiler(seen):
    loaded = {name.partition(".")[0] for name in seen["modules"]}
    assert not loaded & {"tvm", "onnx", "onnx_ir", "onnxruntime", "scipy"}


def test_where_there_is_a_driver_the_compiler_writes_the_same_library(folder):
    code = "import sys, sparsec; sparsec.compile(sys.argv[1], 'cuda-sm80', verify=False).save(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, folder / "model.onnx", folder / "there.sparsec"], check=True,
                   env=host_gpu.environment(folder))
    here, there = (sparsec.Artifact.load(folder / name) for name in ("model.sparsec", "there.sparsec"))
    assert here.library == there.library


def test_bench_times_the_session_and_the_gpu_alone(folder):
    figures = bench(folder, folder / "model.sparsec", "--seconds", "0.1", environment=host_gpu.environment(folder))
    session, alone = figures["engines"]
    assert (session["engine"], alone["engine"]) == ("sparsec", "sparsec, GPU alone")
    assert alone["p50_us"] == alone["p99_us"] == pytest.approx(100)
    assert figures["ratio"] == {}


def test_a_profile_times_every_kernel(folder, seen):
    figures = bench(folder, folder / "model.onnx", "--target", "cuda-sm80", "--profile", "--precision", "bf16",
                    environment=host_gpu.environment(folder))
    assert figures["total_us"] == pytest.approx(100 * len(kernels(seen["ran"], "launch")))
    assert [row["format"] for row in figures["layers"] if row["format"]] == ["nm 2:4"] * 2
    assert figures["precision"] == "bf16"


@pytest.mark.parametrize("arguments", [["model.onnx"], ["model.onnx", "--profile"], ["model.sparsec"]])
def test_without_a_gpu_nothing_is_compiled_and_the_way_out_is_named(folder, arguments):
    error = bench(folder, folder / arguments[0], *arguments[1:], "--target", "cuda-sm80")
    assert "there is no NVIDIA driver" in error
    assert "where" in error.partition("driver")[2]
    assert error.count("\n") == 1
