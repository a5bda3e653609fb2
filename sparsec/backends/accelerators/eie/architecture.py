"""EIE's parameters (Han et al., ISCA 2016, sections IV and VI): what an architect varies."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sparsec.errors import UsageError

PIPELINE = 5
"""Cycles from the issue of an entry to its write-back: weight read, look-up, multiply, add, write (section IV)."""


PARAMETERS = {
    "pes": "Processing elements",
    "fifo": "Activations in a queue",
    "clock_mhz": "Clock",
    "index_bits": "Bits of a zero run",
    "codebook_bits": "Bits of an index of a shared weight",
    "value_bits": "Bits of weights, activations and accumulators",
    "weight_sram_bytes": "Weight SRAM of a PE",
    "weight_read_bits": "Width of the weight SRAM",
    "pointer_sram_bytes": "Pointer SRAM of a PE",
    "pointer_bits": "Bits of a pointer",
    "activation_sram_bytes": "Activation SRAM of a PE",
    "activation_read_bits": "Width of the activation SRAM",
    "registers": "Activations of a batch in a PE's register file",
}
"""What each field of `Architecture` is, in a line."""
MOST = {"pes": 1 << 16, "index_bits": 8, "codebook_bits": 8, "value_bits": 16, "pointer_bits": 32}
"""The largest value of those that have one."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One configuration; the defaults are the paper's.

    Attributes:
        pes: processing elements (PEs).
        fifo: activations that a PE's queue holds. (The authors' simulator counts the slots of a ring, one more.)
        clock_mhz: clock.
        index_bits: bits of an entry's zero run.
        codebook_bits: bits of an entry's code.
        value_bits: bits of a shared weight, an activation and an accumulator, fixed point.
        weight_sram_bytes: weight SRAM of a PE.
        weight_read_bits: what one read of it delivers.
        pointer_sram_bytes: pointer SRAM of a PE, in two banks.
        pointer_bits: bits of a pointer to an entry.
        activation_sram_bytes: activation SRAM of a PE.
        activation_read_bits: what one access of it delivers. (An assumption: the paper does not say.)
        registers: activations that each of a PE's two register files holds.

    Raises:
        UsageError: a parameter is not positive or not possible.

    """

    pes: int = 64
    fifo: int = 8
    clock_mhz: int = 800
    index_bits: int = 4
    codebook_bits: int = 4
    value_bits: int = 16
    weight_sram_bytes: int = 128 * 1024
    weight_read_bits: int = 64
    pointer_sram_bytes: int = 32 * 1024
    pointer_bits: int = 16
    activation_sram_bytes: int = 2 * 1024
    activation_read_bits: int = 64
    registers: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise UsageError(f"eie: {field.name} is {getattr(self, field.name)}; it must be positive")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise UsageError(f"eie: {name} is {getattr(self, name)}; at most {most} is possible")
        if self.weight_read_bits < self.entry_bits:
            raise UsageError(f"eie: weight_read_bits is {self.weight_read_bits}; an entry has {self.entry_bits} bits")

    @property
    def entry_bits(self) -> int:
        """Bits of an entry: code and run."""
        return self.codebook_bits + self.index_bits

    @property
    def row_entries(self) -> int:
        """Entries in a row of the weight SRAM, which one read delivers."""
        return self.weight_read_bits // self.entry_bits

    @property
    def weight_entries(self) -> int:
        """Entries that the weight SRAM of a PE holds."""
        return self.weight_sram_bytes * 8 // self.weight_read_bits * self.row_entries

    @property
    def segment_entries(self) -> int:
        """Entries of a PE that one set of pointers reaches, the end of the last column included."""
        return min(self.weight_entries, (1 << self.pointer_bits) - 1)

    @property
    def segment_columns(self) -> int:
        """Columns whose pointers the pointer SRAM holds, with the end of the last."""
        return self.pointer_sram_bytes * 8 // self.pointer_bits - 1

    @property
    def batch(self) -> int:
        """Activations that the register files of all PEs hold: longer vectors run in batches (section IV)."""
        return self.pes * self.registers

    @property
    def vector(self) -> int:
        """Activations that the activation SRAMs of all PEs hold: sources and destinations of one layer."""
        return self.pes * (self.activation_sram_bytes * 8 // self.value_bits)

    @property
    def tree_nodes(self) -> int:
        """Nodes of the quadtree that finds the next non-zero activation: 21 for 64 PEs."""
        nodes, width = 0, self.pes
        while width > 1:
            width = -(-width // 4)
            nodes += width
        return nodes

    @property
    def peak_gops(self) -> float:
        """Peak throughput on the compressed network: a multiplication and an addition a PE a cycle, in GOP/s."""
        return 2e-3 * self.pes * self.clock_mhz

    def microseconds(self, cycles: float) -> float:
        """The time of so many cycles."""
        return cycles / self.clock_mhz
