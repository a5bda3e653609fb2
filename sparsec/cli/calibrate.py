"""`sparsec calibrate`: measure this machine for the cost model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console

from sparsec.cli import options, parts, tables
from sparsec.errors import UsageError
from sparsec.machine import cpus
from sparsec.target import resolve

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


def command(threads: options.Threads = 1, on: parts.On = parts.LOCAL, json: options.JsonFile = None) -> None:
    """Measure this machine's rates for the cost model.

    compile, explain and bench predict with them from then on. On a cluster every machine measures itself.
    """
    parts.check(on)
    if on == parts.LOCAL and threads > cpus.available():
        raise UsageError(f"--threads {threads}: this process may use {tables.counted(cpus.available(), 'core')}, and "
                         "rates of more threads are measured where there are as many")
    console = Console(stderr=True)
    if not console.is_terminal:
        print("sparsec: calibrating, 75 s on a quiet machine", file=sys.stderr)
    with console.status("calibrating") as status:
        if on == parts.LOCAL:
            found = {"": calibrated(threads, lambda what: status.update(f"measuring {what}"))}
        else:
            found = _on_cluster(on, threads)
    for machine, figures in found.items():
        if machine:
            tables.console.print(f"\n{machine}")
        _print(figures, threads)
    options.write_json(json, found[""] if on == parts.LOCAL else found)


def calibrated(threads: int, progress: Callable[[str], None] = lambda _what: None) -> dict[str, Any]:
    """Measure the machine that this runs on and keep that; the figures, as JSON."""
    from sparsec.backends.cpu.calibrate import measure
    from sparsec.bench import efficiency
    from sparsec.cost.calibration import check_keepable, keep, machine_of

    check_keepable()
    rates = measure(resolve("cpu"), threads, progress)
    machine = machine_of(rates)
    progress("kernels")
    efficiencies = efficiency.measure(resolve("cpu"), threads, machine)
    path = keep(replace(machine, efficiency=efficiencies), threads)
    return {"threads": threads, "file": str(path), **rates, "efficiency": efficiencies}


def _on_cluster(on: str, threads: int) -> dict[str, dict[str, Any]]:
    """The figures of every machine by its name and address."""
    machines = parts.machines(on)
    calls = [parts.Part((threads,), name) for name in machines]
    return {f"{machines[name]} ({name[:8]})": figures for name, (_, figures) in zip(
        machines, sorted(parts.run(calibrated, calls, on, cores=threads)), strict=True)}


def _print(figures: dict[str, Any], threads: int) -> None:
    from sparsec.cost.roofline import DEFAULT_MACHINE, DENSITIES, PIXELS

    tables.print_table((f"rate, {threads} thread(s)", "here", "default"), [
        (RATES[name][0], _text(name, figures[name]), _text(name, getattr(DEFAULT_MACHINE, name, None)))
        for name in figures if name in RATES])
    tables.console.print()
    rows = figures["efficiency"].items()
    tables.print_table(("measured / modelled time", *(f"{pixels} px" for pixels in PIXELS)), [
        (kernel, *(f"{min(row):.2f}-{max(row):.2f}" for row in table)) for kernel, table in rows])
    tables.console.print(f"\nfrom {100 * DENSITIES[0]:.0f} to {100 * DENSITIES[-1]:.0f} % non-zeros; kept in "
                         f"{figures['file']}")


def _text(name: str, rate: float | None) -> str:
    _, scale, unit = RATES[name]
    return "-" if rate is None else f"{rate / scale:.1f} {unit}"
