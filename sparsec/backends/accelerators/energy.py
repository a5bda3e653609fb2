"""Energy of what happened, from published energies of single operations; nothing is fitted.

All designs are priced at 45 nm with one set of numbers (Han et al., ISCA 2016, table I, after Horowitz): a 32-bit
integer multiplication 3.1 pJ, with the square of its width; a 32-bit addition 0.1 pJ; a 32-bit access of a 32 KB SRAM
5 pJ, with its width and the square root of its size; 32 bits from DRAM 640 pJ. Clock trees and leakage are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from sparsec.backends.accelerators.activity import Activity

ADD_PJ, MULTIPLY_PJ, SRAM_PJ, DRAM_PJ = 0.1, 3.1, 5.0, 640.0
SRAM_BYTES, BITS = 32 * 1024, 32


@dataclass(frozen=True)
class Buffer:
    """A buffer: the bytes of one instance and the bits of one access."""

    nbytes: int
    width: int

    @property
    def access_pj(self) -> float:
        """Energy of one access."""
        return SRAM_PJ * self.width / BITS * sqrt(self.nbytes / SRAM_BYTES)


def by_access(activity: Activity, buffers: Mapping[str, Buffer], product_bits: tuple[int, int], dram_bits: int,
              *, gated: bool) -> dict[str, float]:
    """Energy in pJ by part.

    Args:
        activity: what happened.
        buffers: by the names of its accesses.
        product_bits: bits of a weight and of an activation.
        dram_bits: what comes from DRAM once.
        gated: whether a multiplier stands still for a zero that is not skipped; where it does so for some zeros only,
            accesses count its "multiplications".

    """
    spent = activity.spent
    products = spent.get("useful", 0) + spent.get("padding", 0) + spent.get("discarded", 0)
    products = activity.accesses.get("multiplications", products + (0 if gated else spent.get("zeros", 0)))
    wide, narrow = product_bits
    energy = {"arithmetic": products * (MULTIPLY_PJ * wide * narrow / BITS**2 + ADD_PJ * (wide + narrow) / BITS)}
    energy |= {name: buffers[name].access_pj * count for name, count in activity.accesses.items()
               if name != "multiplications"}
    return energy | {"DRAM": DRAM_PJ * dram_bits / BITS}
