"""What a kernel generator may assume of the processor, derived from the target."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sparsec.target import Target


@dataclass(frozen=True)
class Isa:
    """The vector instruction set a kernel is generated for.

    Attributes:
        lanes: float32 elements of a vector register (16 AVX-512, 8 AVX2 and SVE, 4 generic and NEON).
        registers: architectural vector registers.
        permute2: two-register permutes (AVX-512's vpermi2ps), and the expansion by a mask are there.
        neon: AArch64's vectors, not x86's: of four lanes NEON's, of eight SVE's.
        threads: threads the kernel may use; 1 emits no parallel loop.
        bf16: dot products of bf16 pairs (vdpbf16ps, bfdot) are there.
        vnni: dot products of four 8-bit integers (vpdpbusd, usdot, sdot) are there.
        halves: a vector of half the lanes takes half the time, for whole ones are done in two.
        mixed: those of unsigned and signed integers are there where `neon` (usdot), beside those of signed ones (sdot).
        int8: products of 8-bit integers are there, in one instruction (vnni) or in three.
        permute_bytes: two-register permutes of bytes (AVX512_VBMI's vpermi2b) are there, and `vnni`.
        tiles: AMX's products of tiles of bytes are there, and `vnni`.
        tiles_bf16: those of tiles of bf16 are there, and `bf16`.
        expand_bytes: the expansion of bytes by a mask (AVX512_VBMI2's vpexpandb) is there, and `vnni`.

    """

    lanes: int
    registers: int
    permute2: bool
    threads: int = 1
    neon: bool = False
    bf16: bool = False
    vnni: bool = False
    int8: bool = False
    permute_bytes: bool = False
    expand_bytes: bool = False
    mixed: bool = False
    halves: bool = False
    tiles: bool = False
    tiles_bf16: bool = False

    @property
    def permutes(self) -> bool:
        """Whether registers can be permuted by variable positions."""
        return self.permute2 or (self.lanes == 4 if self.neon else self.lanes == 8)

    @property
    def fused(self) -> bool:
        """Whether there are fused multiply-adds."""
        return self.lanes >= 8 or self.neon

    @property
    def half(self) -> bool:
        """Whether half precision converts to float32 in an instruction."""
        return self.lanes >= 8 or self.neon

    def lanes_dividing(self, *counts: int) -> int:
        """Lanes of the widest vectors, registers or parts of one, that rows of so many elements divide into."""
        return math.gcd(self.lanes, *counts)

    @property
    def bytewise(self) -> Isa:
        """The instruction set for kernels that only move and compare bytes: lanes of a vector count them."""
        return replace(self, lanes=4 * self.lanes)


def isa_of(target: Target, threads: int = 1) -> Isa:
    """The instruction set of a CPU target."""
    if target.has("asimd"):
        dots = target.has("asimddp")
        return Isa(lanes=target.lanes, registers=32, permute2=False, threads=threads, neon=True,
                   bf16=target.has("bf16"), vnni=dots, int8=dots, mixed=target.has("i8mm"))
    wide = target.has("avx512f") and target.lanes == 16
    vnni = target.has("avx512_vnni") if wide else target.has("avx_vnni")
    int8 = target.has("avx512bw") if wide else target.has("avx2") and target.lanes == 8
    return Isa(lanes=target.lanes, registers=32 if wide else 16, permute2=wide, threads=threads,
               bf16=wide and target.has("avx512_bf16"), vnni=int8 and vnni, int8=int8, halves=wide and target.halves,
               permute_bytes=wide and vnni and target.has("avx512vbmi"),
               expand_bytes=wide and vnni and target.has("avx512_vbmi2"),
               tiles=wide and vnni and target.has("amx_int8"),
               tiles_bf16=wide and target.has("avx512_bf16") and target.has("amx_bf16"))
