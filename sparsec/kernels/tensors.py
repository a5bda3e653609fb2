"""What kernels for tensors without a weight compute: their parameters, whichever target has such a kernel.

Tensors lie in ONNX's order, flat, and hold float32 unless the parameters say otherwise. A backend's context has the
builders of its kernels by the class of their parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsec.graph.layout import round_up
from sparsec.graph.operators.recurrence import GATES, Activation

GATE_VECTORS = 8
"""Vectors of gates that a row of them is padded by."""


@dataclass(frozen=True)
class BatchMatmul:
    """C (..., rows, columns) = A (..., rows, inner) @ B (..., inner, columns).

    Attributes:
        a_batch, b_batch: leading dimensions, equally many, 1 where an operand is repeated.
        rows, inner, columns: the matrices.
        chosen: of how many matrices A's, and B's, are chosen by their positions (int64, one for each of the leading
            dimensions), which follow the operand; 0 where they lie in turn.

    """

    a_batch: tuple[int, ...]
    b_batch: tuple[int, ...]
    rows: int
    inner: int
    columns: int
    chosen: tuple[int, int] = (0, 0)

    @property
    def batch(self) -> tuple[int, ...]:
        """Leading dimensions of C."""
        return np.broadcast_shapes(self.a_batch, self.b_batch)

    @property
    def matrices(self) -> tuple[int, int]:
        """How many matrices lie in A and in B."""
        a, b = self.chosen
        return a or math.prod(self.a_batch), b or math.prod(self.b_batch)

    @classmethod
    def of_shapes(cls, a: tuple[int, ...], b: tuple[int, ...], chosen: tuple[int, int] = (0, 0)) -> BatchMatmul:
        """The product of two shapes of two dimensions or more; rows of every A that meets one B become one matrix."""
        rank = max(len(a), len(b)) - 2
        a_batch, b_batch = ((1,) * (rank + 2 - len(shape)) + shape[:-2] for shape in (a, b))
        if math.prod(b_batch) == 1 and not any(chosen):
            return cls((), (), math.prod(a_batch) * a[-2], a[-1], b[-1])
        return cls(a_batch, b_batch, a[-2], a[-1], b[-1], chosen)


@dataclass(frozen=True)
class CodesParams:
    """Float32 to codes of one scale and zero point, which come first as float32 (1,), or `back`.

    Attributes:
        size: elements.
        dtype: of the codes, uint8 or int8.
        back: codes to float32.
        interleaved: the float32 come in the order that the kernels on codes have in registers.

    """

    size: int
    dtype: str = "uint8"
    back: bool = False
    interleaved: bool = False


@dataclass(frozen=True)
class FlatRangeParams:
    """Scale and zero point, float32 (1,) each, of so many float32 as DynamicQuantizeLinear finds them."""

    size: int


@dataclass(frozen=True)
class IndexParams:
    """Rows of indices, one for each of the axes.

    Attributes:
        rows: how many elements are addressed.
        extents: the length of every axis.
        dtype: what the indices arrive in.
        user: whom the error names.

    """

    rows: int
    extents: tuple[int, ...]
    dtype: str
    user: str

    @property
    def message(self) -> str:
        """The text of the error where an index is outside its axis."""
        return f"{self.user}: an index is outside the tensor, whose axes have {list(self.extents)} elements"

    def counted(self, indices: np.ndarray) -> np.ndarray:
        """The kernel's numpy reference: indices (rows, axes) as int64; the negative ones count from the end.

        Raises:
            IndexError: one lies outside its axis.

        """
        extents = np.array(self.extents)
        if ((indices < -extents) | (indices >= extents)).any():
            raise IndexError(self.message)
        return np.where(indices < 0, indices + extents, indices).astype(np.int64)


@dataclass(frozen=True)
class NormalizeParams:
    """Y = (X - mean) / sqrt(variance + epsilon) * scale + bias over each row of X (rows, length).

    Attributes:
        rows, length: the tensor.
        epsilon: ONNX's.
        channels: 0 if scale and bias have an element for each of the row's; else they have so many elements, each for
            `run` neighbours, and start over where they end.
        run: neighbours in a row that share a channel; divides `length`.
        centred: whether the mean is subtracted; if not, the mean square stands for the variance and there is no bias.

    """

    rows: int
    length: int
    epsilon: float
    channels: int = 0
    run: int = 1
    centred: bool = True

    @property
    def affine(self) -> int:
        """Elements of scale and bias."""
        return self.channels or self.length


@dataclass(frozen=True)
class PoolParams:
    """Pooling of X (planes, *image) to Y (planes, *output); pairs are (vertical, horizontal).

    Output o covers inputs o * stride - before + k * dilation, k < kernel, as far as they exist. An average is a sum
    times a factor for each output row and one for each column.
    """

    planes: int
    image: tuple[int, int]
    output: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    average: bool

    @property
    def neutral(self) -> float:
        """What padding counts as: 0 in sums, -infinity in maxima."""
        return 0.0 if self.average else -np.inf


@dataclass(frozen=True)
class Direction:
    """One direction of a recurrent layer.

    Attributes:
        cell: a key of `GATES`.
        steps, batch, hidden: extents.
        activations: one for an RNN, two for a GRU, three for an LSTM.
        backwards: whether steps are taken from the last to the first.
        peepholes: of an LSTM, whether the gates see the cell.
        lengths: whether members of the batch end early; behind their end Y is zero.
        clip: the largest magnitude of what the gates' activations take, 0 for any.

    """

    cell: str
    steps: int
    batch: int
    hidden: int
    activations: tuple[Activation, ...]
    backwards: bool = False
    peepholes: bool = False
    lengths: bool = False
    clip: float = 0.0

    @property
    def gates(self) -> int:
        """Elements of all gates of a member at a step."""
        return GATES[self.cell] * self.hidden


@dataclass(frozen=True)
class RecurrentParams(Direction):
    """A direction with products of its own."""

    def row(self, lanes: int) -> int:
        """The length of a row of gates: padded, so that vectors may start at any gate."""
        return round_up(self.gates + lanes * GATE_VECTORS, lanes)


@dataclass(frozen=True)
class ReduceParams:
    """The reduction's name, the extents before, along and behind the axis, and a factor on the result."""

    name: str
    outer: int
    length: int
    inner: int
    factor: float = 1.0


