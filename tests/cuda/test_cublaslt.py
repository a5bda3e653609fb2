"""Dense layers by cuBLASLt: on a double of the library that computes on the host (`host_cublaslt.c`)."""

import ctypes
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.backends.cuda import cublaslt as library
from sparsec.backends.cuda import driver, measuring
from sparsec.backends.cuda.build import libraries
from sparsec.backends.cuda.lower import lower
from sparsec.backends.cuda.planning import layer_of, layer_options
from sparsec.backends.cuda.products import options
from sparsec.backends.registry import backend_of
from sparsec.compiler.compile import _verified
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.pipeline import run_passes
from sparsec.cost.gpu import Device
from sparsec.cost.plan import CHOICE, choose
from sparsec.cost.precisions import HALF_PRECISIONS
from sparsec.cost.tuning import TuningLog
from sparsec.errors import DeviceError, ToolchainError, UsageError
from sparsec.graph import reader
from sparsec.graph.compare import random_feeds
from sparsec.kernels.cuda.cublaslt import FAMILY
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.cuda.params import Gather, MmaParams, Window
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.cuda import host_gpu, networks, sized, walk
from tests.support.cuda.emulator import emulate, launches
from tests.support.cuda.products import DTYPES, FINISH, operands, packed, weight_index
from tests.support.cuda.sass import needs_nvcc

pytestmark = pytest.mark.skipif(host_gpu.COMPILER is None, reason="the double of cuBLASLt needs gcc")
needs_emulator = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
TARGET = resolve("cuda-sm90+cublaslt")
RATES = backend_of(TARGET).calibration(TARGET, 1).machine
TILE = FAMILY.tiles[-1]
PRODUCTS = {
    "one token": MmaParams(64, 1, 64, TILE),
    "bias, residual and activation": MmaParams(40, 9, 72, TILE, epilogue=FINISH),
    "a workspace": MmaParams(48, 5, 264, TILE, epilogue=FINISH),
    "bfloat16": MmaParams(64, 7, 136, TILE, "bfloat16", "bfloat16", FINISH),
    "float32 results": MmaParams(20, 13, 64, TILE, out="float32", epilogue=FINISH),
}


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    """The path of the double."""
    return host_gpu.build_cublaslt(tmp_path_factory.mktemp("cublaslt"))


@pytest.fixture
def loaded(double, monkeypatch):
    """The double in the library's place, in this process."""
    monkeypatch.setattr(library, "load", lambda: ctypes.CDLL(str(double)))
    library.register()


@pytest.fixture
def preferred(monkeypatch):
    """The library is predicted to take no time."""
    predict = Device.seconds
    monkeypatch.setattr(Device, "seconds", lambda self, work, threads=1: (
        1e-9 if getattr(work, "kernel", "") == "cublaslt" else predict(self, work, threads)))


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_exact(loaded, name):
    p = PRODUCTS[name]
    weight = weight_index(np.random.default_rng(0), p, "dense")
    inputs, expected = operands(p, packed(FAMILY, p, weight)[1], np.random.default_rng(1), weight)
    inputs["bias"] = inputs["bias"].astype(DTYPES[p.out])
    length, dtype = FAMILY.arguments(p)["partial"]
    given = [*inputs.values(), np.zeros(length, dtype), y := np.zeros(p.outputs, DTYPES[p.out])]
    assert [(each.size, str(each.dtype)) for each in given] == list(FAMILY.arguments(p).values())
    launches.call(FAMILY.build(p), *given, pipeline="tirx")
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("change", "reason"), [
    ({"k": 68}, "begin at multiples of 16 bytes"),
    ({"m": 100}, "begin at multiples of 16 bytes"),
    ({"epilogue": Epilogue("gelu_erf")}, "no 'gelu_erf' behind a product"),
    ({"epilogue": Epilogue(residual=True, multiplies=True)}, "by another tensor"),
    ({"dtype": "int8"}, "halves"),
    ({"gather": Gather(64)}, "in their order"),
    ({"split_k": 2}, "by itself"),
    ({"window": Window((4, 4, 16), (2, 2), (3, 3))}, "windows of an image"),
])
def test_what_the_library_does_not_compute_has_a_reason(change, reason):
    assert reason in FAMILY.refuses(replace(PRODUCTS["one token"], **change))


def test_a_product_without_an_algorithm_says_which(loaded):
    odd = library.Product(64, 1, 64, "float16", "float16", "none", 0, False, (2, 256, 256, 256))
    with pytest.raises(DeviceError, match=r"no algorithm for 1 tokens by a weight of 64 x 64.*\+cublaslt"):
        library._plan(odd)


def test_it_is_considered_where_the_target_names_it():
    layer = GpuProduct(np.ones((64, 64), np.float32), np.zeros(64, np.float32), 16, Epilogue())
    kernels = {name: {each.kernel for each in options(layer, resolve(name), "fp16")[0]}
               for name in ("cuda-sm90", "cuda-sm90+cublaslt", "cuda-sm80+sm90+cublaslt")}
    assert [name for name, found in kernels.items() if "cublaslt" in found] == list(kernels)[1:]
    assert TARGET.archs == ("sm_90",)
    _, reasons = options(replace(layer, epilogue=Epilogue("gelu_erf")), TARGET, "fp16")
    assert "gelu_erf" in reasons["cublaslt"]
    with pytest.raises(UsageError, match="no architecture"):
        resolve("cuda-cublaslt")


