"""Which tiles an architecture can run, and which of them suit a number of columns.

Limits are those of NVIDIA's CUDA C++ programming guide, "Compute Capabilities"; that no tile spills or exceeds them
is what the tests ask the compiler's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparsec.kernels.cuda.params import Tile

KIB = 1024


@dataclass(frozen=True)
class Limits:
    """What a thread block may take.

    Attributes:
        shared_bytes: shared memory of a block, the driver's own share excluded.
        registers: 32-bit registers of a multiprocessor.

    """

    shared_bytes: int
    registers: int = 65536


LIMITS = {
    "sm_80": Limits(163 * KIB),
    "sm_86": Limits(99 * KIB),
    "sm_89": Limits(99 * KIB),
    "sm_90": Limits(227 * KIB),
}

# For 2-byte elements, by columns: from tiles that keep the tensor cores busy to those that only stream the weight.
TILES = (
    Tile(128, 256, 64, (2, 4), 2),
    Tile(128, 256, 64, (2, 4), 3),
    Tile(256, 128, 64, (4, 2), 2),
    Tile(256, 128, 64, (4, 2), 3),
    Tile(128, 128, 64, (2, 2), 3),
    Tile(128, 128, 64, (2, 4), 4),
    Tile(64, 128, 64, (2, 2), 4),
    Tile(128, 64, 64, (2, 2), 4),
    Tile(64, 64, 64, (2, 2), 4),
    Tile(128, 32, 64, (4, 1), 4),
    Tile(64, 32, 128, (2, 1), 4),
    Tile(64, 16, 128, (2, 1), 5),
    Tile(32, 16, 256, (1, 1), 4),
    Tile(64, 8, 128, (2, 1), 6),
    Tile(32, 8, 256, (1, 1), 4),
)

# For warp groups (`wgmma.py`), 2-byte elements.
WARP_GROUP_TILES = (
    Tile(256, 128, 64, (16, 1), 4),
    Tile(128, 256, 64, (8, 1), 4),
    Tile(128, 128, 64, (8, 1), 5),
    Tile(64, 256, 64, (4, 1), 5),
    Tile(64, 128, 64, (4, 1), 4),
    Tile(64, 64, 64, (4, 1), 6),
    Tile(64, 16, 64, (4, 1), 8),
)


def candidates(n: int, itemsize: int, tiles: Sequence[Tile] = TILES) -> list[Tile]:
    """Tiles worth trying for n columns: those no wider than the narrowest that holds them all."""
    widths = [tile.columns for tile in tiles]
    widest = min((width for width in widths if width >= n), default=max(widths))
    depth = 2 // itemsize  # the same bytes of K
    return [replace(tile, depth=tile.depth * depth) for tile in tiles if tile.columns <= widest]


def reject(shared_bytes: int, architecture: str) -> str | None:
    """Why an architecture cannot run a block that takes so much shared memory, or None."""
    limit = LIMITS[architecture].shared_bytes
    if shared_bytes <= limit:
        return None
    return f"a block needs {shared_bytes} bytes of shared memory, {architecture} has {limit}"
