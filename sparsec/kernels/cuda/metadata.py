"""2:4 matrices as the sparse tensor cores take them: two values of every four, and the positions they come from.

Positions are two bits each, rising within a group of four (`mma.sp::ordered_metadata`). A group's nibble is
i0 | i1 << 2, and nibbles rise with K from bit 0 of a word. Lanes (4g + t) hold the words of one instruction
(PTX ISA, "Matrix fragments for sparse mma.m16n8k32" and "… m16n8k64"):

    16 bits  K step of 32; word t = 2s + h holds k 16h … 16h + 15 of row g in its low and of row g + 8 in its high
             half, for the instruction's sparsity selector s: one word serves two blocks of 16 rows
    8 bits   K step of 64; word t = 2h + r holds k 32h … 32h + 31 of row g + 8r
"""

from __future__ import annotations

import numpy as np

from sparsec.errors import FormatError

GROUP = 4
KEPT = 2


def reject(weight: np.ndarray) -> str | None:
    """Why a matrix (M, K) cannot be stored 2:4, or None."""
    if weight.ndim != 2:
        return f"the weight has {weight.ndim} dimensions, not 2"
    if weight.shape[1] % GROUP:
        return f"K = {weight.shape[1]} is not a multiple of {GROUP}"
    crowded = int((np.count_nonzero(weight.reshape(len(weight), -1, GROUP), axis=2) > KEPT).sum())
    return f"{crowded} groups of {GROUP} hold more than {KEPT} non-zeros" if crowded else None


def compress(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values and their positions in the groups, both (M, K / 2); positions are uint8 and rise within a group.

    Raises:
        FormatError: the matrix is not 2:4.

    """
    if reason := reject(weight):
        raise FormatError(f"cannot store a {weight.shape} matrix 2:4: {reason}")
    rows = len(weight)
    groups = weight.reshape(rows, -1, GROUP)
    order = np.where(groups != 0, 0, GROUP) + np.arange(GROUP)  # non-zeros first, then the lowest free positions
    positions = np.sort(np.argsort(order, axis=2, kind="stable")[..., :KEPT], axis=2)
    values = np.take_along_axis(groups, positions, 2)
    return values.reshape(rows, -1), positions.astype(np.uint8).reshape(rows, -1)


def expand(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The matrix (M, K) of `compress`ed values and positions."""
    rows = len(values)
    groups = np.zeros((rows, values.shape[1] // KEPT, GROUP), values.dtype)
    np.put_along_axis(groups, positions.reshape(rows, -1, KEPT).astype(np.int64), values.reshape(rows, -1, KEPT), 2)
    return groups.reshape(rows, -1)


def pack(positions: np.ndarray, itemsize: int) -> np.ndarray:
    """Positions -> words, uint32: (M / 32, K / 32, 32 lanes) for 2-byte values, (M / 16, K / 64, 32) for 1-byte ones.

    M and K are multiples of what one word's instructions cover.
    """
    rows = len(positions)
    pairs = positions.reshape(rows, -1, KEPT).astype(np.uint32)
    nibbles = pairs[..., 0] | pairs[..., 1] << 2
    if itemsize == 1:
        words = _join(nibbles, 8).reshape(rows // 16, 2, 8, -1, 2)  # block, row half, g, step, k half
        lanes = words.transpose(0, 3, 2, 4, 1)
    else:
        halves = _join(nibbles, 4).reshape(rows // 32, 2, 2, 8, -1, 2)  # pair, selector, row half, g, step, k half
        lanes = (halves[:, :, 0] | halves[:, :, 1] << 16).transpose(0, 3, 2, 1, 4)
    return np.ascontiguousarray(lanes).reshape(lanes.shape[0], lanes.shape[1], 32)


def unpack(words: np.ndarray, itemsize: int) -> np.ndarray:
    """The inverse of `pack`."""
    blocks, steps, _ = words.shape
    if itemsize == 1:
        rows = words.reshape(blocks, steps, 8, 2, 2).transpose(0, 4, 2, 1, 3).reshape(blocks * 16, -1)
        nibbles = _split(rows, 8)
    else:
        lanes = words.reshape(blocks, steps, 8, 2, 2).transpose(0, 3, 2, 1, 4)  # pair, selector, g, step, k half
        halves = np.stack([lanes & 0xFFFF, lanes >> 16], axis=2)
        nibbles = _split(halves.reshape(blocks * 32, -1), 4)
    return np.stack([nibbles & 3, nibbles >> 2], axis=2).astype(np.uint8).reshape(len(nibbles), -1)


def _join(nibbles: np.ndarray, count: int) -> np.ndarray:
    """Words of `count` nibbles along the rows."""
    shifts = 4 * np.arange(count, dtype=np.uint32)
    words: np.ndarray = np.bitwise_or.reduce(nibbles.reshape(len(nibbles), -1, count) << shifts, axis=2)
    return words


def _split(words: np.ndarray, count: int) -> np.ndarray:
    """The nibbles of words along the rows."""
    shifts = 4 * np.arange(count, dtype=np.uint32)
    return (words[..., None] >> shifts & 15).reshape(len(words), -1)