@dataclass(frozen=True)
class SelectParams:
    """The mask's length and how many of its true elements are wanted."""

    length: int
    count: int


@dataclass(frozen=True)
class SoftmaxParams:
    """The tensor's extents before, along and behind the axis, and whether the logarithm is wanted."""

    outer: int
    length: int
    inner: int
    log: bool = False


@dataclass(frozen=True)
class SortParams:
    """Sorting each row of X (rows, length); `taken` positions of each are wanted."""

    rows: int
    length: int
    taken: int
    descending: bool = True
    dtype: str = "float32"


@dataclass(frozen=True)
class SuppressionParams:
    """Boxes (batches, boxes, 4), scores (batches, classes, boxes), and how many selected boxes the output holds.

    Attributes:
        centred: whether a box is (x centre, y centre, width, height); else it is two opposite corners (y, x, y, x).

    """

    batches: int
    classes: int
    boxes: int
    selected: int
    centred: bool = False


@dataclass(frozen=True)
class TransposeParams:
    """X (batch, rows, columns) to Y (batch, columns, rows)."""

    batch: int
    rows: int
    columns: int


@dataclass(frozen=True)
class InterleaveParams:
    """X transposed so that its last axis becomes the last but one of Y, in front of a short one.

    Attributes:
        extents: of Y; the last is 2, 4 or 8.
        order: the axis of X that every axis of Y is.

    """

    extents: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements of X from one index to the next of every axis of Y."""
        sizes = [self.extents[self.order.index(rank)] for rank in range(len(self.order))]
        return tuple(math.prod(sizes[axis + 1:]) for axis in self.order)
