"""Calibrating GPUs: what is measured, derived from times, kept, read back, used and refused."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sparsec.backends.cuda import driver
from sparsec.backends.cuda.rates import rates_of
from sparsec.bench import gpu_efficiency
from sparsec.cost.gpu import DEVICES, SHARES, TOKENS
from sparsec.cost.gpu_calibration import GpuRates, completed, default_path, derived, keep, kept, key
from sparsec.cost.option import GpuWork
from sparsec.files import shown
from sparsec.target import resolve
from tests.support.cli import sparsec, write_model
from tests.support.cuda import host_gpu
from tests.support.cuda.sass import needs_nvcc

FIGURES = json.loads((Path(__file__).parents[2] / "bench" / "figures" / "products-h200.json").read_text())
SM90, SM80 = resolve("cuda-sm90"), resolve("cuda-sm80")
H200 = DEVICES["sm_90"]
TWICE = GpuRates(3e-6, 3e12, 6e12, 100, {"wgmma": [2.0] * len(TOKENS)})
NO_DRIVER = pytest.mark.skipif(driver.probe() is not None, reason="there is an NVIDIA driver here")
DOUBLE = [needs_nvcc, pytest.mark.skipif(host_gpu.COMPILER is None, reason="the host's GPU needs gcc"), NO_DRIVER]


def measured_on_h200():
    """The work of every kernel that was timed there, and its seconds, by case."""
    return [[(GpuWork(**{**each["work"], "columns": case["columns"]}), each["us"] / 1e6)
             for each in case["engines"].values() if "work" in each] for case in FIGURES["cases"].values()]


def best(device):
    """What a calibration has of these: of every family the tile that is predicted to be the fastest."""
    return [min((each for each in case if each[0].kernel == kernel), key=lambda each: device.seconds(each[0]))
            for case in measured_on_h200() for kernel in sorted({work.kernel for work, _ in case})]


def error(device):
    """How far predictions of all of them are off on average."""
    logs = [abs(math.log(device.seconds(work) / seconds)) for case in measured_on_h200() for work, seconds in case]
    return sum(logs) / len(logs)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Makes a GPU be at hand, with caches of its own; returns what names it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def named(name, capability=(9, 0)):
        monkeypatch.setattr(driver, "probe", lambda: driver.Gpu((13, 0), capability))
        monkeypatch.setattr(driver, "name", lambda: name)

    return named


def test_factors_from_what_an_h200_took_are_near_one_beside_the_rates_fitted_to_it():
    factors = derived(best(H200), H200)
    assert {"mma", "mma.sp", "wgmma", "wgmma.sp"} <= factors.keys()
    assert all(0.9 < each < 1.15 for row in factors.values() for each in row)
    assert error(replace(H200, factors=factors)) < 1.1 * error(H200)


def test_factors_correct_rates_of_data_sheets():
    sheet = replace(H200, shares={**SHARES, "wgmma": 1.0, "wgmma.sp": 1.35}, l2_bytes_per_s=6.5e10)
    assert error(replace(sheet, factors=derived(best(sheet), sheet))) < 0.6 * error(sheet)


def test_a_factor_of_two_doubles_what_its_family_takes_beside_the_launch():
    slow = replace(H200, factors=TWICE.factors)
    for work, _ in best(H200):
        times = 2 if work.kernel == "wgmma" else 1
        assert slow.seconds(work) - slow.overhead(work) == pytest.approx(
            times * (H200.seconds(work) - H200.overhead(work)))


def test_factors_are_means_and_interpolated_between_tokens():
    work, other = (replace(best(H200)[0][0], kernel="mma", columns=columns) for columns in (16, 1024))
    alone = H200.seconds(work) - H200.overhead(work)
    timed = [(work, H200.overhead(work) + times * alone) for times in (2, 8)] + [(other, H200.seconds(other))]
    row = derived(timed, H200)["mma"]
    assert row == pytest.approx([4.0, 4.0, 2.0, 1.0])
    known = replace(H200, factors={"mma": row})
    assert known.factor(replace(work, columns=64)) == pytest.approx(4 - 2 * math.log(4) / math.log(8))
    assert known.factor(replace(work, kernel="wgmma")) == 1.0
    assert completed({"a": [1.0] * 4, "b": [4.0] * 4}, ["a", "b", "c"])["c"] == pytest.approx([2.0] * 4)


def test_what_is_kept_is_read_back_and_used_on_the_gpu_of_that_name_alone(here):
    path = keep(key(SM90, "NVIDIA H100 PCIe"), TWICE)
    keep(key(SM90, "NVIDIA H200"), TWICE)
    assert kept(path) == {key(SM90, name): TWICE for name in ("NVIDIA H100 PCIe", "NVIDIA H200")}
    here("NVIDIA H100 PCIe")
    found = rates_of(SM90)
    assert found.source == f"measured on this NVIDIA H100 PCIe, {shown(path)}"
    assert found.machine.factors == TWICE.factors
    assert (found.machine.memory_bytes_per_s, found.machine.l2_bytes_per_s) == (3e12, 6e10)
    assert found.machine.mma_per_s == pytest.approx(H200.mma_per_s * 100 / 132)
    assert rates_of(SM80).machine is DEVICES["sm_80"]
    here("NVIDIA H200")  # to which the bandwidths were fitted
    assert rates_of(SM90).machine == replace(H200, launch_s=3e-6, factors=TWICE.factors)
    here("NVIDIA GH200 480GB")
    assert rates_of(SM90).machine is H200
    assert "NVIDIA GH200" not in rates_of(SM90).source


def test_without_a_gpu_what_is_shipped_counts(here, monkeypatch):
    keep(key(SM90, "NVIDIA H200"), TWICE)
    here("NVIDIA H200", None)
    assert rates_of(SM90).machine is H200
    monkeypatch.setattr(driver, "probe", lambda: pytest.fail("the driver is not asked for nothing"))
    assert rates_of(SM80).machine is DEVICES["sm_80"]


@pytest.mark.parametrize("change", [
    {"launch_s": -1.0}, {"memory_bytes_per_s": float("nan")}, {"l2_bytes_per_s": "x"}, {"multiprocessors": 0},
    {"factors": {"wgmma": [1.0]}}, {"factors": {"wgmma": [1.0, 1.0, 1.0, -1.0]}}, {"factors": None}, None])
def test_a_corrupt_file_is_ignored_with_a_warning_that_names_it_and_rewritten(here, change):
    path, name = keep(key(SM90, "NVIDIA H200"), TWICE), key(SM90, "NVIDIA H200")
    path.write_text("{" if change is None else json.dumps({name: {**asdict(TWICE), **change}}))
    here("NVIDIA H200")
    with pytest.warns(UserWarning, match=r"gpu-calibration\.json.*calibrate --target cuda"):
        assert rates_of(SM90).machine is H200
    with pytest.warns(UserWarning, match=r"gpu-calibration\.json"):
        keep(name, TWICE)
    assert kept(path) == {name: TWICE}


@pytest.mark.parametrize("target", [SM80, SM90], ids=lambda target: target.name)
def test_every_family_that_is_offered_is_timed_at_every_number_of_tokens(target, monkeypatch):
    monkeypatch.setattr(gpu_efficiency, "SIZES", (512,))
    device, timed = DEVICES[target.archs[0]], []

    def prepare(layer, option, _target):
        timed.append((layer.columns, option.family))
        return lambda: 2 * device.seconds(option.work) - device.overhead(option.work)

    found = gpu_efficiency.measure(target, device, float("inf"), prepare)
    assert sorted(set(timed)) == sorted(timed)
    assert {columns for columns, _ in timed} == set(TOKENS)
    assert {"mma", "mma.sp", "mma int8", "mma.sp int8", "mma blocks", "gaps", "bitmap"} <= found.timed
    assert found.timed == set(found.kernels)
    assert ("wgmma.sp" in found.timed) == ("wgmma fp8" in found.timed) == (target is SM90)
    assert (found.sizes, found.of, found.differ) == (4, 4, (0.0, 0.0))
    assert all(row == pytest.approx([2.0] * len(TOKENS)) for row in found.factors(device).values())


def test_a_calibration_ends_with_its_time_and_gives_what_is_missing_the_mean(monkeypatch):
    monkeypatch.setattr(gpu_efficiency, "SIZES", (512,))
    found = gpu_efficiency.measure(SM80, DEVICES["sm_80"], 0.0, lambda *_: lambda: 1.0)
    assert (len(found.times), found.sizes, found.of) == (1, 0, 4)
    factors = found.factors(DEVICES["sm_80"])
    assert set(found.kernels) == set(factors) > found.timed
    assert len({tuple(row) for row in factors.values()}) == 1


@NO_DRIVER
def test_without_a_driver_the_command_is_one_clear_line():
    (line,) = sparsec("calibrate", "--target", "cuda-sm90", code=1).splitlines()
    assert line == ("sparsec: error: 'cuda-sm90' cannot be calibrated here: there is no NVIDIA driver (libcuda.so.1); "
                    "calibrate where the GPU is")


@pytest.mark.parametrize(("given", "words"), [
    (("--target", "cpu-avx2"), "its GPU, such as cuda-sm90"), (("--target", "eie"), "its GPU, such as cuda-sm90"),
    (("--target", "cuda-sm90", "--threads", "2"), "leave --threads out"),
    (("--target", "cuda-sm90", "--on", "ray://a:1"), "one by one")])
def test_what_is_no_gpu_of_this_machine_is_refused(given, words):
    assert words in " ".join(sparsec("calibrate", *given, code=2).split())


RUN = """
import json, sys
from typer.testing import CliRunner
from sparsec.backends.cuda import calibrate
from sparsec.bench import gpu_efficiency
from sparsec.cli import app
calibrate.FAR_BYTES, gpu_efficiency.SIZES = 8 << 20, (256,)
folder = sys.argv[1]
def told(*arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output
said = told("calibrate", "--target", "cuda-sm80", "--seconds", "1", "--json", folder + "/rates.json")
told("explain", folder + "/model.onnx", "--target", "cuda-sm80", "--json", folder + "/here.json")
told("explain", folder + "/model.onnx", "--target", "cuda-sm90", "--json", folder + "/other.json")
print(json.dumps({"said": said}))
"""


class TestOnTheHost:
    """The whole command on a GPU that measures nothing: every replay takes it a tenth of a millisecond."""

    pytestmark = DOUBLE

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("host_gpu")
        host_gpu.build(folder)
        write_model(folder / "model.onnx")
        return folder

    def test_it_measures_keeps_and_names_what_explain_predicts_with(self, folder, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        said = " ".join(host_gpu.told(folder, RUN)["said"].split())
        rates = json.loads((folder / "rates.json").read_text())
        assert rates["gpu"] == "host"
        assert rates["launch_s"] == pytest.approx(1e-6)  # of a hundred
        assert rates["memory_bytes_per_s"] == pytest.approx((8 << 20) / (1e-4 - 1e-6))
        entry = kept(default_path())[key(SM80, "host")]
        assert asdict(entry) == {name: rates[name] for name in asdict(entry)}
        assert {"mma", "mma.sp"} <= entry.factors.keys()
        for words in ("bandwidth of the L2 cache", "not timed", "--seconds gives more", "gpu-calibration.json"):
            assert words in said
        machines = [json.loads((folder / f"{name}.json").read_text())["machine"] for name in ("here", "other")]
        assert machines == [f"measured on this host, {shown(default_path())}",
                            H200.source.format(name=H200.name)]

    @pytest.mark.parametrize(("settings", "words"), [
        ({"HOST_GPU_CAPABILITY": "0"}, "there is no GPU that its NVIDIA driver can use"),
        ({"HOST_GPU_DRIVER": "12080"}, "supports CUDA 12.8 and TVM's runtime needs 13.0: install driver 580 or newer"),
        ({"HOST_GPU_CAPABILITY": "80"}, "this GPU is an sm_80; --target cuda-sm80 calibrates it")])
    def test_a_gpu_that_cannot_is_one_clear_line(self, folder, monkeypatch, settings, words):
        for name, value in host_gpu.environment(folder, **settings).items():
            monkeypatch.setenv(name, value)
        (line,) = sparsec("calibrate", "--target", "cuda-sm90", code=1).splitlines()
        assert line.startswith("sparsec: error: 'cuda-sm90' cannot be calibrated here: ")
        assert words in line
