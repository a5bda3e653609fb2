"""`sparsec calibrate`: measure this machine, or its GPU, for the cost model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sparsec.cli import calibrate_gpu, options, parts, tables
from sparsec.errors import UsageError, counted
from sparsec.machine import cpus
from sparsec.target import Target, resolve

RATES = {
    "fmas_per_s": ("vector multiply-adds", 1e9, "G/s"), "loads_per_s": ("vector loads from L1", 1e9, "G/s"),
    "permutes_per_s": ("permutes of a register", 1e9, "G/s"), "gathers_per_s": ("vector gathers from L1", 1e9, "G/s"),
    "group_s": ("a short loop", 1e-9, "ns"), "call_s": ("a call", 1e-9, "ns"),
    "tiles_per_s": ("products of tiles", 1e6, "M/s"),
    "l2_bytes_per_s": ("L2 bandwidth beyond L1's", 1e9, "GB/s"),
    "memory_bytes_per_s": ("bandwidth beyond the caches", 1e9, "GB/s"),
    "l3_bytes_per_s": ("L3 bandwidth", 1e9, "GB/s"), "dram_bytes_per_s": ("DRAM bandwidth", 1e9, "GB/s"),
}
"""By rate what it is called, and its unit."""
DISTURBED = 0.15  # by how much measurements differ that other programs have disturbed
Seconds = Annotated[float, typer.Option(
    min=1, help="Seconds that kernels are timed for at most; what is not reached counts as the nearest size.")]
Calibrated = Annotated[str, typer.Option(
    "--target", metavar="cpu|cuda-smNN", help="What is measured: cpu, or the GPU here, for the code of a target.")]


def command(target: Calibrated = "cpu", threads: options.Threads = 1, seconds: Seconds = 120.0,
            on: parts.On = parts.LOCAL, json: options.JsonFile = None) -> None:
    """Measure the rates of this machine or its GPU.

    The cost model predicts with them: compile, explain and bench take them from then on. It says how far measurements
    agree. On a cluster every machine measures itself.
    """
    found = resolve(target)
    if found.kind not in CALIBRATORS or (found.kind == "cpu" and target != "cpu"):
        raise UsageError(f"--target {target}: what is measured is this machine, cpu, or its GPU, such as cuda-sm90")
    CALIBRATORS[found.kind](found, threads, seconds, on, json)


def _gpu(target: Target, threads: int, seconds: float, on: str, json: Path | None) -> None:
    """Measure the GPU at hand."""
    if threads != 1:
        raise UsageError(f"--threads {threads}: those of a GPU are not chosen; leave --threads out")
    if on != parts.LOCAL:
        raise UsageError(f"--on {on}: GPUs are measured one by one, by the command where each is")
    figures = calibrate_gpu.calibrated(target, seconds)
    calibrate_gpu.show(figures)
    options.write_json(json, figures)


def _cpu(_target: Target, threads: int, seconds: float, on: str, json: Path | None) -> None:
    """Measure this machine, or every one of a cluster."""
    parts.check(on)
    if on == parts.LOCAL and threads > cpus.available():
        raise UsageError(f"--threads {threads}: this process may use {counted(cpus.available(), 'core')}, and "
                         "rates of more threads are measured where there are as many")
    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"sparsec: calibrating, some 10 s and at most {seconds:.0f} more", file=sys.stderr)
    with console.status("calibrating") as status:
        if on == parts.LOCAL:
            found = {"": calibrated(threads, seconds, lambda what: status.update(f"measuring {what}"))}
        else:
            found = _on_cluster(on, threads, seconds)
    for machine, figures in found.items():
        if machine:
            tables.console.print(f"\n{machine}")
        _print(figures, threads)
    options.write_json(json, found[""] if on == parts.LOCAL else found)


CALIBRATORS: dict[str, Callable[[Target, int, float, str, Path | None], None]] = {"cpu": _cpu, "cuda": _gpu}
"""By kind of target, from target, threads, seconds, place and file for the figures."""


def calibrated(threads: int, seconds: float, progress: Callable[[str], None] = lambda _what: None) -> dict[str, Any]:
    """Measure the machine that this runs on and keep that; the figures, as JSON."""
    from sparsec.backends.cpu.calibrate import measure, measure_quickly
    from sparsec.bench import efficiency
    from sparsec.cost.calibration import check_keepable, keep, machine_of

    check_keepable()
    rates = measure(resolve("cpu"), threads, progress)
    progress("kernels")
    kernels = efficiency.measure(resolve("cpu"), threads, machine_of(rates), seconds)
    progress("rates once more")
    again = measure_quickly(resolve("cpu"), threads)
    differ = {name: max(rate, rates[name]) / min(rate, rates[name]) - 1 for name, rate in again.items()}
    rates = {name: max(rate, again.get(name, rate)) for name, rate in rates.items()}  # others only ever disturb
    machine = machine_of(rates)
    table = kernels.table(machine, threads)
    path = keep(replace(machine, efficiency=table), threads)
    return {"threads": threads, "file": str(path), **rates, "efficiency": table, "rates_differ": differ,
            "kernels_differ": kernels.differ, "sizes": kernels.sizes, "of_sizes": kernels.of}


def _on_cluster(on: str, threads: int, seconds: float) -> dict[str, dict[str, Any]]:
    """The figures of every machine by its name and address."""
    machines = parts.machines(on)
    calls = [parts.Part((threads, seconds), name) for name in machines]
    return {f"{machines[name]} ({name[:8]})": figures for name, (_, figures) in zip(
        machines, sorted(parts.run(calibrated, calls, on, cores=threads)), strict=True)}


def _print(figures: dict[str, Any], threads: int) -> None:
    from sparsec.cost.roofline import DEFAULT_MACHINE, DENSITIES, PIXELS

    tables.print_table((f"rate, {counted(threads, 'thread')}", "here", "default"), [
        (RATES[name][0], _text(name, figures[name]), _text(name, getattr(DEFAULT_MACHINE, name, None)))
        for name in figures if name in RATES])
    tables.console.print()
    rows = figures["efficiency"].items()
    tables.print_table(("measured / modelled time", *(f"{pixels} px" for pixels in PIXELS)), [
        (kernel, *(f"{min(row):.2f}-{max(row):.2f}" for row in table)) for kernel, table in rows])
    tables.console.print(f"\nfrom {100 * DENSITIES[0]:.0f} to {100 * DENSITIES[-1]:.0f} % non-zeros; kept in "
                         f"{figures['file']}")
    tables.console.print(_certainty(figures))


def _certainty(figures: dict[str, Any]) -> str:
    """How far measurements of the same thing agree, and what to do where they do not."""
    name, rates = max(figures["rates_differ"].items(), key=lambda each: each[1])
    median, most = figures["kernels_differ"]
    missing = figures["of_sizes"] - figures["sizes"]
    said = (f"rates differ by at most {rates:.0%} between the begin and the end ({RATES[name][0]}); kernels by "
            f"{median:.0%} between their fastest two rounds, nine of ten by at most {most:.0%}")
    if missing:
        said += f"; there was no time for {missing} of {figures['of_sizes']} sizes, which are as the nearest others"
    if max(rates, most) > DISTURBED:
        said += ("; other programs disturb this machine: predictions by what was kept are rough, and compile times the "
                 "best kernels all the same (without --tune off): calibrate again when it is quiet")
    elif missing:
        said += "; --seconds gives more"
    return said


def _text(name: str, rate: float | None) -> str:
    _, scale, unit = RATES[name]
    return "-" if rate is None else f"{rate / scale:.1f} {unit}"