def planned(model, precision):
    """The rewritten graph, in which the library runs what it can."""
    graph = reader.load(model)
    run_passes(graph, Context(TARGET))
    for node in graph.graph:
        if layer_of(node) is not None:
            found = [each for each in layer_options(node, TARGET, precision)[0] if each.is_dense]
            own = [each for each in found if each.kernel == "cublaslt"] or found
            CHOICE.set(node, choose(node.name, own, machine=RATES))
    return graph


@pytest.fixture
def layer():
    """A node of a planned model, and the library's option for it and another."""
    graph = planned(halves(), "fp16")
    node = next(node for node in graph.graph if CHOICE.get(node))
    found = layer_options(node, TARGET, "fp16")[0]
    return node, next(each for each in found if each.kernel == "cublaslt"), found[0]


def test_without_the_library_its_kernels_keep_their_predictions(layer, monkeypatch):
    node, own, other = layer
    monkeypatch.setattr(library, "absent", lambda: "it is missing")
    monkeypatch.setattr(measuring, "prepare", lambda *_: lambda: 1e-5)
    gpu, log = measuring.Here("a GPU"), TuningLog(None, 1.0)

    def timed(option, times=1):
        return log.time(option, TARGET, 1, partial(gpu.measure, node, target=TARGET, threads=1), times=times)

    with pytest.warns(UserWarning, match="cublaslt are not timed.*it is missing"):
        choice = choose("layer", [own, other], machine=RATES, measure=timed)
    assert choice.winner.option is other
    assert [each.measured_s for each in choice.losers] == [None]


def test_a_kernel_that_the_library_fails_at_is_dropped(layer, monkeypatch):
    node, own, other = layer
    gpu = measuring.Here("a GPU")

    def fail(*_):
        raise DeviceError("no algorithm")

    monkeypatch.setattr(library, "absent", lambda: None)
    monkeypatch.setattr(measuring, "prepare", fail)
    with pytest.warns(UserWarning, match="by cublaslt: no algorithm"):
        assert gpu.measure(node, own, TARGET, 1) == np.inf
    with pytest.raises(DeviceError):
        gpu.measure(node, other, TARGET, 1)
    choice = choose("layer", [own, other], machine=RATES,
                    measure=lambda option, times=1: np.inf if option is own else 1e-5)
    assert [choice.reason(each) for each in choice.losers] == ["it failed where it was timed"]


def test_programs_that_call_an_absent_library_are_not_compared(monkeypatch):
    def fail():
        raise ToolchainError("it is missing")

    backend = backend_of(TARGET)
    monkeypatch.setattr(library, "load", fail)
    monkeypatch.setattr(driver, "probe", lambda: driver.Gpu((13, 0), (9, 0)))
    assert backend.missing() is backend.missing({"archs": ("sm_90",)}) is None
    assert "cuBLASLt (libcublasLt.so.13) is missing" in backend.missing({"libraries": ("cublaslt",)})
    options = CompileOptions(TARGET)
    artifact = SimpleNamespace(manifest=SimpleNamespace(needs={"libraries": ("cublaslt",)}))
    skipped = _verified(None, artifact, options, SimpleNamespace(precision="fp16"))
    assert skipped.skipped.startswith("here cuBLASLt")


@needs_emulator
@pytest.mark.parametrize(("build", "precision", "count"), [
    (networks.transformer, "fp16", 6), (networks.transformer, "bf16", 6), (networks.network, "fp16", 2)])
def test_models_match_onnxruntime(loaded, build, precision, count):
    model = build(prune=lambda weight: weight)
    graph = planned(model, precision)
    chosen = [choice.winner.option.kernel for node in graph.graph if (choice := CHOICE.get(node))]
    lowered = lower(graph, TARGET, precision)
    assert chosen.count("cublaslt") == count
    assert libraries(lowered.module) == ("cublaslt",)
    feeds = random_feeds(reader.load(model))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for mine, reference in zip(walk.run(lowered, feeds), session.run(None, feeds), strict=True):
        assert np.abs(mine - reference).max() <= HALF_PRECISIONS[precision] * np.abs(reference).max()


@needs_emulator
def test_run_time_sizes_match_onnxruntime(loaded, preferred):
    graph = networks.Graph(prune=lambda weight: weight)
    graph("Relu", graph.linear(graph("Relu", graph.linear("x", 64, 64)), 64, 64), name="y")
    model = networks.symbolic(graph.model({"x": (TensorProto.FLOAT, ["n", 64])}, {"y": ["n", 64]}), "n")
    with sized.emulated():
        compiled = sized.Compiled(model, TARGET.name)
        assert compiled.artifact.manifest.needs["libraries"] == ("cublaslt",)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        for rows in (3, 20):
            x = np.random.default_rng(0).standard_normal((rows, 64)).astype(np.float32)
            (mine,), (reference,) = compiled({"x": x}), session.run(None, {"x": x})
            assert np.abs(mine - reference).max() <= HALF_PRECISIONS["fp16"] * np.abs(reference).max()


