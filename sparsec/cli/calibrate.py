"""`sparsec calibrate`: measure this machine for the cost model."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from sparsec.cli import options, tables
from sparsec.target import resolve

UNITS = {"fmas_per_s": (1e9, "G/s"), "loads_per_s": (1e9, "G/s"), "group_s": (1e-9, "ns"),
         "l2_bytes_per_s": (1e9, "GB/s"), "memory_bytes_per_s": (1e9, "GB/s"), "call_s": (1e-9, "ns"),
         "l3_bytes_per_s": (1e9, "GB/s"), "dram_bytes_per_s": (1e9, "GB/s")}
NAMES = {"fmas_per_s": "vector multiply-adds", "loads_per_s": "vector loads from L1", "group_s": "a short loop",
         "l2_bytes_per_s": "L2 bandwidth beyond L1's", "memory_bytes_per_s": "bandwidth beyond L2", "call_s": "a call",
         "l3_bytes_per_s": "L3 bandwidth", "dram_bytes_per_s": "DRAM bandwidth"}


def command(threads: options.Threads = 1, json: options.JsonFile = None) -> None:
    """Measure this machine's rates; compile, explain and bench predict with them from then on."""
    from sparsec.backends.cpu.calibrate import measure
    from sparsec.bench import efficiency
    from sparsec.cost.calibration import keep, machine_of
    from sparsec.cost.roofline import DEFAULT_MACHINE, DENSITIES, PIXELS

    with Console(stderr=True).status("calibrating") as status:
        rates = measure(resolve("cpu"), threads, lambda what: status.update(f"measuring {what}"))
        machine = machine_of(rates)
        status.update("measuring kernels")
        families = efficiency.measure(resolve("cpu"), threads, machine)
    path = keep(replace(machine, efficiency=families), threads)
    tables.print_table((f"rate, {threads} thread(s)", "here", "default"), [
        (NAMES[name], _text(name, rate), _text(name, getattr(DEFAULT_MACHINE, name, None)))
        for name, rate in rates.items()])
    tables.console.print()
    tables.print_table(("measured / modelled time", *(f"{pixels} px" for pixels in PIXELS)), [
        (family, *(f"{min(row):.2f}-{max(row):.2f}" for row in rows)) for family, rows in families.items()])
    tables.console.print(f"\nfrom {100 * DENSITIES[0]:.0f} to {100 * DENSITIES[-1]:.0f} % non-zeros; kept in {path}",
                         soft_wrap=True)
    options.write_json(json, {"threads": threads, "file": str(path), **rates, "efficiency": families})


def _text(name: str, rate: float | None) -> str:
    scale, unit = UNITS[name]
    return "-" if rate is None else f"{rate / scale:.1f} {unit}"
