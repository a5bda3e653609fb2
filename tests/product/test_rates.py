"""The rates of the machine at hand: measured at its first use, kept, and scaled from what its design is known for."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from sparsec.backends.cpu import calibrate, rates
from sparsec.cost import microarchitectures
from sparsec.cost.calibration import SHIPPED, keep, key
from sparsec.cost.microarchitectures import MICROARCHITECTURES, microarchitecture_of, scaled
from sparsec.cost.option import Work
from sparsec.cost.roofline import DEFAULT_MACHINE, DENSITIES, LIKE, PIXELS
from sparsec.machine import tvm_runtime
from sparsec.target import machine_family, machine_name, resolve
from tests.support.cli import sparsec, write_model

CPU = resolve("cpu")
QUICK = {"fmas_per_s": 2e9, "loads_per_s": 1e9, "l2_bytes_per_s": 1e11, "l3_bytes_per_s": 5e10,
         "memory_bytes_per_s": 2e10}


@pytest.fixture
def first_use(tmp_path, monkeypatch):
    """A machine that nobody has measured; the list holds what is measured of it."""
    measured = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(rates.VARIABLE)
    monkeypatch.setattr(calibrate, "measure_quickly", lambda *what: measured.append(what) or QUICK)
    return measured


def test_the_first_use_measures_and_keeps_by_threads_and_vectors(first_use):
    found = rates.rates_of(CPU, 1)
    assert found.machine.fmas_per_s == QUICK["fmas_per_s"]
    assert str(rates.default_path()) in found.source
    assert rates.rates_of(CPU, 1) == found
    rates.rates_of(CPU, 2)
    rates.rates_of(resolve("cpu-generic"), 1)
    assert [(target.name, threads) for target, threads in first_use] == [("cpu", 1), ("cpu", 2), ("cpu-generic", 1)]


def test_what_was_calibrated_comes_first_and_shipped_rates_are_asked_for(first_use, monkeypatch):
    keep(DEFAULT_MACHINE, 1)
    assert rates.rates_of(CPU, 1).machine == DEFAULT_MACHINE
    monkeypatch.setenv(rates.VARIABLE, "shipped")
    assert rates.rates_of(CPU, 2).source == SHIPPED
    assert first_use == []


def test_rates_that_cannot_be_kept_are_used_with_a_warning(first_use, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"rates\.json"):
        assert rates.rates_of(CPU, 1).machine.l3_bytes_per_s == QUICK["l3_bytes_per_s"]
    assert len(first_use) == 1


@pytest.mark.parametrize(("turns", "best", "taken"), [
    ([2, 2, 2, 2, 9], 2, 4), ([1, 1, 1, 4, 4, 9], 4, 5), (range(1, 30), 12, 12)])
def test_turns_go_on_while_they_bring_more(turns, best, taken):
    rest = iter(turns)
    assert calibrate.best_rates({"any": lambda: float(next(rest))}) == {"any": best}
    assert len(turns) - len(list(rest)) == taken


def test_a_quick_measurement_is_some_of_what_calibrate_measures():
    found = calibrate.measure_quickly(CPU, 1)
    tiles = found.pop("tiles_per_s", None)
    assert (tiles is None) is not CPU.has("amx_int8")
    assert tiles is None or 1e6 < tiles < 1e9
    assert found.keys() == QUICK.keys()
    assert all(1e8 < rate < 1e13 for rate in found.values())


@pytest.mark.parametrize("name", MICROARCHITECTURES)
@pytest.mark.parametrize("kernel", LIKE)
def test_a_kernel_that_nobody_measured_is_no_better_than_one_like_it(name, kernel):
    machine = MICROARCHITECTURES[name].machine(512)
    work = Work(1, 1, kernel=kernel, density=0.1, pixels=196)
    other, longer = LIKE[kernel]
    unknown, like = (machine.factor(each) for each in (work, replace(work, kernel=other)))
    assert kernel in machine.efficiency or unknown == pytest.approx(like * longer if machine.efficiency else 1.0)


@pytest.mark.parametrize("threads", [1, 2])
def test_as_many_threads_measure_as_are_asked_for(threads, monkeypatch):
    used, call = set(), tvm_runtime.call
    monkeypatch.setattr(tvm_runtime, "call", lambda count, *what: used.add(count) or call(count, *what))
    calibrate.measure_quickly(CPU, threads)
    assert max(used) == threads


@pytest.mark.parametrize(("apart", "floor"), [(2, 1 / calibrate.SHARING), (1, 0.1)])
def test_several_threads_count_as_one_by_itself_where_each_has_a_core(apart, floor, monkeypatch):
    by_threads = {1: 1.0, 2: 0.1}  # as measured beside other programs
    monkeypatch.setattr(calibrate, "_rates", lambda core, _: dict.fromkeys(QUICK, by_threads[core.isa.threads]))
    monkeypatch.setattr(calibrate, "available", lambda: 2)
    monkeypatch.setattr(calibrate, "cores", lambda: apart)
    found = calibrate.measure_quickly(CPU, 2)
    assert found["fmas_per_s"] == floor
    assert found["l3_bytes_per_s"] == (1 if apart == 2 else 0.1)


@pytest.mark.parametrize("name", MICROARCHITECTURES)
@pytest.mark.parametrize("vector_bits", [128, 256, 512])
def test_every_design_has_rates_for_every_vector(name, vector_bits):
    machine = MICROARCHITECTURES[name].machine(vector_bits)
    assert all(rate > 0 for rate in asdict(machine).values() if isinstance(rate, float))
    assert all(np.shape(table) == (len(PIXELS), len(DENSITIES)) for table in machine.efficiency.values())


@pytest.mark.parametrize(("cpuid", "name"), [
    (("AuthenticAMD", 25, 17), "Zen 4"), (("AuthenticAMD", 25, 1), "Zen 3"), (("AuthenticAMD", 26, 2), "Zen 5"),
    (("GenuineIntel", 6, 0x8F), "Sapphire Rapids"), (("GenuineIntel", 6, 1), None), (("", 0, 0), None)])
def test_designs_are_known_by_what_cpuid_says(cpuid, name):
    found = microarchitecture_of(*cpuid)
    assert (found and found.name) == name


def test_what_is_not_measured_follows_the_clock():
    slow, fast = (scaled(QUICK | {"fmas_per_s": rate, "loads_per_s": rate / 2}, CPU) for rate in (1e9, 2e9))
    assert fast.permutes_per_s == pytest.approx(2 * slow.permutes_per_s)
    assert fast.group_s == pytest.approx(slow.group_s / 2)


@pytest.mark.parametrize("disturbed", ["fmas_per_s", "loads_per_s"])
def test_rates_of_a_core_keep_their_ratios_where_its_design_was_measured(disturbed, monkeypatch):
    design = MICROARCHITECTURES["zen4"]
    monkeypatch.setattr(microarchitectures, "here", lambda: design)
    known = {name: getattr(design.machine(CPU.vector_bits), name) for name in QUICK}
    found = scaled(known | {disturbed: known[disturbed] / 3, "l2_bytes_per_s": 1.0}, CPU)
    assert {name: getattr(found, name) for name in QUICK} == pytest.approx(known)


def test_processors_of_one_name_are_told_apart():
    vendor, family, model = machine_family()
    assert not vendor or f"family {family} model {model}" in machine_name()
    assert machine_name() in key(1)


def test_a_network_takes_longer_than_its_layers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.onnx")
    assert "the whole network" in sparsec("explain", "model.onnx")
