"""AMX: products of tiles, registers of 16 rows of up to 64 bytes, by number.

A kernel built with `Roles.llvm` calls `configure` on every thread before its first tile, and `release` behind the last:
until then the state of the tiles is the thread's. A product adds A (16 rows of K) times B (K in rows of fours or pairs,
16 columns) to a tile of 16 x 16 sums. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, TDPBSUD,
TDPBF16PS.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.tir import Buffer, Expr

ROWS = 16
WORDS = 16  # 32-bit elements of a row
ROW_BYTES = 4 * WORDS
TILES = 8


@dataclass(frozen=True)
class Roles:
    """What the registers hold: `left` A with `depth` words of K in a row, `right` B, the others sums."""

    left: range
    right: range
    depth: int

    @property
    def name(self) -> str:
        """Of what loads them, one for each way to use the registers: a library may hold kernels of several."""
        return f"sparsec_tiles_{self.left.start}_{self.left.stop}_{self.right.start}_{self.right.stop}_{self.depth}"

    @property
    def llvm(self) -> str:
        """What `configure` and `release` call."""
        columns = [4 * (self.depth if tile in self.left else WORDS) for tile in range(TILES)]
        rows = [self.depth if tile in self.right else ROWS for tile in range(TILES)]
        config = [1, *[0] * 15, *(byte for each in columns for byte in (each, 0)), *[0] * 16, *rows, *[0] * 8]
        values = ", ".join(f"i8 {each}" for each in config)
        return f"""declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
@{self.name} = linkonce_odr constant [64 x i8] [{values}], align 64
define linkonce_odr void @{self.name}_configure() alwaysinline nounwind {{
  call void @llvm.x86.ldtilecfg(ptr @{self.name})
  ret void
}}
define linkonce_odr void @sparsec_tiles_release() alwaysinline nounwind {{
  call void @llvm.x86.tilerelease()
  ret void
}}
"""


def configure(roles: Roles) -> None:
    """Give the thread its tiles."""
    T.evaluate(T.call_extern("void", f"{roles.name}_configure"))


def release() -> None:
    """Give the tiles up."""
    T.evaluate(T.call_extern("void", "sparsec_tiles_release"))


def clear(tile: int) -> None:
    """Set a tile to zero."""
    _call("tilezero", T.int8(tile))


def load_tile(tile: int, buffer: Buffer, index: Expr, stride: int) -> None:
    """Load a tile whose rows begin so many bytes apart."""
    _call("tileloadd64", T.int8(tile), T.address_of(buffer[index]), T.int64(stride))


def store_tile(tile: int, buffer: Buffer, index: Expr, stride: int) -> None:
    """Store a tile in rows that begin so many bytes apart."""
    _call("tilestored64", T.int8(tile), T.address_of(buffer[index]), T.int64(stride))


def add_bytes(sums: int, signed: int, unsigned: int) -> None:
    """Add the product of a tile of signed bytes and one of unsigned bytes to a tile of int32."""
    _call("tdpbsud", T.int8(sums), T.int8(signed), T.int8(unsigned))


def add_bf16(sums: int, left: int, right: int) -> None:
    """Add the product of two tiles of bf16 to a tile of float32."""
    _call("tdpbf16ps", T.int8(sums), T.int8(left), T.int8(right))


def _call(name: str, *arguments: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))
