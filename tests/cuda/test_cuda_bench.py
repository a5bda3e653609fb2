"""`bench/cuda_bench.py`: what it builds for a GPU is complete and runs where one is; how it records and renders."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.cuda import driver
from tests.support.cuda import host_gpu
from tests.support.cuda.sass import NVCC

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.append(str(BENCH))

import cuda_bench as cuda_bench_script  # noqa: E402 - scripts, which are no package
from cuda_clock import Engine, Rehearsal, measure  # noqa: E402
from cuda_results import Results  # noqa: E402
from cuda_table import render  # noqa: E402

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
    cuda_bench("build", folder, "lenet300-24", "--target", "cuda-sm80", "--sizes", 256, "--columns", 16, "--tiles", 1)
    return folder


LAUNCH = """
import json, sys
from pathlib import Path
import numpy as np
sys.path.append("bench")
import cuda_kernels
from sparsec.machine.memory import CUDA, on_device
from tests.support.cuda import host_gpu
folder, place = Path(sys.argv[1]), on_device(CUDA).place
library, launched = cuda_kernels.library(folder / "kernels.so"), {}
for case in json.loads((folder / "plan.json").read_text())["cases"]:
    for candidate in case.get("candidates", []):
        arrays = [a.numpy().view(np.uint32) if unsigned else a.numpy()
                  for a, unsigned in cuda_kernels.packed(folder / candidate["packed"], "cpu")]
        partial = [np.zeros(candidate["partial"], np.float32)] if candidate["partial"] else []
        x = np.zeros(case["size"] * case["columns"], np.float16)
        before = len(host_gpu.log())
        library[candidate["symbol"]](*map(place, [*arrays, np.zeros(case["size"], np.float32), x, *partial, x]))
        launched[candidate["symbol"]] = len(host_gpu.log()) - before
print(json.dumps(launched))
"""


@needs_no_gpu
@pytest.mark.skipif(host_gpu.COMPILER is None, reason="the host's GPU needs gcc")
def test_the_kernels_load_and_launch_with_what_was_packed(built, tmp_path):
    host_gpu.build(tmp_path)
    done = subprocess.run([sys.executable, "-c", LAUNCH, built], capture_output=True, text=True, check=False,
                          env=host_gpu.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    launched = json.loads(done.stdout)
    assert {symbol.partition("_256")[0] for symbol in launched} == {
        "nm_2_4_mma_sp", "bitmap_bitmap", "gaps_8_gaps", "dense_mma"}
    assert set(launched.values()) <= {1, 2}  # two where K is split


@needs_no_gpu
def test_without_a_gpu_a_run_says_so(tmp_path):
    told = cuda_bench("run", tmp_path, "-o", tmp_path / "cuda.json", code=1)
    assert "no GPU: there is no NVIDIA driver" in told
    assert not (tmp_path / "cuda.json").exists()


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
    assert figures["cases"]["lenet300-24"]["engines"]["PyTorch dense"]["call_us"] > 0
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
