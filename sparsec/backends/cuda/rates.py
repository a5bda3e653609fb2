"""The rates of the GPU at hand, where `sparsec calibrate` has measured it, else those that are shipped."""

from __future__ import annotations

from sparsec import files
from sparsec.backends.cuda import driver
from sparsec.cost.calibration import Calibration
from sparsec.cost.gpu import DEVICES
from sparsec.cost.gpu_calibration import code_of, default_path, kept, key
from sparsec.target import Target


def rates_of(target: Target) -> Calibration:
    """What was measured of the GPU at hand for a target's code, else what stands for its first architecture.

    The driver is asked only where some GPU was calibrated for the target.
    """
    shipped, path = DEVICES[target.archs[0]], default_path()
    entries = kept(path)
    if any(each.endswith(code_of(target)) for each in entries) and driver.missing(driver.probe()) is None:
        name = driver.name()
        if (measured := entries.get(key(target, name))) is not None:
            return Calibration(measured.device(target, name), f"measured on this {name}, {files.shown(path)}")
    return Calibration(shipped, shipped.source.format(name=shipped.name))
