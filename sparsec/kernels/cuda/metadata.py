"""2:4 matrices as the sparse tensor cores take them: two values of every four, and the positions they come from.

Positions are two bits each, rising within a group of four (`mma.sp::ordered_metadata`). A group's nibble is
i0 | i1 << 2, and nibbles rise with K from bit 0 of a word. Lanes (4g + t) hold the words of one instruction
(PTX ISA, "Matrix fragments for sparse mma.m16n8k32" and "… m16n8k64"):

    16 bits  K step of 32; word t = 2s + h holds k 16h … 16h + 15 of row g in its low and of row g + 8 in its high
             half, for the instruction's sparsity selector s: one word serves two blocks of 16 rows
    8 bits   K step of 64; word t = 2h + r holds k 32h … 32h + 31 of row g + 8r
"""

from __future__ import annotations

import ml_dtypes
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
    return _crowded(_masks(weight))


def compress(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values and their positions in the groups, both (M, K / 2); positions are uint8 and rise within a group.

    A group of fewer non-zeros has its lowest zeros beside them.

    Raises:
        FormatError: the matrix is not 2:4.

    """
    fits = weight.ndim == 2 and weight.shape[1] % GROUP == 0
    masks = _masks(weight) if fits else None
    if reason := reject(weight) if masks is None else _crowded(masks):
        raise FormatError(f"cannot store a {weight.shape} matrix 2:4: {reason}")
    assert masks is not None
    positions = _POSITIONS[masks].view(np.uint8)
    places = np.arange(0, weight.size, GROUP)[:, np.newaxis] + positions.reshape(-1, KEPT)
    values = np.ascontiguousarray(weight).reshape(-1)[places]
    return values.reshape(len(weight), -1), positions.reshape(len(weight), -1)


def _masks(weight: np.ndarray) -> np.ndarray:
    """Which elements of every group are not zero, as four bits (groups,), the first one lowest."""
    halves = weight.dtype in (np.float16, ml_dtypes.bfloat16)  # which numpy compares one by one
    used = weight.view(np.uint16) << 1 != 0 if halves else weight != 0
    present = np.ascontiguousarray(used).reshape(-1).view("<u4")  # four bytes that are 0 or 1
    return (present * np.uint32(1 << 24 | 1 << 17 | 1 << 10 | 1 << 3) >> 24).astype(np.uint8)


def _crowded(masks: np.ndarray) -> str | None:
    """That groups have too many non-zeros, or None."""
    crowded = int(np.count_nonzero(np.bitwise_count(masks) > KEPT))
    return f"{crowded} groups of {GROUP} hold more than {KEPT} non-zeros" if crowded else None


def _kept(mask: int) -> list[int]:
    """The positions that a group with such a mask keeps."""
    zero_last = sorted(range(GROUP), key=lambda place: (not mask >> place & 1, place))
    return sorted(zero_last[:KEPT])


_POSITIONS = np.array([_kept(mask) for mask in range(1 << GROUP)], np.uint8).view(np.uint16)[:, 0]
"""By mask, the two positions, the first one in the lower address."""


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
    pairs = positions.reshape(rows, -1, KEPT)
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
    """Words of `count` nibbles (uint8) along the rows, uint32."""
    halves = nibbles[:, ::2] | nibbles[:, 1::2] << 4
    return np.ascontiguousarray(halves).view(f"<u{count // 2}").astype(np.uint32)


def _split(words: np.ndarray, count: int) -> np.ndarray:
    """The nibbles of words along the rows."""
    shifts = 4 * np.arange(count, dtype=np.uint32)
    return (words[..., None] >> shifts & 15).reshape(len(words), -1)