def halves(rows=8):
    """Two layers of float16 with a residual, which no other kernel touches."""
    rng = np.random.default_rng(0)
    weights = {name: rng.integers(-2, 3, (256, 256)).astype(np.float16) for name in ("v", "w")}
    nodes = [helper.make_node("MatMul", ["x", "v"], ["u"]), helper.make_node("Relu", ["u"], ["h"]),
             helper.make_node("MatMul", ["h", "w"], ["z"]), helper.make_node("Add", ["z", "x"], ["y"])]
    shape = [rows, 256]
    graph = helper.make_graph(
        nodes, "halves", [helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


RUN = """
import json, sys
import numpy as np
from tests.support.cuda import host_gpu
from tests.support.cuda.host_gpu import changed, refused
from sparsec.runtime.session import InferenceSession
path = sys.argv[1] + "/model.sparsec"
"""


@pytest.fixture
def folder(tmp_path, preferred):
    """A folder with the GPU's double and an artifact whose products are the library's."""
    if driver.probe() is not None:
        pytest.skip("there is an NVIDIA driver here")
    host_gpu.build(tmp_path)
    onnx.save(halves(), tmp_path / "model.onnx")
    artifact = sparsec.compile(tmp_path / "model.onnx", TARGET.name)
    assert [layer["kernel"] for layer in artifact.report["layers"]] == ["cublaslt"] * 2
    artifact.save(tmp_path / "model.sparsec")
    return tmp_path


@needs_nvcc
def test_a_session_records_its_products_and_replays_them(folder):
    host_gpu.build_cublaslt(folder)
    found = host_gpu.told(folder, RUN + """
session = InferenceSession(path)
before = host_gpu.counts()
for _ in range(3):
    session.run(None, {"x": np.zeros((8, 256), np.float16)})
print(json.dumps({"changed": changed(before), "log": [row[:2] for row in host_gpu.log()]}))
""", HOST_GPU_CAPABILITY="90")
    calls = [what for what, name in found["log"] if name == "cublaslt"]
    assert calls == ["launch"] * 2 + ["record"] * 2
    assert found["changed"] == {"copies": 6, "replays": 3}


PRODUCT = """
from sparsec.backends.cuda.device import open_memory
from sparsec.backends.cuda.measuring import compiled, loaded
from sparsec.kernels.cuda.cublaslt import FAMILY
from sparsec.kernels.cuda.params import MmaParams
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.machine.memory import Launch, Transfer
from sparsec.target import resolve
p = MmaParams(64, 8, 264, FAMILY.tiles[-1], epilogue=Epilogue("relu", residual=True))
function = loaded(compiled("cublaslt", p, resolve("cuda-sm90+cublaslt"))[0])
memory, rng = open_memory(("sm_90",), (13, 0), ("cublaslt",)), np.random.default_rng(0)
given = {name: rng.integers(-3, 4, size if name != "partial" else 1).astype(dtype) + np.zeros(size, dtype)
         for name, (size, dtype) in FAMILY.arguments(p).items()}
there, lane = {name: memory.place(array) for name, array in given.items()}, memory.lane()
again = lane.record([Launch(function, list(there.values()))])
x = rng.integers(-3, 4, p.inputs).astype(np.float16)  # of another call
arrays = [lane.pinned(array.nbytes).view(np.float16) for array in (x, given["y"])]
arrays[0][:] = x
views = [lane.view(there[name], 0, given[name].shape, "float16") for name in ("x", "y")]
lane.do([Transfer(arrays[0], views[0], back=False)])
again([Transfer(arrays[1], views[1], back=True)])
wide = {name: array.astype(float) for name, array in given.items()}
y = x.reshape(8, 264).astype(float) @ wide["values"].reshape(64, 264).T + wide["bias"]
right = np.maximum(y + wide["residual"].reshape(8, 64), 0)
odd = lane.view(there["x"], 2, given["x"].shape, "float16")
error = refused(lambda: lane.do([Launch(function, [*list(there.values())[:2], odd, *list(there.values())[3:]])]))
print(json.dumps({"right": bool((arrays[1].reshape(8, 64) == right).all()), "error": error}))
"""


@needs_nvcc
def test_a_recorded_product_computes_on_what_is_there(folder):
    host_gpu.build_cublaslt(folder)
    found = host_gpu.told(folder, RUN + PRODUCT, HOST_GPU_CAPABILITY="90")
    assert found["right"]
    assert found["error"].startswith("DeviceError: cuBLASLt has no algorithm for 8 tokens by a weight of 64 x 264")


@needs_nvcc
def test_without_the_library_a_session_names_the_package(folder):
    error = host_gpu.told(folder, RUN + "print(json.dumps(refused(lambda: InferenceSession(path))))",
                          HOST_GPU_CAPABILITY="90")
    assert error.startswith("ToolchainError: kernels of the artifact call cuBLASLt (libcublasLt.so.13)")
    assert "pip install nvidia-cublas" in error
    assert "\n" not in error
