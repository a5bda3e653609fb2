"""What `sparsec calibrate --target cuda-sm…` does and prints."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from sparsec.cli import tables
from sparsec.errors import counted
from sparsec.target import Target

DISTURBED = 0.15
"""By how much rounds of a kernel differ that something else has disturbed."""
RATES = {"launch_s": ("a launch from a CUDA graph", 1e-6, "us"),
         "memory_bytes_per_s": ("bandwidth of the memory", 1e9, "GB/s"),
         "l2_bytes_per_s": ("bandwidth of the L2 cache", 1e9, "GB/s"),
         "multiprocessors": ("multiprocessors", 1, "")}
"""By rate what it is called, and its unit."""


def calibrated(target: Target, seconds: float) -> dict[str, Any]:
    """Measure the GPU that is here for a target's code and keep that; the figures, as JSON.

    Raises:
        CalibrationError: there is none that runs it; or what is measured cannot be kept.
        ToolchainError: there is no compiler.
        DeviceError: the GPU fails.

    """
    from sparsec.backends.cuda import calibrate, driver
    from sparsec.bench import gpu_efficiency
    from sparsec.cost.calibration import check_keepable
    from sparsec.cost.gpu import DEVICES
    from sparsec.cost.gpu_calibration import default_path, is_fitted, keep, key

    calibrate.check(target)
    check_keepable(default_path())
    console, name = Console(stderr=True), driver.name()
    if not console.is_terminal:
        print(f"sparsec: calibrating {name}, some 15 s and at most {seconds:.0f} more", file=sys.stderr)
    with console.status(f"calibrating {name}") as status:
        rates = calibrate.measure(target, lambda what: status.update(f"measuring {what}"))
        status.update("measuring kernels")
        kernels = gpu_efficiency.measure(target, rates.device(target, name), seconds)
    rates = replace(rates, factors=kernels.factors(rates.device(target, name)))
    path, shipped = keep(key(target, name), rates), DEVICES[target.archs[0]]
    default = {"launch_s": shipped.launch_s, "memory_bytes_per_s": shipped.memory_bytes_per_s,
               "l2_bytes_per_s": shipped.l2_bytes_per_s * shipped.multiprocessors,
               "multiprocessors": shipped.multiprocessors}
    return {"gpu": name, "target": target.name, "file": str(path), **asdict(rates), "shipped": default,
            "shipped_for": shipped.name, "fitted": is_fitted(shipped, name), "timed": sorted(kernels.timed),
            "kernels_differ": kernels.differ, "sizes": kernels.sizes, "of_sizes": kernels.of}


def show(figures: dict[str, Any]) -> None:
    """Print the figures."""
    from sparsec.cost.gpu import TOKENS

    tables.print_table((f"rate, {figures['target']}", figures["gpu"], f"shipped, {figures['shipped_for']}"), [
        (what, _text(name, figures[name]), _text(name, figures["shipped"][name]))
        for name, (what, *_) in RATES.items()])
    if figures["fitted"]:
        tables.console.print("\nThe shipped bandwidths were fitted to kernels on such a GPU and stay; plain loads "
                             "reach those of the first column.")
    tables.console.print()
    timed = figures["timed"]
    tables.print_table(("measured / modelled time", *(f"{counted(tokens, 'token')}" for tokens in TOKENS)), [
        (kernel if kernel in timed else f"{kernel} (not timed)", *(f"{each:.2f}" for each in row))
        for kernel, row in figures["factors"].items()])
    tables.console.print(f"\nkept in {figures['file']}")
    tables.console.print(_certainty(figures))


def _certainty(figures: dict[str, Any]) -> str:
    """How far rounds agree, and what to do where they do not."""
    median, most = figures["kernels_differ"]
    missing = figures["of_sizes"] - figures["sizes"]
    said = f"kernels differ by {median:.0%} between their rounds, nine of ten by at most {most:.0%}"
    if missing:
        said += (f"; there was no time for {missing} of {figures['of_sizes']} sizes, which are as the nearest others, "
                 "and kernels that were not timed as the mean of all; --seconds gives more")
    if most > DISTURBED:
        said += "; something else uses this GPU: calibrate again when it is quiet"
    return said


def _text(name: str, rate: float) -> str:
    _, scale, unit = RATES[name]
    return f"{rate:,}" if not unit else f"{rate / scale:,.1f} {unit}"
