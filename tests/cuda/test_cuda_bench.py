"""`bench/cuda_bench.py`: what it builds for a GPU is complete and runs where one is; how it records and renders."""

import functools
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from sparsec.artifact.file import Artifact
from sparsec.backends.cuda import driver
from sparsec.backends.cuda import products as packing
from sparsec.backends.cuda.dependent import TAG
from sparsec.kernels.cuda import eight_bits
from tests.support.cuda import host_gpu
from tests.support.cuda.sass import NVCC, needs_nvcc

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.append(str(BENCH))

import cuda_bench as cuda_bench_script  # noqa: E402 - scripts, which are no package
import cuda_kernels  # noqa: E402
import cuda_peers  # noqa: E402
from cuda_clock import Engine, Rehearsal, measure  # noqa: E402
from cuda_plan import SEARCHED, Product, products  # noqa: E402
from cuda_results import Results  # noqa: E402
from cuda_table import render  # noqa: E402

needs_host_gpu = pytest.mark.skipif(host_gpu.COMPILER is None, reason="the host's GPU needs gcc")
needs_no_gpu = pytest.mark.skipif(driver.probe() is not None, reason="there is an NVIDIA driver here")


def cuda_bench(*arguments, environment=None, code=0):
    done = subprocess.run([sys.executable, BENCH / "cuda_bench.py", *map(str, arguments)], capture_output=True,
                          text=True, check=False, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder that the step `build` has filled."""
    pytest.importorskip("torch", reason="networks are PyTorch's")
    if NVCC is None:
        pytest.skip("needs nvcc, for example from the package nvidia-cuda-nvcc")
    folder = tmp_path_factory.mktemp("built")
    cuda_bench("build", folder, "lenet300-24", "lenet300-24x8", "--target", "cuda-sm80", "--sizes", 256,
               "--columns", 16, "--tiles", 1, "--zeros", 90)
    return folder


LAUNCH = """
import json, sys
from pathlib import Path
import numpy as np
sys.path.append("bench")
import cuda_kernels
from sparsec.machine.memory import CUDA, on_device
from tests.support.cuda import host_gpu
folder, place, name = Path(sys.argv[1]), on_device(CUDA).place, sys.argv[2]
library, launched = cuda_kernels.library(folder / name), {}
for case in json.loads((folder / "plan.json").read_text())["cases"]:
    for candidate in case.get("candidates", []):
        if candidate["library"] or (name == cuda_kernels.EARLY and not candidate.get("early")):
            continue  # tests/cuda/test_cublaslt.py has its double
        arrays = [a.numpy().view(np.uint32) if unsigned else a.numpy()
                  for a, unsigned in cuda_kernels.packed(folder / candidate["packed"], "cpu")]
        length, dtype = candidate["partial"]
        partial = [np.zeros(length, dtype)] if length else []
        x, y = (np.zeros(case["size"] * case["columns"], each) for each in (candidate["x"], "float16"))
        before = len(host_gpu.log())
        library[candidate["symbol"]](*map(place, [*arrays, np.zeros(case["size"], candidate["bias"]), x, *partial, y]))
        launched[candidate["symbol"]] = [what for what, *_ in host_gpu.log()[before:]]
print(json.dumps(launched))
"""


def launched(folder, name, place, **settings):
    """What every kernel of a library does when it is called, in a process with the host's double of CUDA."""
    host_gpu.build(place)
    done = subprocess.run([sys.executable, "-c", LAUNCH, folder, name], capture_output=True, text=True, check=False,
                          env=host_gpu.environment(place, **settings))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_no_gpu
@needs_host_gpu
def test_the_kernels_load_and_launch_with_what_was_packed(built, tmp_path):
    found = launched(built, cuda_kernels.LIBRARY, tmp_path)
    assert {symbol.partition("_256")[0] for symbol in found} == {
        "nm_2_4_mma_sp", "bitmap_bitmap", "gaps_8_gaps", "dense_mma", "nm_2_4_mma_sp_int8", "dense_mma_int8"}
    assert all(each in (["launch"], 2 * ["launch"]) for each in found.values())  # two where K is split


@needs_no_gpu
def test_without_a_gpu_a_run_says_so(tmp_path):
    told = cuda_bench("run", tmp_path, "-o", tmp_path / "cuda.json", code=1)
    assert "no GPU: there is no NVIDIA driver" in told
    assert not (tmp_path / "cuda.json").exists()


@pytest.mark.parametrize(("capability", "told"), [((8, 0), "sm_80"), ((10, 0), "sm_100")])
def test_a_gpu_that_the_kernels_are_not_for_is_refused_in_a_line(tmp_path, monkeypatch, capability, told):
    (tmp_path / "plan.json").write_text(json.dumps({"target": "cuda-sm90", "archs": ["sm_90a"], "cases": []}))
    monkeypatch.setattr(driver, "probe", lambda: driver.Gpu((13, 0), capability))
    reason = cuda_bench_script.missing(tmp_path)
    assert f"holds code for sm_90a alone and this GPU is an {told}" in reason
    assert "\n" not in reason


def test_a_package_names_what_the_machine_lacks_and_says_what_it_would_measure(tmp_path):
    (tmp_path / "cases").mkdir()
    case = {"case": "256 x 256, 16", "candidates": [{}, {}]}
    plan = {"built": "today", "target": "cuda-sm90", "cases": [case]}
    (tmp_path / "cases" / "plan.json").write_text(json.dumps(plan))
    cuda_bench("pack", tmp_path / "cases", tmp_path / "gpu.tar.gz")
    shutil.unpack_archive(tmp_path / "gpu.tar.gz", tmp_path / "machine", filter="data")
    script = tmp_path / "machine" / "sparsec-gpu" / "measure.sh"

    def told(*arguments, python=sys.executable):
        done = subprocess.run(["sh", script, *arguments], capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHON": python, "PYTHONPATH": ""})
        return done.returncode, (done.stdout + done.stderr).splitlines()

    venv.create(tmp_path / "bare", with_pip=False)
    code, (line,) = told(python=tmp_path / "bare" / "bin" / "python")
    assert code == 1
    assert line.startswith("measure.sh: python lacks numpy, torch, apache-tvm-ffi, apache-tvm; install them, or name")
    assert "--list" in (script.parent / "README").read_text()
    if importlib.util.find_spec("torch") is None:
        pytest.skip("the package asks for PyTorch before it says more")
    code, lines = told("--list")
    assert code == 0
    assert lines == ["built today for cuda-sm90; 1 of 1 cases are left, in this order:",
                     "256 x 256, 16: 2 kernels of sparsec's and PyTorch",
                     ("No case begins after 7 minutes, and the one under way ends 45 s later at the latest; an engine "
                      "that writes nothing for 120 s is left out.")]
    assert told("--help")[0] == 0


def test_options_of_equal_arrays_are_packed_once(tmp_path, monkeypatch):
    counted = []
    pack = packing.weight_arrays
    monkeypatch.setattr(packing, "weight_arrays", lambda *given: counted.append(given) or pack(*given))
    monkeypatch.setattr(cuda_kernels, "write_library", lambda *_given, **_named: None)
    cases, _ = cuda_kernels.build(tmp_path, "cuda-sm80", [Product(256, 16), Product(256, 64)], tiles=2)
    found = [each for case in cases for each in case["candidates"]
             if each["kernel"].startswith("mma") and "int8" not in each["kernel"]]
    assert len(found) == 8  # dense and 2:4, two tiles of each for either number of tokens
    assert len({(each["format"], each["packed"]) for each in found}) == 2
    kept = [offer for _, offer, _ in counted if offer.kernel in {each["kernel"] for each in found}]
    assert len(kept) == 2


@needs_no_gpu
@needs_nvcc
@needs_host_gpu
def test_the_best_predicted_kernel_for_few_tokens_is_also_launched_early(tmp_path):
    pytest.importorskip("torch", reason="kernels are timed on PyTorch's tensors")
    cases, archs = cuda_kernels.build(tmp_path, "cuda-sm90", [Product(256, 16)], tiles=1)
    assert archs == ("sm_90a",)  # a kernel for warp groups among them
    (tmp_path / "plan.json").write_text(json.dumps({"cases": cases}))
    own = [each for each in cases[0]["candidates"] if not each["library"]]
    best = min(own, key=lambda each: each["predicted_us"])["symbol"]
    found = launched(tmp_path, cuda_kernels.EARLY, tmp_path, HOST_GPU_CAPABILITY="90")
    assert {symbol: set(what) for symbol, what in found.items()} == {best: {"early", "launch"}}
    measured = {each["symbol"]: {"us": 3.0, "error": 0.0, **each} for each in own}
    measured["early"] = {"us": 2.0, "error": 0.0, "early_of": best}
    table = render({"cases": {"256 x 256, 16": {**cases[0], "engines": measured}}})
    assert "| 3.0 | 2.0 | 1.50 |" in table


def test_the_first_products_are_of_every_kind_and_searches_share_a_process():
    found = products()
    assert {(each.precision, each.zeros) for each in found[:cuda_bench_script.FIRST]} == {
        ("fp16", 0), ("int8", 0), ("fp8", 0), ("fp16", 90)}
    assert len({each.name for each in found}) == len(found)
    assert {(each.zeros, each.columns) for each in found if each.zeros} == {
        (zeros, columns) for zeros in (50, 70, 80, 90, 95) for columns in (1, 4, 8, 16)}
    groups = [process for process, _ in itertools.groupby(each.process for each in found)]
    assert groups == ["", SEARCHED, ""]


def test_a_run_whose_time_has_passed_says_what_is_left(built, tmp_path):
    told = cuda_bench("run", built, "-o", tmp_path / "cuda.json", "--rehearse", "--minutes", 0)
    count = len(json.loads((built / "plan.json").read_text())["cases"])
    assert f"{count} cases are left, the next is 256 x 256, 16" in told


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_peers_of_8_bits_multiply_what_the_kernels_do(tmp_path, precision):
    torch = pytest.importorskip("torch", reason="peers are PyTorch's")
    product = Product(64, 24, precision=precision)
    layer, scale = cuda_kernels.layer_of(product)
    cuda_kernels.write_weight(tmp_path, product)
    case = {**product.case, "weight": cuda_kernels.weight_file(product), "x_scale": scale, "candidates": []}
    given = cuda_kernels.operands(tmp_path, case, Rehearsal())
    x = np.random.default_rng(24).standard_normal((24, 64), np.float32)
    expected = eight_bits.product(layer, layer.weight, x.T, "int8" if precision == "int8" else "e4m3").T
    np.testing.assert_allclose(given.expected, expected, atol=1e-5 * np.abs(expected).max())
    engines = cuda_kernels.engines(tmp_path, case, Rehearsal())
    peers = [engines[name] for name in engines if "_mm" in name and hasattr(torch, name.split()[-1])]
    assert all(each().error < 5e-3 for each in peers)


def test_a_version_of_pytorch_without_a_function_says_which(monkeypatch):
    torch = pytest.importorskip("torch", reason="peers are PyTorch's")
    monkeypatch.delattr(torch, "_int_mm", raising=False)
    with pytest.raises(AttributeError, match=r"PyTorch .* has no torch\._int_mm"):
        cuda_peers.needed("_int_mm")


@needs_no_gpu
def test_a_rehearsal_of_the_package_goes_through_every_engine_and_a_second_one_has_nothing_to_do(built, tmp_path):
    told = cuda_bench("pack", built, tmp_path / "gpu.tar.gz")
    assert "MB; where the GPU is: tar xf gpu.tar.gz" in told
    shutil.unpack_archive(tmp_path / "gpu.tar.gz", tmp_path, filter="data")
    folder = tmp_path / "sparsec-gpu"
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(["sh", folder / "measure.sh", "--rehearse"], check=True, env=environment)
    output = folder / "cuda.json"
    assert "rehearsal" in (folder / "cuda.md").read_text()
    figures = json.loads(output.read_text())
    cases = json.loads((built / "plan.json").read_text())["cases"]
    assert list(figures["cases"]) == [case["case"] for case in cases]
    for case in figures["cases"].values():
        assert all(("us" in each) != ("failed" in each) for each in case["engines"].values())
        assert all(each["error"] < 1e-2 for each in case["engines"].values() if "us" in each)
    for name in ("lenet300-24", "lenet300-24x8"):
        assert figures["cases"][name]["engines"]["PyTorch dense"]["call_us"] > 0
    cuda_bench("run", built, "-o", output, "--rehearse")
    assert json.loads(output.read_text()) == figures
    table = cuda_bench("table", output)
    assert "rehearsal" in table
    assert "lenet300-24, sparsec: ArtifactError" in table


@pytest.mark.parametrize(("code", "reason"), [("pass", None), ("import os; os.kill(os.getpid(), 9)", "code -9"),
                                              ("import time; time.sleep(60)", "hung")])
def test_a_process_that_crashes_or_hangs_is_noticed(tmp_path, monkeypatch, code, reason):
    if reason == "hung":
        monkeypatch.setattr(cuda_bench_script, "STALLED_S", 2)
    found = cuda_bench_script.watch([sys.executable, "-c", code], tmp_path / "cuda.json")
    assert found is None if reason is None else reason in found


def test_a_process_that_takes_too_long_is_ended_and_no_engine_is_to_blame(tmp_path):
    code = "import time; time.sleep(60)"
    assert cuda_bench_script.watch([sys.executable, "-c", code], tmp_path / "cuda.json", time.time() + 1) is None


def engine():
    return Engine([lambda: None], 0.0)


def test_what_ends_a_process_is_left_out_of_the_next(tmp_path):
    results = Results(tmp_path / "cuda.json")
    results.begin("case", "hangs")
    assert Results(tmp_path / "cuda.json").blame("hung for 120 s")
    results = Results(tmp_path / "cuda.json")
    assert not results.blame("nothing is under way")
    measure(results, "case", {"hangs": engine, "raises": lambda: 1 // 0, "runs": engine}, Rehearsal())
    known = Results(tmp_path / "cuda.json").engines("case")
    assert known["hangs"] == {"failed": "hung for 120 s"}
    assert "ZeroDivisionError" in known["raises"]["failed"]
    assert known["runs"]["us"] > 0
    assert Results(tmp_path / "cuda.json").done("case")


def kernel(form, us, predicted, error=0.0):
    return {"format": form, "tile": f"{us:g}", "us": us, "predicted_us": predicted, "error": error}


def test_the_table_shows_regret_choices_slower_than_dense_and_wrong_kernels():
    engines = {"PyTorch dense, cuBLAS": {"us": 12.0, "error": 0.0},
               "a": kernel("nm 2:4", 9.0, 5.0), "b": kernel("nm 2:4", 8.0, 6.0),
               "c": kernel("dense", 6.0, 7.0), "d": kernel("dense", 1.0, 7.0, error=0.5)}
    case = {"kind": "product", "size": 64, "columns": 16, "engines": engines}
    table = render({"device": "a GPU", "date": "today", "cases": {"64 x 64, 16": case}})
    assert "| 64 x 64, 16 | 12.0 | 6.0 | 8.0 | 2.00 |" in table  # the fastest of each format; PyTorch / sparsec
    assert "| 64 x 64, 16 | nm 2:4, 9 | 5.0 | 9.0 | dense, 6 | 1.50 | 1.50 |" in table
    assert "slower than sparsec's own dense kernel: 64 x 64, 16 (1.50)" in table
    assert "64 x 64, 16, d: wrong by 5.0e-01" in table


@pytest.mark.parametrize("kind", ["mobilenetv1", "encoder"])
def test_pytorch_peers_compute_the_same_network(kind):
    torch = pytest.importorskip("torch", reason="networks are PyTorch's")
    import cuda_models
    import make_models

    if kind == "encoder":
        net, inputs = make_models.Encoder(64, 2, 128), (torch.randn(1, 16, 64), torch.zeros(1, 1, 1, 16))
    else:
        net, inputs = make_models.network("mobilenetv1-24")
    with torch.no_grad():
        expected = net.eval()(*inputs)
        found = cuda_models.folded(net)(*inputs)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_a_decoders_step_is_that_of_every_engine(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="networks are PyTorch's")
    import cuda_decoder
    import make_dynamic

    from sparsec.compiler import compile as compiler
    from sparsec.runtime import session

    sizes = {"LAYERS": 2, "WIDTH": 64, "HEADS": 4, "GROUPS": 2, "INNER": 96, "VOCABULARY": 50, "DEPTH": 16}
    for name, size in sizes.items():
        monkeypatch.setattr(make_dynamic, name, size)
    # onnxruntime takes sparsec's place: compiling for all sizes takes longer than all else here.
    monkeypatch.setattr(compiler, "compile", lambda path, *_args, **_options: SimpleNamespace(
        save=functools.partial(shutil.copy, path)))
    monkeypatch.setattr(session, "InferenceSession", onnxruntime.InferenceSession)
    (case,) = cuda_decoder.build(tmp_path, "cuda-sm80", ["decoder-24"], past=(40,))
    results = Results(tmp_path / "cuda.json")
    measure(results, case["case"], cuda_decoder.engines(tmp_path, case, Rehearsal()), Rehearsal(), rounds=2)
    found = results.engines("decoder-24, past 40")
    assert {name: "us" in each for name, each in found.items()} == {
        "sparsec": False, "PyTorch dense, eager": False, "PyTorch dense, graph": True}
    assert all(each["error"] < 5e-3 and each["call_us"] > 0 for each in found.values())
    results.figures["cases"][case["case"]]["kind"] = "decoder"
    assert "| decoder-24, past 40 | sparsec | - | " in render(results.figures)


@needs_nvcc
def test_a_model_is_also_compiled_to_be_launched_early(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="networks are PyTorch's")
    import cuda_models

    monkeypatch.setattr(cuda_models, "EARLY", ("lenet300-24",))
    for target, early in {"cuda-sm90": True, "cuda-sm80": False}.items():
        (case,) = cuda_models.build(tmp_path, target, ["lenet300-24"])
        assert case["early"] is early
        assert ("sparsec, early" in cuda_models.engines(tmp_path, case, Rehearsal())) is early
    plain, early = (Artifact.load(tmp_path / f"lenet300-24{end}.sparsec").library for end in ("", "-early"))
    assert (TAG in plain, TAG in early) == (False, True)
