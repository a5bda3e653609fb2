"""Calibration: what is measured, kept, read back and ignored."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.cpu.calibrate import measure
from sparsec.bench import efficiency
from sparsec.cli.calibrate import command
from sparsec.cost import tuning
from sparsec.cost.calibration import calibration_of, check_keepable, keep, key, machine_of
from sparsec.cost.option import Option, Work
from sparsec.cost.plan import choose
from sparsec.cost.roofline import CACHED, DEFAULT_MACHINE, DENSITIES, PIXELS, ROUNDED
from sparsec.cost.tuning import TuningLog
from sparsec.errors import CalibrationError
from sparsec.files import shown
from sparsec.machine import cpus
from sparsec.target import resolve
from tests.support.cli import sparsec, write_model

CPU = resolve("cpu")
TABLE = [[1.0 + row + column for column in range(len(DENSITIES))] for row in range(len(PIXELS))]
SLOW = replace(DEFAULT_MACHINE, fmas_per_s=1e6, efficiency={"gemm/direct": TABLE})


def test_without_a_file_the_shipped_default_is_used_and_named(tmp_path):
    found = calibration_of(CPU, 1, tmp_path / "none.json")
    assert found.machine is DEFAULT_MACHINE
    assert "shipped default" in found.source


def test_entries_are_kept_by_threads_and_read_back(tmp_path):
    path = keep(SLOW, 1, tmp_path / "new" / "calibration.json")
    keep(DEFAULT_MACHINE, 2, path)
    assert calibration_of(CPU, 1, path).machine == SLOW
    assert calibration_of(CPU, 2, path).machine == DEFAULT_MACHINE
    assert str(path) in calibration_of(CPU, 2, path).source
    assert "shipped default" in calibration_of(CPU, 3, path).source
    assert [each.name for each in path.parent.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize("text", [
    "", "{", "[]", '{"x": 1}', json.dumps({key(1): {}}), json.dumps({key(1): asdict(replace(SLOW, call_s=-1.0))}),
    json.dumps({key(1): asdict(replace(SLOW, call_s=float("nan")))}),
    json.dumps({key(1): asdict(replace(SLOW, efficiency={"gemm/direct": [[1.0]]}))}),
    json.dumps({key(1): asdict(replace(SLOW, efficiency={"gemm/direct": np.negative(TABLE).tolist()}))})])
def test_a_corrupt_file_is_ignored_with_a_warning_that_names_it_and_rewritten(tmp_path, text):
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"calibration\.json"):
        assert calibration_of(CPU, 1, path).machine is DEFAULT_MACHINE
    with pytest.warns(UserWarning, match=r"calibration\.json"):
        keep(SLOW, 1, path)
    assert calibration_of(CPU, 1, path).machine == SLOW


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match="cannot be written"):
        keep(SLOW, 1, tmp_path / "file" / "calibration.json")
    with pytest.raises(CalibrationError, match="XDG_CACHE_HOME"):  # before anything is measured
        check_keepable(tmp_path / "file" / "calibration.json")


def test_rates_of_this_machine_are_plausible():
    rates = measure(CPU, 1)
    assert asdict(machine_of(rates)).keys() == asdict(DEFAULT_MACHINE).keys()
    assert all(np.isfinite(rate) and rate > 0 for rate in rates.values())
    assert 1e8 < rates["fmas_per_s"] < 1e11
    assert rates["dram_bytes_per_s"] < rates["loads_per_s"] * 4 * CPU.lanes


def test_every_family_of_kernels_has_an_efficiency(monkeypatch):
    monkeypatch.setattr(efficiency, "PIXELS", (1, 16))
    monkeypatch.setattr(efficiency, "DENSITIES", (0.2,))
    found = efficiency.measure(CPU, 1, DEFAULT_MACHINE, float("inf"))
    table = found.table(DEFAULT_MACHINE, 1)
    assert {"gemv/f32", "csr/scalar", "spmm/direct", "gemm/direct"} <= set(table)
    assert all(np.shape(each) == (2, 1) and np.min(each) > 0 for each in table.values())
    assert found.sizes == found.of == 2
    assert 0 <= found.differ[0] <= found.differ[1]


def test_a_calibration_ends_with_its_time_and_says_what_is_missing():
    found = efficiency.measure(CPU, 1, DEFAULT_MACHINE, budget_s=0.0)
    assert found.sizes < found.of
    table = found.table(DEFAULT_MACHINE, 1)
    assert all(np.shape(each) == (len(PIXELS), len(DENSITIES)) for each in table.values())


def test_an_efficiency_holds_for_its_family_pixels_and_density():
    work = Work(1e6, 0, kernel="gemm/direct", pixels=PIXELS[1], density=DENSITIES[2])
    assert SLOW.factor(work) == pytest.approx(TABLE[1][2])
    assert SLOW.factor(replace(work, pixels=1 << 20, density=1.0)) == pytest.approx(TABLE[-1][-1])
    assert TABLE[1][0] < SLOW.factor(replace(work, density=0.1)) < TABLE[1][1]
    assert SLOW.factor(replace(work, kernel="gemv")) == 1.0
    for suffix in (CACHED, ROUNDED):
        assert SLOW.factor(replace(work, kernel=work.kernel + suffix)) == SLOW.factor(work)


def test_other_machines_are_not_calibrated():
    with pytest.raises(CalibrationError, match="eie"):
        measure(resolve("eie"), 1)


def test_the_machine_decides_between_compute_and_bandwidth():
    compute = Option("dense", "a", "", None, 0, Work(1e6, 0))
    traffic = Option("csr", "b", "", None, 0, Work(0, 0, memory_bytes=1e7))
    assert choose("layer", [compute, traffic], machine=SLOW).winner.option is traffic
    fast = replace(DEFAULT_MACHINE, fmas_per_s=1e12)
    assert choose("layer", [compute, traffic], machine=fast).winner.option is compute


def test_timing_says_what_predictions_alone_had_chosen():
    options = [Option("dense", "a", "", None, 0, Work(1e6, 0)), Option("csr", "b", "", None, 0, Work(1e6, 0))]
    predicted = choose("layer", options).winner.option
    measured = choose("layer", options, measure=lambda option, times=1: 2.0 if option is predicted else 1.0)
    assert measured.winner.option is not predicted is measured.instead_of
    assert choose("layer", options).instead_of is None
    agreed = choose("layer", options, measure=lambda option, times=1: 1.0 if option is predicted else 2.0)
    assert agreed.instead_of is None


@pytest.mark.parametrize(("rounds", "wins"), [
    ([[1.00, 1.00, 1.00], [0.99, 0.99, 0.99]], "a"),  # equals: the prediction decides
    ([[1.00, 1.00, 1.00], [0.93, 0.92, 0.94]], "b"),
    ([[1.00, 0.90, 0.91], [0.94, 1.02, 1.01]], "a"),  # what was slow once
    ([[1.80, 0.90, 0.91], [0.94, 1.02, 1.01]], "a"),  # what was very slow once, and predicted to be the fastest
    ([[1.00, 1.00, 1.00], [1.20, 0.90, 0.91]], "a"),  # too slow to be measured again
    ([[1.00, None, None], [0.93, None, None]], "b"),
    ([[None, None, None], [9.00, None, None]], "b"),
])
def test_what_comes_close_is_timed_again_in_turns(rounds, wins):
    fast, slow = (Option("csr", name, "", name, 0, Work(fmas, 0)) for name, fmas in (("a", 1e6), ("b", 1.1e6)))
    taken = []

    def measure(option, times=1):
        taken.append(option.kernel)
        known = [each for each in rounds[option.kernel == "b"][:times] if each is not None]
        return float(np.median(known)) if known else None

    assert choose("layer", [fast, slow], measure=measure).winner.option.kernel == wins
    assert all(sorted(taken[turn:turn + 2]) == ["a", "b"] for turn in range(0, len(taken), 2))


def test_kernels_are_made_ready_before_one_is_timed_but_for_those_that_the_log_knows():
    options = [Option("csr", name, name, name, 0, Work(1e6, 0)) for name in "abc"]
    told = []
    choose("layer", options, measure=lambda option, times=1: told.append(option.kernel) or 1.0,
           prepare=lambda coming: told.append([each.kernel for each in coming]))
    assert told[:4] == [["a", "b", "c"], "a", "b", "c"]
    log, cpu, prepared = TuningLog(None, 1.0, "machine"), resolve("cpu"), []
    log.time(options[0], cpu, 1, lambda _: 1.0)
    for _ in range(2):
        log.prepare(options, cpu, 1, prepared.append)
        log.budget_s = 0.0
    assert prepared == [options[1:]]


def test_the_command_measures_keeps_and_uses_the_rates(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gemm = Option("dense", "gemm/direct", "", None, 0, Work(1e6, 0, kernel="gemm/direct"))
    monkeypatch.setattr(efficiency, "measure",
                        lambda *_: efficiency.Timings({(0, 0): [{gemm: [1.0, 1.5]}]}, 3, 20))
    command(json=tmp_path / "rates.json")
    text = " ".join(capsys.readouterr().out.split())
    assert "no time for 17 of 20 sizes" in text
    assert "predictions by what was kept are rough" in text
    assert "calibrate again when it is quiet" in text
    assert "vector multiply-adds" in text
    assert "gemm/direct" in text
    file = json.loads((tmp_path / "rates.json").read_text())["file"]
    write_model(tmp_path / "model.onnx")
    sparsec("explain", tmp_path / "model.onnx", "--json", tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text())["machine"] == f"measured, {shown(Path(file))}"


def test_times_of_threads_that_shared_processors_are_told_apart(monkeypatch):
    option = Option("csr", "kernel", "detail", None, 100, Work(1, 1))
    names = {}
    for count in (1, 2):
        monkeypatch.setattr(cpus, "available", lambda count=count: count)
        names[count] = key(2), tuning.key(option, CPU, 2, "machine"), key(1)
    assert names[1][0] != names[2][0]
    assert names[1][1] != names[2][1]
    assert names[1][2] == names[2][2]
