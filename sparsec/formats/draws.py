"""Signs that a seed draws: random weights that nobody needs to store.

The generator is SplitMix64 (Steele, Lea & Flood 2014) at 64 signs a number: integer arithmetic alone, so that a seed
draws the same signs on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEEDS = 1 << 20
"""Seeds are below this, so that the one of some weights can be found by trying all."""
WORD = 64
STEP, FIRST, SECOND = (np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
PROBED, FEWEST, SHARE = 4, 128, 0.75
"""Words that tell a seed; the signs of these that must be known; the share of them that must agree."""


def signs(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The signs of a weight as 1 and -1, in row order."""
    count = int(np.prod(shape))
    words = _words(np.uint64(seed), np.arange(-(-count // WORD), dtype=np.uint64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=count, bitorder="little")
    return np.where(bits, np.float32(1), np.float32(-1)).reshape(shape)


def seed_of(positive: NDArray[np.bool_], known: NDArray[np.bool_]) -> int | None:
    """The seed whose signs these are, of a flattened weight, or None.

    Args:
        positive: whether each weight is.
        known: which of them may be as drawn; a quarter may have changed its sign.

    """
    words = min(len(positive) // WORD, PROBED)
    some = known[:words * WORD]
    if np.count_nonzero(some) < FEWEST:
        return None
    wanted, mask = (np.packbits(each[:words * WORD], bitorder="little").view("<u8") for each in (positive, some))
    seeds, agree = np.arange(SEEDS, dtype=np.uint64), np.zeros(SEEDS, np.int64)
    for word in range(words):
        agree += np.bitwise_count(~(_words(seeds, np.uint64(word)) ^ wanted[word]) & mask[word])
    best = int(agree.argmax())
    return best if agree[best] >= SHARE * np.count_nonzero(some) else None


def _words(seed: NDArray[np.uint64] | np.uint64, number: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """The numbers of seeds: SplitMix64 from a state that differs by seed in its upper half."""
    with np.errstate(over="ignore"):
        state = (seed << np.uint64(40)) + (number + np.uint64(1)) * STEP
        state = (state ^ (state >> np.uint64(30))) * FIRST
        state = (state ^ (state >> np.uint64(27))) * SECOND
        return np.asarray(state ^ (state >> np.uint64(31)))
