"""Sessions on a GPU that obeys CUDA's rules without its arithmetic (`host_gpu.c`): graphs, copies, threads, errors.

An output that is an input as it is shows what the copies do; kernels of the other output are recorded and do nothing.
"""


import numpy as np
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

SHARED = """
import gc, json, sys, threading
import numpy as np
from tests.support.cuda import host_gpu
from tests.support.cuda.host_gpu import changed, refused
from sparsec.machine.memory import CUDA, on_device
from sparsec.runtime.session import InferenceSession
path = sys.argv[1] + "/model.sparsec"
def feeds(number):
    return {"x": np.full((4, 768), number, np.float32)}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the libraries and an artifact."""
    folder = tmp_path_factory.mktemp("host_gpu")
    host_gpu.build(folder)
    graph = networks.Graph()
    graph("Identity", "x", name="same")
    graph("Softmax", graph.linear(graph("Relu", graph.linear("x", 128, 768)), 64, 128), name="y")
    model = graph.model({"x": (TensorProto.FLOAT, [4, 768])}, {"same": [4, 768], "y": [4, 64]})
    onnx.save(model, folder / "model.onnx")
    sparsec.compile(folder / "model.onnx", "cuda-sm80").save(folder / "model.sparsec")
    return folder


@pytest.fixture
def told(folder):
    """What a script prints as JSON on the host's GPU."""
    return lambda script, **settings: host_gpu.told(folder, SHARED + script, **settings)


def test_a_call_is_one_graph_and_asks_for_no_memory(told):
    found = told("""
session = InferenceSession(path)
before = host_gpu.counts()
results = [session.run(["same"], feeds(number))[0] for number in range(50)]
right = [bool((result == number).all()) for number, result in enumerate(results)]
print(json.dumps({"right": all(right), "changed": changed(before), "log": [row[0] for row in host_gpu.log()]}))
""")
    assert found["right"]
    assert found["changed"] == {"copies": 100, "replays": 50}
    kernels = found["log"].index("record")
    assert found["log"] == ["launch"] * kernels + ["record"] * kernels + ["replay"] * 50


def test_outputs_are_the_callers_and_those_that_are_not_asked_for_are_not_brought(told):
    found = told("""
session = InferenceSession(path)
first, _ = session.run(None, feeds(1))
before = host_gpu.counts()
session.run(["y"], feeds(2))
print(json.dumps({"kept": bool((first == 1).all()), "changed": changed(before)}))
""")
    assert found == {"kept": True, "changed": {"copies": 2, "replays": 1}}


def test_threads_have_graphs_of_their_own_and_closing_gives_everything_back(told):
    found = told("""
import time
first = InferenceSession(path)
first.close()
del first
gc.collect()
empty, wrong = host_gpu.counts(), []
session = InferenceSession(path)
barrier = threading.Barrier(8)
def work(number):
    barrier.wait()
    for turn in range(40):
        value = 100 * number + turn
        if not (session.run(["same"], feeds(value))[0] == value).all():
            wrong.append(value)
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
open_ = host_gpu.counts()
session.close()
del session
gc.collect()
left = changed(empty)
print(json.dumps({"wrong": wrong, "executables": open_["live_executable"], "streams": open_["live_stream"],
                  "left": {name: count for name, count in left.items() if name.startswith("live")},
                  "early": open_["freed_early"]}))
""")
    assert not found["wrong"]
    assert found["early"] == 0
    assert 1 <= found["executables"] <= 8
    assert found["streams"] == found["executables"]
    assert set(found["left"]) <= {"live_device"}  # TVM's pool keeps some for the next session


def test_tensors_of_the_gpu_go_in_and_out_without_the_processor(told):
    found = told("""
session, memory = InferenceSession(path), on_device(CUDA)
x, y = memory.place(feeds(5)["x"]), memory.place(np.zeros((4, 768), np.float32))
session.run_with_device(["same"], {"x": x}, out={"same": y})
before = host_gpu.counts()
for number in range(10):
    result, = session.run_with_device(["same"], {"x": x}, out={"same": y})
moved = changed(before)
fresh, = session.run_with_device(["same"], {"x": y})
array = memory.fetch(fresh, frozenset())
print(json.dumps({"moved": moved, "same": result is y, "right": bool((array == 5).all()),
                  "shape": list(fresh.shape), "early": host_gpu.counts()["freed_early"]}))
""")
    assert found == {"moved": {"copies": 20, "replays": 10}, "same": True, "right": True, "shape": [4, 768],
                     "early": 0}


def test_a_binding_keeps_its_memory_on_the_gpu(told):
    found = told("""
session, memory = InferenceSession(path), on_device(CUDA)
x = memory.place(feeds(7)["x"])
binding = session.io_binding()
binding.bind_input("x", "cuda", 0, np.float32, x.shape, x.data_ptr())
binding.bind_output("same", "cuda")
session.run_with_iobinding(binding)
first, = binding.get_device_outputs()
before = host_gpu.counts()
session.run_with_iobinding(binding)
again, = binding.get_device_outputs()
print(json.dumps({"same": first.data_ptr() == again.data_ptr(), "moved": changed(before),
                  "right": bool((memory.fetch(again, frozenset()) == 7).all())}))
""")
    assert found == {"same": True, "moved": {"copies": 2, "replays": 1}, "right": True}


