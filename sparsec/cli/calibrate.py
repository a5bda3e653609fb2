"""`sparsec calibrate`: measure this machine for the cost model."""

from __future__ import annotations

import sys
from dataclasses import replace

from rich.console import Console

from sparsec.cli import options, tables
from sparsec.target import resolve

RATES = {
    "fmas_per_s": ("vector multiply-adds", 1e9, "G/s"), "loads_per_s": ("vector loads from L1", 1e9, "G/s"),
    "permutes_per_s": ("permutes of a register", 1e9, "G/s"), "gathers_per_s": ("vector gathers from L1", 1e9, "G/s"),
    "group_s": ("a short loop", 1e-9, "ns"), "call_s": ("a call", 1e-9, "ns"),
    "l2_bytes_per_s": ("L2 bandwidth beyond L1's", 1e9, "GB/s"),
    "memory_bytes_per_s": ("bandwidth beyond the caches", 1e9, "GB/s"),
    "l3_bytes_per_s": ("L3 bandwidth", 1e9, "GB/s"), "dram_bytes_per_s": ("DRAM bandwidth", 1e9, "GB/s"),
}
"""By rate what it is called, and its unit."""


def command(threads: options.Threads = 1, json: options.JsonFile = None) -> None:
    """Measure this machine's rates for the cost model.

    compile, explain and bench predict with them from then on.
    """
    from sparsec.backends.cpu.calibrate import measure
    from sparsec.bench import efficiency
    from sparsec.cost.calibration import check_keepable, keep, machine_of
    from sparsec.cost.roofline import DEFAULT_MACHINE, DENSITIES, PIXELS

    check_keepable()
    console = Console(stderr=True)
    if not console.is_terminal:
        print("sparsec: calibrating, 50 s on a quiet machine", file=sys.stderr)
    with console.status("calibrating") as status:
        rates = measure(resolve("cpu"), threads, lambda what: status.update(f"measuring {what}"))
        machine = machine_of(rates)
        status.update("measuring kernels")
        efficiencies = efficiency.measure(resolve("cpu"), threads, machine)
    path = keep(replace(machine, efficiency=efficiencies), threads)
    tables.print_table((f"rate, {threads} thread(s)", "here", "default"), [
        (RATES[name][0], _text(name, rate), _text(name, getattr(DEFAULT_MACHINE, name, None)))
        for name, rate in rates.items()])
    tables.console.print()
    tables.print_table(("measured / modelled time", *(f"{pixels} px" for pixels in PIXELS)), [
        (kernel, *(f"{min(row):.2f}-{max(row):.2f}" for row in rows)) for kernel, rows in efficiencies.items()])
    tables.console.print(f"\nfrom {100 * DENSITIES[0]:.0f} to {100 * DENSITIES[-1]:.0f} % non-zeros; kept in {path}")
    options.write_json(json, {"threads": threads, "file": str(path), **rates, "efficiency": efficiencies})


def _text(name: str, rate: float | None) -> str:
    _, scale, unit = RATES[name]
    return "-" if rate is None else f"{rate / scale:.1f} {unit}"
