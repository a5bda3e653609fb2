"""How a constant matrix meets an activation: the geometry that product kernels need of MatMul and convolution.

A stencil describes Y[m, p] = sum over (c, t) of W[m, c * taps + t] * X[c, p + taps[t]], where p runs over the pixels
(or tokens) of one or more segments of a flat buffer. A 1x1 convolution and a linear layer have one tap; a k x k
convolution over the padded flat layout has k * k constant offsets; one of stride s reads phase planes and has stride
1 as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsec.graph.layout import PaddedFlat, PhasePlanes, Tiled


@dataclass(frozen=True)
class Lines:
    """The image rows of a convolution, whose taps lie in columns: how far right of the output's pixel each one reads.

    Attributes:
        height, width: rows and pixels of a row of the output.
        stride: floats from a row to the next, of X and of Y.
        columns: of the taps, in their order; negative ones read pixels on the left.
        bounded: what taps read outside of an output's row is zero.

    """

    height: int
    width: int
    stride: int
    columns: tuple[int, ...]
    bounded: bool


@dataclass(frozen=True)
class Stencil:
    """Geometry of one product, all lengths and offsets in floats.

    Attributes:
        channels: rows of X.
        taps: offsets of the taps, relative to the output's pixel.
        outputs: rows of Y.
        lanes: floats of a vector.
        vectors: vectors of pixels in one segment.
        segments: segments; each is a contiguous run of pixels in X and Y.
        x_origin, x_channel_stride, x_segment_stride, x_size: where X's pixel 0, next channel and next segment are.
        y_origin, y_row_stride, y_segment_stride, y_size: the same for Y and its rows.
        masked: Y's junk pixels must become zero, and so must everything between its segments.
        tail: lanes of a segment's last vector behind its last pixel.
        lines: the rows of a convolution of one image.

    """

    channels: int
    taps: tuple[int, ...]
    outputs: int
    lanes: int
    vectors: int
    segments: int
    x_origin: int
    x_channel_stride: int
    x_segment_stride: int
    x_size: int
    y_origin: int
    y_row_stride: int
    y_segment_stride: int
    y_size: int
    masked: bool = False
    tail: int = 0
    lines: Lines | None = None

    @property
    def inner(self) -> int:
        """Columns of W: channels x taps."""
        return self.channels * len(self.taps)

    def packed(self, vectors: int) -> bool:
        """Whether a tile of so many vectors is all that lies between a channel and the next, or all tokens there."""
        tokens = len(self.taps) == 1 and self.x_segment_stride == self.channels * self.x_channel_stride
        return self.x_channel_stride == vectors * self.lanes or (tokens and vectors == self.vectors)

    @property
    def pixels(self) -> int:
        """Pixels that are computed, junk included."""
        return self.segments * self.vectors * self.lanes

    @property
    def reach(self) -> int:
        """Floats between the first and the last tap."""
        return max(self.taps) - min(self.taps)


def linear(source: Tiled, outputs: int, lanes: int) -> Stencil:
    """Y[t, m] = sum over k of W[m, k] X[t, k] for tokens in the tiled layout; of one tile only what holds tokens."""
    segments = source.batch * source.tiles
    width = source.width
    tokens = source.tokens if segments == 1 and source.dtype == "float32" else width
    return Stencil(
        channels=source.features, taps=(0,), outputs=outputs, lanes=lanes, vectors=-(-tokens // lanes),
        segments=segments,
        x_origin=0, x_channel_stride=width, x_segment_stride=source.features * width, x_size=source.size,
        y_origin=0, y_row_stride=width, y_segment_stride=outputs * width, y_size=segments * outputs * width)


def convolution(source: PaddedFlat, target: PaddedFlat, kernel: tuple[int, int], dilation: tuple[int, int],
                begin: tuple[int, int]) -> Stencil:
    """A convolution of stride 1 between two padded flat layouts of one row stride and image pitch.

    Args:
        source: layout of the input; its padding is clean and no smaller than the convolution's.
        target: layout of the output.
        kernel: (kh, kw).
        dilation: (dh, dw).
        begin: (top, left) padding.

    """
    taps = tuple((i * dilation[0] - begin[0]) * source.row_stride + j * dilation[1] - begin[1]
                 for i in range(kernel[0]) for j in range(kernel[1]))
    return Stencil(
        channels=source.channels, taps=taps, outputs=target.channels, lanes=source.lanes, vectors=target.vectors,
        segments=1, x_origin=source.origin, x_channel_stride=source.channel_stride, x_segment_stride=0,
        x_size=source.size, y_origin=target.origin, y_row_stride=target.channel_stride, y_segment_stride=0,
        y_size=target.size, masked=target.clean, tail=target.vectors * target.lanes - target.span,
        lines=_lines(target, [j * dilation[1] - begin[1] for _ in range(kernel[0]) for j in range(kernel[1])],
                     bounded=source.clean and source.width <= target.width))


def _lines(target: PaddedFlat, columns: list[int], *, bounded: bool) -> Lines | None:
    single = target.batch == 1 and not target.sequence
    return Lines(target.height, target.width, target.row_stride, tuple(columns), bounded) if single else None


def strided_convolution(planes: PhasePlanes) -> Stencil:
    """A convolution of any stride over the phase planes of its input."""
    target = planes.output
    taps = tuple(planes.offset(i, j) for i in range(planes.kernel[0]) for j in range(planes.kernel[1]))
    return Stencil(
        channels=planes.channels, taps=taps, outputs=target.channels, lanes=target.lanes, vectors=target.vectors,
        segments=1, x_origin=0, x_channel_stride=planes.channel_stride, x_segment_stride=0, x_size=planes.size,
        y_origin=target.origin, y_row_stride=target.channel_stride, y_segment_stride=0, y_size=target.size,
        masked=target.clean, tail=target.vectors * target.lanes - target.span,
        lines=_lines(target, [j * planes.dilations[1] // planes.strides[1]
                              for _ in range(planes.kernel[0]) for j in range(planes.kernel[1])], bounded=False))
