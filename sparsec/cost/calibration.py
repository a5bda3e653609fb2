"""Rates of this machine, kept in the user's cache directory by processor and threads."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sparsec import files
from sparsec.cost.roofline import DEFAULT_MACHINE, DENSITIES, PIXELS, TILES_PER_S, Machine, Rates
from sparsec.cost.tuning import default_path as tuning_path
from sparsec.errors import CalibrationError
from sparsec.machine.cpus import shortage
from sparsec.target import Target, machine_name, resolve

Entry = TypeVar("Entry")

_RATES = [each.name for each in fields(Machine) if each.name != "efficiency"]
_SHIPPED_RATES = {"tiles_per_s": TILES_PER_S}
"""Those of machines, and of files, that have none."""
SHIPPED = "shipped default (one Zen 5 core); `sparsec calibrate` measures this machine"


@dataclass(frozen=True)
class Calibration:
    """Rates and, for people, where they come from."""

    machine: Rates
    source: str


def default_path() -> Path:
    """The file in the user's cache directory."""
    return tuning_path().with_name("calibration.json")


def key(threads: int) -> str:
    """The entry of this processor and a number of threads."""
    return f"{machine_name()}, {'1 thread(s)' if threads == 1 else f'{threads} threads at once'}{shortage(threads)}"


def calibration_of(target: Target, threads: int, path: Path | None = None) -> Calibration:
    """What was measured here for as many threads, else the shipped default; for another machine always the default."""
    path = path or default_path()
    host = resolve("cpu")
    here = target.features <= host.features and target.vector_bits == host.vector_bits
    measured = kept(path).get(key(threads)) if here else None
    if measured is None:
        return Calibration(DEFAULT_MACHINE, SHIPPED)
    return Calibration(measured, f"measured, {files.shown(path)}")


def keep(machine: Machine, threads: int, path: Path | None = None) -> Path:
    """Write what was calibrated for this processor and a number of threads beside the others; returns the file.

    Raises:
        CalibrationError: it cannot be written; what was there is untouched.

    """
    return keep_as(key(threads), machine, path or default_path())


def check_keepable(path: Path | None = None) -> None:
    """Check that `keep` can write, before what it is to keep takes a minute.

    Raises:
        CalibrationError: it cannot.

    """
    file = path or default_path()
    try:
        files.make_own(file.parent)
    except OSError as error:
        raise CalibrationError(f"the calibration {file} cannot be written: {error.strerror}; XDG_CACHE_HOME names the "
                               "folder of caches") from error
    if not os.access(file.parent, os.W_OK):
        raise CalibrationError(f"the calibration {file} cannot be written: its folder is read-only; XDG_CACHE_HOME "
                               "names the folder of caches")


def keep_as(name: str, machine: Machine, path: Path) -> Path:
    """Write an entry of a file of rates beside the others.

    Raises:
        CalibrationError: it cannot be written; what was there is untouched.

    """
    write_entries({each: asdict(rates) for each, rates in (kept(path) | {name: machine}).items()}, path)
    return path


def write_entries(entries: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Replace a file of rates.

    Raises:
        CalibrationError: it cannot be written; what was there is untouched.

    """
    try:
        files.make_own(path.parent)
        files.write(path, json.dumps(entries, indent=1).encode() + b"\n")
    except OSError as error:
        raise CalibrationError(f"the calibration {path} cannot be written: {error.strerror}") from error


def machine_of(rates: Mapping[str, float]) -> Machine:
    """The machine of these rates, which may be more than the cost model knows; its kernels take as long as they say."""
    known = {**_SHIPPED_RATES, **rates}
    return Machine(**{name: known[name] for name in _RATES}, efficiency={})


def kept(path: Path) -> dict[str, Machine]:
    """The entries of a file of rates; none, with a warning, where it cannot be read."""
    return read_entries(path, _machine, "sparsec calibrate")


def read_entries(path: Path, parse: Callable[[dict[str, Any]], Entry], command: str) -> dict[str, Entry]:
    """The entries of a file that a command writes; none, with a warning, where one of them cannot be read."""
    if not files.is_own(path):
        return {}
    try:
        return {name: parse(entry) for name, entry in json.loads(files.read_regular(path)).items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        warnings.warn(f"the calibration {path} cannot be read ({error}) and is ignored; "
                      f"`{command}` writes it anew", stacklevel=4)
        return {}


def _machine(entry: dict[str, Any]) -> Machine:
    rates = {name: float({**_SHIPPED_RATES, **entry}[name]) for name in _RATES}
    tables = {str(kernel): np.array(table, np.float64) for kernel, table in entry["efficiency"].items()}
    if any(table.shape != (len(PIXELS), len(DENSITIES)) for table in tables.values()):
        raise ValueError(f"the efficiency of {', '.join(tables)} is not a table of {len(PIXELS)} x {len(DENSITIES)}")
    if not all(np.all(np.isfinite(each) & (each > 0)) for each in (*map(np.array, rates.values()), *tables.values())):
        raise ValueError("rates must be positive")
    return Machine(**rates, efficiency={kernel: table.tolist() for kernel, table in tables.items()})
