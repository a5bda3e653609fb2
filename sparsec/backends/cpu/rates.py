"""The rates of the machine at hand, which its first use measures in under a second."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

from sparsec import files
from sparsec.cost.calibration import SHIPPED, Calibration, calibration_of, keep_as, kept, key
from sparsec.cost.microarchitectures import MICROARCHITECTURES, here, scaled
from sparsec.cost.roofline import DEFAULT_MACHINE, Machine
from sparsec.errors import CalibrationError
from sparsec.target import Target, lacking

VARIABLE = "SPARSEC_RATES"
"""The environment variable that with the value "shipped" makes plans the same on every machine that compiles."""


def default_path() -> Path:
    """The file in the user's cache directory."""
    return files.cache_folder() / "rates.json"


def rates_of(target: Target, threads: int) -> Calibration:
    """What `sparsec calibrate` has measured, else what the first use of a machine measures and keeps.

    A target that this machine does not run has the shipped rates, its design's where it has one, and every one with
    `SPARSEC_RATES=shipped`.
    """
    if target.design and lacking(target):
        shipped = MICROARCHITECTURES[target.design]
        return Calibration(shipped.machine(target.vector_bits), f"of a {shipped.name}: {shipped.source}")
    found = calibration_of(target, threads)
    if found.source != SHIPPED or os.environ.get(VARIABLE) == "shipped" or lacking(target):
        return found
    path, name = default_path(), f"{key(threads)}, {target.vector_bits} bits"
    machine, where = kept(path).get(name), files.shown(path)
    if machine is None:
        machine = _measured(target, threads)
        try:
            keep_as(name, machine, path)
        except CalibrationError as error:
            warnings.warn(f"{error}; every use measures them anew", stacklevel=2)
            where = "and not kept"
    design = here()
    machine = replace(machine, efficiency=(DEFAULT_MACHINE if design is None else design.machine(0)).efficiency)
    return Calibration(machine, f"measured in a second, {where}; `sparsec calibrate` measures kernels, too, in two "
                                "minutes")


def _measured(target: Target, threads: int) -> Machine:
    from sparsec.backends.cpu.calibrate import measure_quickly

    return replace(scaled(measure_quickly(target, threads), target), efficiency={})
