"""What a kernel generator may assume of the processor, derived from the target."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sparsec.target import Target


@dataclass(frozen=True)
class Isa:
    """The vector instruction set a kernel is generated for.

    Attributes:
        lanes: float32 elements of a vector register (16 AVX-512, 8 AVX2, 4 generic).
        registers: architectural vector registers.
        permute2: two-register permutes (AVX-512's vpermi2ps) are there.
        threads: threads the kernel may use; 1 emits no parallel loop.
        bf16: dot products of bf16 pairs (vdpbf16ps) are there.
        vnni: dot products of four 8-bit integers (vpdpbusd) are there.
        int8: products of 8-bit integers are there, in one instruction (vnni) or in three.
        permute_bytes: two-register permutes of bytes (AVX512_VBMI's vpermi2b) are there, and `vnni`.
        expand_bytes: the expansion of bytes by a mask (AVX512_VBMI2's vpexpandb) is there, and `vnni`.

    """

    lanes: int
    registers: int
    permute2: bool
    threads: int = 1
    bf16: bool = False
    vnni: bool = False
    int8: bool = False
    permute_bytes: bool = False
    expand_bytes: bool = False

    @property
    def permutes(self) -> bool:
        """Whether registers can be permuted by variable positions."""
        return self.permute2 or self.lanes == 8

    def lanes_dividing(self, *counts: int) -> int:
        """Lanes of the widest vectors, registers or parts of one, that rows of so many elements divide into."""
        return math.gcd(self.lanes, *counts)

    @property
    def bytewise(self) -> Isa:
        """The instruction set for kernels that only move and compare bytes: lanes of a vector count them."""
        return replace(self, lanes=4 * self.lanes)


def isa_of(target: Target, threads: int = 1) -> Isa:
    """The instruction set of a CPU target."""
    wide = target.has("avx512f") and target.lanes == 16
    vnni = target.has("avx512_vnni") if wide else target.has("avx_vnni")
    int8 = target.has("avx512bw") if wide else target.has("avx2") and target.lanes == 8
    return Isa(lanes=target.lanes, registers=32 if wide else 16, permute2=wide, threads=threads,
               bf16=wide and target.has("avx512_bf16"), vnni=int8 and vnni, int8=int8,
               permute_bytes=wide and vnni and target.has("avx512vbmi"),
               expand_bytes=wide and vnni and target.has("avx512_vbmi2"))
