"""The rates that are shipped, by microarchitecture: what `sparsec calibrate` measured on one, or published widths.

They price kernels for other machines, and for the machine at hand what takes longer to measure than a first use should
(`scaled`). `widths` are those of AMD's and Arm's Software Optimization Guides, Intel's Optimization Reference Manual
and https://uops.info; bandwidths beyond L2 without a machine are those of one busy core of a server. Those of Apple's
cores are what is published of the M1's.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources

from sparsec.cost.calibration import machine_of
from sparsec.cost.roofline import DEFAULT_MACHINE, Machine
from sparsec.target import Target, machine_family


@dataclass(frozen=True)
class Widths:
    """What a core begins per cycle, of vectors of one size: multiply-adds, loads from L1, permutes of two registers."""

    fmas: float
    loads: float
    permutes: float


@dataclass(frozen=True)
class Microarchitecture:
    """One design of a core.

    Attributes:
        name: for people.
        source: where the figures are from.
        clock_hz: cycles per second of a busy core.
        widths: by the bits of a vector register.
        l2_bytes: bytes per cycle from L2, by what a load takes longer than one from L1.
        group_cycles: what the set-up and exit of a short inner loop cost.
        l3_bytes_per_s, memory_bytes_per_s: bandwidth of one core.
        efficiency: the file of `Machine.efficiency` in this folder, "" where nobody has measured it.

    """

    name: str
    source: str
    clock_hz: float
    widths: Mapping[int, Widths]
    l2_bytes: float
    group_cycles: float
    l3_bytes_per_s: float
    memory_bytes_per_s: float
    efficiency: str = ""

    @property
    def measured(self) -> bool:
        """Whether the figures are those of a machine."""
        return self.source not in (PUBLISHED, DATA_SHEET)

    def machine(self, vector_bits: int) -> Machine:
        """The rates of a core with vectors of that size, or else of the nearest that it has."""
        width = self.widths[min(self.widths, key=lambda bits: abs(bits - vector_bits))]
        return Machine(
            fmas_per_s=width.fmas * self.clock_hz, loads_per_s=width.loads * self.clock_hz,
            permutes_per_s=width.permutes * self.clock_hz, group_s=self.group_cycles / self.clock_hz,
            l2_bytes_per_s=self.l2_bytes * self.clock_hz, l3_bytes_per_s=self.l3_bytes_per_s,
            memory_bytes_per_s=self.memory_bytes_per_s, call_s=DEFAULT_MACHINE.call_s,
            tiles_per_s=self.clock_hz / TILE_CYCLES, efficiency=_efficiency(self.efficiency) if self.efficiency else {})


PUBLISHED = "published widths"
TILE_CYCLES = 16  # of a product of tiles, on every core with AMX
DATA_SHEET = "data-sheet figures, measured by nobody here"
OWN = ("fmas_per_s", "loads_per_s", "l2_bytes_per_s", "tiles_per_s")
"""The rates of a core that nothing but its clock changes."""
_INTEL_SERVER = {512: Widths(2, 2, 1), 256: Widths(2, 2, 1), 128: Widths(2, 2, 1)}

MICROARCHITECTURES = {
    "zen2": Microarchitecture("Zen 2", PUBLISHED, 3.3e9, {256: Widths(2, 2, 0.5), 128: Widths(2, 2, 1)}, 64, 5,
                              60e9, 20e9),
    "zen3": Microarchitecture("Zen 3", PUBLISHED, 3.5e9, {256: Widths(2, 2, 1), 128: Widths(2, 2, 2)}, 64, 4,
                              70e9, 25e9),
    "zen4": Microarchitecture("Zen 4", "measured on one", 3.6e9,
                              {512: Widths(1, 0.95, 1), 256: Widths(2, 1.9, 2), 128: Widths(2, 1.9, 2)}, 70, 0.4,
                              76e9, 31e9, "zen4.json"),
    "zen5": Microarchitecture("Zen 5", "measured on one", 4.1e9,
                              {512: Widths(1.95, 1.9, 1.9), 256: Widths(1.95, 1.9, 1.9), 128: Widths(1.95, 1.9, 1.9)},
                              122, 5, 90e9, 90e9),
    "skylake-x": Microarchitecture("Skylake-X", PUBLISHED, 2.8e9, _INTEL_SERVER, 48, 5, 25e9, 12e9),
    "ice-lake": Microarchitecture("Ice Lake server", PUBLISHED, 3.0e9, _INTEL_SERVER, 48, 5, 28e9, 13e9),
    "sapphire-rapids": Microarchitecture("Sapphire Rapids", "measured on an Emerald Rapids", 2.79e9,
                                         {512: Widths(2, 1.75, 1), 256: Widths(2, 3, 1), 128: Widths(2, 3, 1)}, 92,
                                         0.3, 27e9, 18e9, "sapphire-rapids.json"),
    "neoverse-n1": Microarchitecture("Neoverse N1", DATA_SHEET, 2.5e9, {128: Widths(2, 2, 2)}, 32, 5, 25e9, 12e9),
    "neoverse-v1": Microarchitecture("Neoverse V1", DATA_SHEET, 2.6e9,
                                     {256: Widths(2, 2, 2), 128: Widths(4, 3, 2)}, 64, 5, 30e9, 20e9),
    "neoverse-v2": Microarchitecture("Neoverse V2", DATA_SHEET, 2.8e9, {128: Widths(4, 3, 2)}, 64, 5, 35e9, 25e9),
    "apple-m": Microarchitecture("Apple M-class performance core", DATA_SHEET, 3.2e9, {128: Widths(4, 3, 4)}, 48, 4,
                                 60e9, 50e9),
}
"""The designs that are known, by name."""

_AMD = ((0x17, range(0x30, 0x100), "zen2"),
        (0x19, (*range(0x10, 0x20), *range(0x60, 0x80), *range(0xA0, 0xB0)), "zen4"),
        (0x19, range(0x100), "zen3"),
        (0x1A, range(0x100), "zen5"))
_INTEL = ((6, (0x55,), "skylake-x"), (6, (0x6A, 0x6C), "ice-lake"), (6, (0x8F, 0xCF), "sapphire-rapids"))
_ARM = ((8, (0xD0C,), "neoverse-n1"), (8, (0xD40,), "neoverse-v1"), (8, (0xD4F,), "neoverse-v2"))
_APPLE = ((8, (0x23, 0x25, 0x29, 0x33, 0x35, 0x39), "apple-m"),)
_BY_VENDOR: Mapping[str, Sequence[tuple[int, Sequence[int], str]]] = {
    "AuthenticAMD": _AMD, "GenuineIntel": _INTEL, "0x41": _ARM, "0x61": _APPLE}


def microarchitecture_of(vendor: str, family: int, model: int) -> Microarchitecture | None:
    """The design of a processor by what CPUID says of it, None where it is none of ours."""
    found = (name for number, models, name in _BY_VENDOR.get(vendor, ()) if number == family and model in models)
    name = next(found, None)
    return None if name is None else MICROARCHITECTURES[name]


def here() -> Microarchitecture | None:
    """That of the processor that runs this."""
    return microarchitecture_of(*machine_family())


def scaled(rates: Mapping[str, float], target: Target) -> Machine:
    """The rates that were measured here; what was not is as this processor's design has it, at the clock they show.

    Where one of that design was measured in quiet, so are the rates of a core by itself (`OWN`).

    Args:
        rates: `Machine`'s multiply-adds, loads and bandwidths, perhaps more.
        target: what vectors were measured.

    """
    design = here()
    shipped = DEFAULT_MACHINE if design is None else design.machine(target.vector_bits)
    faster = rates["fmas_per_s"] / shipped.fmas_per_s
    if design is not None and design.measured:
        # On a busy machine every one of them is disturbed by itself, and it is their ratios that choose kernels.
        faster = max(faster, rates["loads_per_s"] / shipped.loads_per_s)
        rates = {**rates, **{name: faster * getattr(shipped, name) for name in OWN}}
    unmeasured = {"permutes_per_s": shipped.permutes_per_s * faster, "group_s": shipped.group_s / faster,
                  "call_s": shipped.call_s, "tiles_per_s": shipped.tiles_per_s * faster}
    return replace(machine_of({**unmeasured, **rates}), efficiency=shipped.efficiency)


@functools.cache
def _efficiency(file: str) -> dict[str, list[list[float]]]:
    table: dict[str, list[list[float]]] = json.loads(resources.files(__package__).joinpath(file).read_text("utf-8"))
    assert all(math.isfinite(each) and each > 0 for rows in table.values() for row in rows for each in row)
    return table
