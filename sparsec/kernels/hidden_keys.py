"""Which keys a mask of attention shows to which queries: causal masks, sliding windows, blocks, padding."""

from __future__ import annotations

import numpy as np

HIDDEN = -1e4
"""What a mask adds to a score, beside the most that it adds in the row, so that no weight is left of it."""
WORTH = 0.85
"""The share of scores that have to be computed, up to which the others are left out."""


def ordinary(most: np.ndarray) -> np.ndarray:
    """Whether rows of a mask, of which the most is given, show some key beside which others may be hidden."""
    found: np.ndarray = np.isfinite(most) & (most > HIDDEN)
    return found


def seen(mask: np.ndarray) -> np.ndarray:
    """The keys (…, keys) of which some weight may be left, as booleans.

    A row of -inf alone sees none, as its result is no number whatever is read. One that hides all keys by finite
    numbers weighs them alike and sees all, as does one with what is no number.
    """
    with np.errstate(invalid="ignore"):
        most = mask.max(axis=-1, keepdims=True)
        near = ~(mask - most <= HIDDEN)
    found: np.ndarray = np.where(ordinary(most), near, most != -np.inf)
    return found