def test_what_a_gpu_cannot_take_is_refused_in_a_line(told):
    found = told("""
session, memory = InferenceSession(path), on_device(CUDA)
x = memory.place(feeds(1)["x"])
run = session.run_with_device
print(json.dumps([refused(lambda: run(None, {"x": feeds(1)["x"]})), refused(lambda: run(None, {"x": [1]})),
                  refused(lambda: run(None, {"x": memory.place(np.zeros((4, 5), np.float32))})),
                  refused(lambda: run(None, {"z": x})), refused(lambda: run(["y"], {"x": x}, out={"same": x})),
                  refused(lambda: run(["nothing"], {"x": x})),
                  refused(lambda: session.run(None, {"x": np.zeros((4, 5), np.float32)}))]))
""")
    assert [line.partition(":")[0] for line in found] == ["InputError"] * 7
    for line, part in zip(found, ("is on cpu:0 and the session runs on cuda:0", "__dlpack__", "of shape (4, 5)",
                                  "given: 'z'", "a tensor for 'same'", "no output 'nothing'", "(4, 5)"), strict=True):
        assert part in line
        assert "\n" not in line


def test_too_little_memory_says_how_much_is_needed(told):
    found = told("print(json.dumps(refused(lambda: InferenceSession(path))))", HOST_GPU_BYTES="60000")
    assert found.startswith("DeviceError: the GPU's memory does not hold the artifact: it needs 0.2 MB, and 0.")
    assert "of 0.1 MB are free" in found


@pytest.mark.parametrize(("settings", "part"), [
    ({"HOST_GPU_DRIVER": "12040"}, "supports CUDA 12.4 and TVM's runtime needs 13.0: install driver 580"),
    ({"HOST_GPU_CAPABILITY": "75"}, "this GPU is an sm_75; sparse tensor cores begin with sm_80"),
    ({"HOST_GPU_CAPABILITY": "0"}, "there is no GPU that its NVIDIA driver can use"),
])
def test_another_driver_or_gpu_is_refused_in_a_line(told, settings, part):
    found = told("print(json.dumps(refused(lambda: InferenceSession(path))))", **settings)
    assert part in found
    assert "\n" not in found


def test_a_gpu_that_fails_says_so_and_a_fork_is_refused(told):
    found = told("""
import os
session, memory = InferenceSession(path), on_device(CUDA)
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, refused(lambda: session.run(None, feeds(1))).encode())
    os._exit(0)
forked = os.read(read, 1000).decode()
from sparsec.runtime.device import DeviceArray
nowhere = DeviceArray(64, np.dtype(np.float32), (4, 768))
y = memory.place(feeds(1)["x"])
session.run_with_device(["same"], {"x": nowhere}, out={"same": y})
print(json.dumps([forked, refused(lambda: session.run(None, feeds(1)))]), flush=True)
os._exit(0)  # TVM cannot free what it has on a GPU that fails
""")
    assert "CUDA does not survive a fork" in found[0]
    assert "DeviceError" in found[1]
    assert "illegal memory access" in found[1]


def test_an_artifact_without_storages_is_refused(told):
    found = told("""
from dataclasses import replace
from sparsec.artifact.file import Artifact
artifact = Artifact.load(path)
needs = {name: value for name, value in artifact.manifest.needs.items() if name != "workspace"}
old = replace(artifact, manifest=replace(artifact.manifest, needs=needs))
print(json.dumps(refused(lambda: InferenceSession(old))))
""")
    assert "compile the model again" in found


@pytest.mark.parametrize(("precision", "kernel"), [("fp16", "wgmma.sp bulk"), ("int8", "wgmma.sp bulk int8")])
def test_bulk_copies_have_a_map_of_their_matrix(folder, told, precision, kernel):
    graph = networks.Graph()
    graph.linear("x", 2048, 2048, name="y")
    model = graph.model({"x": (TensorProto.FLOAT, [2048, 2048])}, {"y": [2048, 2048]})
    samples = {"x": np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)}
    artifact = sparsec.compile(model, "cuda-sm90", precision=precision, inputs=samples)
    assert [layer["kernel"] for layer in artifact.report["layers"]] == [kernel]
    artifact.save(folder / "bulk.sparsec")
    log = told("""
InferenceSession(sys.argv[1] + "/bulk.sparsec").run(None, {"x": np.zeros((2048, 2048), np.float32)})
print(json.dumps(host_gpu.log()))
""", HOST_GPU_CAPABILITY="90")
    assert [(what, name) for what, name, *_ in log if what == "map"][:1] == [("map", "matrix")]
    assert any(what == "record" and name.startswith("product") for what, name, *_ in log)


def test_what_the_gpu_lacks_is_interpreted_behind_its_graph(told, folder):
    graph = networks.Graph()
    kept = graph("Compress", graph.linear("x", 128, 768), "rows", axis=0)
    graph("Identity", graph("Size", kept), name="elements")
    model = graph.model({"x": (TensorProto.FLOAT, [4, 768]), "rows": (TensorProto.BOOL, [4])}, {"elements": []})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    sparsec.compile(model, "cuda-sm80").save(folder / "staged.sparsec")
    found = told("""
session = InferenceSession(path.replace("model", "staged"))
sizes = [int(session.run(None, feeds(1) | {"rows": np.arange(4) < count})[0]) for count in range(5)]
before = host_gpu.counts()
session.run(None, feeds(1) | {"rows": np.arange(4) < 2})
print(json.dumps({"sizes": sizes, "changed": changed(before),
                  "device": refused(lambda: session.run_with_device(None, {"x": None, "rows": None}))}))
""")
    assert found["sizes"] == [0, 128, 256, 384, 512]
    assert found["changed"]["replays"] == 1
    assert "has parts that the processor interprets" in found["device"]
