"""Energy, power and area: the published implementation, and published energies of single operations.

Two independent models of energy. *By power*: the published power of each unit times the simulated time, whatever the
unit does. *By access*: what the units did, times the energy of one operation. Both come from publications; nothing is
fitted. Configurations other than the published one scale by the laws stated at `_scale`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from sparsec.backends.accelerators.eie.activity import Activity
from sparsec.backends.accelerators.eie.architecture import Architecture


@dataclass(frozen=True)
class Unit:
    """A unit of one PE at 45 nm and 800 MHz."""

    power_mw: float
    area_um2: float


PUBLISHED = Architecture()
UNITS = {
    "queue": Unit(0.112, 758),
    "pointers": Unit(1.807, 121_849),
    "weights": Unit(4.955, 469_412),
    "arithmetic": Unit(1.162, 3_110),
    "activations": Unit(1.122, 18_934),
}
"""One PE (Han et al., ISCA 2016, table II, by module)."""

FILLER_UM2 = 23_961
TREE_NODE = Unit(0.023, 189)
CLOCK_MW, REGISTER_MW = 1.874, 1.026
"""One PE (table II, by component): the clock network, and the registers that it drives."""

ADD_PJ, MULTIPLY_PJ, SRAM_PJ, DRAM_PJ = 0.1, 3.1, 5.0, 640.0
"""32-bit integer addition and multiplication, 32-bit reads of a 32 KB SRAM and of DRAM (table I)."""


def _scale(arch: Architecture) -> dict[str, tuple[float, float]]:
    """Power and area of each unit over the published one's.

    An SRAM's area goes with its size; its power with the bits that it delivers a cycle, whatever the width of a read,
    and with the square root of its size, the length of its lines. A multiplier goes with the square of its width.
    """
    def ratio(name: str) -> float:
        return float(getattr(arch, name) / getattr(PUBLISHED, name))

    return {
        "queue": (ratio("fifo"), ratio("fifo")),
        "pointers": (sqrt(ratio("pointer_sram_bytes")) * ratio("pointer_bits"), ratio("pointer_sram_bytes")),
        "weights": (sqrt(ratio("weight_sram_bytes")) * ratio("entry_bits"), ratio("weight_sram_bytes")),
        "arithmetic": (ratio("value_bits") ** 2, ratio("value_bits") ** 2),
        "activations": (sqrt(ratio("activation_sram_bytes")) * ratio("value_bits"), ratio("activation_sram_bytes")),
    }


def by_power(activity: Activity, arch: Architecture) -> dict[str, float]:
    """Energy in pJ by unit: published power times time."""
    microwatts_per_megahertz = 1e3 / PUBLISHED.clock_mhz  # mW -> pJ a cycle
    scale = _scale(arch)
    energy = {name: unit.power_mw * scale[name][0] * microwatts_per_megahertz * arch.pes * activity.cycles
              for name, unit in UNITS.items()}
    energy["tree"] = TREE_NODE.power_mw * microwatts_per_megahertz * arch.tree_nodes * activity.cycles
    return energy


def _sram_pj(size_bytes: float, bits: int) -> float:
    """A read or write of an SRAM or register file: in proportion to its width and the square root of its size."""
    return SRAM_PJ * bits / 32 * sqrt(size_bytes / (32 * 1024))


def by_access(activity: Activity, arch: Architecture) -> dict[str, float]:
    """Energy in pJ by unit: what happened, times the energy of one operation; the clock network by its published power.

    An entry looks up its shared weight, multiplies, reads, adds and writes an accumulator; an activation is written to
    and read from every queue with its column.
    """
    bits = arch.value_bits
    registers = _sram_pj(arch.registers * bits / 8, bits)
    codebook = _sram_pj((1 << arch.codebook_bits) * bits / 8, bits)
    slot = _sram_pj(arch.fifo * (bits + arch.pointer_bits) / 8, bits + arch.pointer_bits)
    pe_cycle = 1e3 / PUBLISHED.clock_mhz
    return {
        "queue": 2 * slot * activity.pointer_reads,
        "pointers": 2 * _sram_pj(arch.pointer_sram_bytes / 2, arch.pointer_bits) * activity.pointer_reads,
        "weights": _sram_pj(arch.weight_sram_bytes, arch.weight_read_bits) * activity.weight_reads,
        "arithmetic": activity.entries * (MULTIPLY_PJ * (bits / 32) ** 2 + ADD_PJ * bits / 32 + codebook),
        "activations": 2 * registers * activity.entries
        + _sram_pj(arch.activation_sram_bytes, arch.activation_read_bits) * activity.activation_reads,
        "clock": CLOCK_MW * pe_cycle * arch.pes * activity.cycles,
        "pipeline registers": REGISTER_MW * pe_cycle * (activity.entries + activity.empty),
    }


def power_mw(arch: Architecture) -> float:
    """Power of the accelerator while it runs."""
    one_cycle = by_power(Activity(cycles=1), arch)
    return sum(one_cycle.values()) * arch.clock_mhz * 1e-3


def area_mm2(arch: Architecture) -> float:
    """Area of the accelerator; the filler between the units keeps its share."""
    scale = _scale(arch)
    units = sum(unit.area_um2 * scale[name][1] for name, unit in UNITS.items())
    filler = 1 + FILLER_UM2 / sum(unit.area_um2 for unit in UNITS.values())
    return (arch.pes * units * filler + arch.tree_nodes * TREE_NODE.area_um2) * 1e-6
