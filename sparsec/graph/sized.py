"""Operators that graphs with run-time sizes have between compiled stages, where sessions run them."""

from __future__ import annotations

from typing import NamedTuple

SIZED_DOMAIN = "sparsec.sized"
APPEND = "Append"
"""(past (batch, heads, past, depth), new (batch, heads, tokens, depth), start (batch) or (1)) -> (batch, heads, past +
tokens, depth): every row's first `start` tokens of the past, then the new ones, then zeros."""

CACHE_SIZES = ("keys", "k_group", "k_key", "v_group", "v_key")
"""What a kernel for one token is told of a layer's caches: keys, the new one included, and strides in elements."""
SELECT = "Select"
"""(condition, then, otherwise) -> the one that a single boolean chooses; what only the other needs is not computed."""
RECURRENCE = "Recurrence"
"""(X (steps, batch, gates), first state, first cell, lengths; all but X may be absent) -> states (steps, batch,
hidden), last state, last cell (batch, hidden): `sparsec::Recurrence`, whose constants are the attributes weight, bias
and peepholes, of which the last two may be absent."""

SUPPRESSION = "NonMaxSuppression"
"""ONNX's operator, which has a kernel for boxes of any number."""
KEPT_ROOM, KEPT_PARTS = 16, 5
"""Of that kernel's memory for the boxes that are kept: they are a multiple of the first, of so many numbers each."""
LEVELS = "Levels"
"""(X) -> scale, zero point: the single numbers that DynamicQuantizeLinear finds of all of X."""
LEVELS_PARTS, LEVELS_LENGTH = 128, 16
"""Parts, at most, in which devices look at X, and numbers that each leaves."""
SCALE, ROUND, MASK, WEIGHTS = "scale", "round", "mask", "weights"
"""What attention of quantised graphs does to products of queries and keys, in order, with its numbers: multiply by one;
round to codes and back, by what makes a value whole, the least and the largest then, and what undoes it; add the mask;
and round the weights of the softmax."""


IM2COL, IM2COL_CODES = "Im2col", "Im2colCodes"
DENSE, WINOGRAD = "DenseConv", "WinogradConv"
CONVOLUTIONS = (DENSE, WINOGRAD)
WINDOWS = (IM2COL, IM2COL_CODES, "MaxPool", "AveragePool", "DepthwiseConv", "Resize", "PixelShuffle", *CONVOLUTIONS)
"""(X (batch, sides …, channels), more) -> the same of windows, with ONNX's attributes by side: all pixels of a window
side by side, of codes with that of 0 as the second input; the largest; the mean; the sum by weights (pixels, channels)
and biases, one behind the other; neighbours, for the sizes of the second input where it is there; and of channels
(`blocks`, channels) the pixels of each block. The `CONVOLUTIONS` take a weight as it is packed with its biases behind
it, `WINOGRAD` one of 3 x 3 pixels for images, for activation(Y + residual), where there is a third input."""


class Convolution(NamedTuple):
    """A kernel of one of `CONVOLUTIONS`: vectors of outputs that are computed at once, and what follows the product."""

    kind: str
    vectors: int
    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    residual: bool = False


class Attention(NamedTuple):
    """A kernel of attention: features of keys and of values, the factor of the scores, or the steps in its place.

    All of its calls have a mask, or none has (`masked`), or some have: None.
    """

    depth: int
    width: int
    scale: float
    steps: tuple[str, ...] = ()
    masked: bool | None = None


class Computed(NamedTuple):
    """A kernel of a device for any sizes: an operator, the element types of its operands, and that of its result."""

    operator: str
    given: tuple[str, ...]
    made: str

    @property
    def name(self) -> str:
        """That of the kernel."""
        return "_".join((self.operator, *self.given, self.made))
