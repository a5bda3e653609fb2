"""What products wait for beside their own loads: inputs and pages that L1 does not keep, weights that L2 does not."""

from __future__ import annotations

import math

from sparsec.kernels.cpu.products.tiling import Tiling

PAGE = 4096  # bytes; what lies a page apart competes for the same set of the L1 cache
LINE = 64
CROWDED, FLOODED = 0.65, 1.6  # shares of the L1 cache that are in use when inputs begin to be evicted, and when all are
ALL = 0.75  # share of a tile's inputs from which on a group reads them as if it read all, one after the other
FULL, SCATTERED = 0.95, 0.6  # share of the L1 cache beyond which others find some evicted; what they wait for these
HELD = 2  # times the L1 cache up to which a group finds others' inputs; of twice as many, none
PAGES = 64  # that are translated at once; with twice as many, none is when it is needed
L2_SHARE = 0.75  # of the L2 cache that weights may fill and stay


def waited_bytes(t: Tiling, touched: float, streamed: float, l1_bytes: int, share: float = 1.0) -> float:
    """Bytes that the product of one tile waits for.

    Args:
        t: the tiling.
        touched: rows of the tile's inputs (channels x taps) that groups of rows read, all groups together.
        streamed: bytes of weights that pass through the L1 cache between two groups that read the same inputs.
        l1_bytes: the L1 cache.
        share: of the tile's inputs that a group of rows reads.

    """
    s = t.stencil
    channels = min(t.chunk, s.channels)
    span = t.copied or min(len(s.taps) * t.tile, t.tile + s.reach)
    sets = min(1.0, t.vectors / math.gcd(4 * s.x_channel_stride // LINE, PAGE // LINE)) if t.mode == "direct" else 1.0
    used = (4 * channels * span + streamed) / (l1_bytes * sets)
    packed = t.mode != "direct" or s.packed(t.vectors)
    scattered = packed and share < ALL
    waits = SCATTERED + (1 - SCATTERED) * ramp(used, HELD, 2 * HELD)
    evicted = waits * max(0.0, 1 - FULL / used) if scattered else ramp(used, CROWDED, FLOODED)
    pages = 4 * channels * s.x_channel_stride / PAGE if t.mode == "direct" else 0.0
    return touched * 4 * s.lanes * (t.vectors * evicted + ramp(pages, PAGES, 2 * PAGES))


def brought_bytes(t: Tiling, weight_bytes: float, l2_bytes: int) -> float:
    """Bytes of weights that come from beyond the L2 cache: once, or for every tile where L2 cannot hold a band's."""
    stay = weight_bytes / t.bands <= L2_SHARE * l2_bytes
    return weight_bytes * (1 if stay else t.stencil.segments * t.tiles)


def ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
