"""Physical layouts of activations on the CPU: how a logical ONNX tensor lies in one flat buffer.

A layout changes where a value is stored, never what it is: the graph's tensors keep their logical ONNX shapes in every
layout, and `sparsec::Reformat` is the identity. `Plain` is ONNX's own row-major order.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sparsec.graph.annotations import Annotation


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Plain:
    """Row-major, as ONNX defines it."""


@dataclass(frozen=True)
class PaddedFlat:
    """Images (batch, channels, height, width), channels first, zero-padded and flattened.

    Pixel (n, c, h, w) lies at `c * channel_stride + origin + (n * pitch + h) * row_stride + w`: the images of a batch
    stand below each other, separated by `row_pad` rows, and each row is followed by at least `pad` zero columns, which
    are the right padding of one row and the left padding of the next. A convolution of stride 1 and padding up to `pad`
    is then one flat stencil: every tap is a constant offset. Sequences are images of height 1, without row padding.

    Attributes:
        pad: rows and columns of padding around each image.
        row_stride: floats from a pixel to the one below; at least `width + pad`.
        lanes: vector width in floats; origin and channel stride are multiples of it.
        clean: whether the padding holds zeros; if not, it holds anything.
        sequence: the images are sequences: of height 1, and without padding above and below.
        dtype: of an element: float32, or uint8 for codes of a quantised tensor, where what is counted in floats below
            is counted in codes; those of int8 lie 128 larger.
        padding: the code in clean padding.

    """

    batch: int
    channels: int
    height: int
    width: int
    pad: int
    row_stride: int
    lanes: int
    clean: bool = True
    sequence: bool = False
    dtype: str = "float32"
    padding: int = 0

    @property
    def row_pad(self) -> int:
        """Rows of padding above, between and below the images."""
        return 0 if self.sequence else self.pad

    @property
    def pitch(self) -> int:
        """Rows from an image to the next."""
        return self.height + self.row_pad

    @property
    def origin(self) -> int:
        """Offset of pixel (0, 0) of the first image within a channel."""
        return round_up(self.row_pad * self.row_stride + self.pad, self.lanes)

    @property
    def rows(self) -> int:
        """Rows from the first image's first to the last image's last, separators included."""
        return self.batch * self.pitch - self.row_pad

    @property
    def span(self) -> int:
        """Floats from the first pixel to behind the last."""
        return (self.rows - 1) * self.row_stride + self.width

    @property
    def vectors(self) -> int:
        """Vectors that cover the span."""
        return -(-self.span // self.lanes)

    @property
    def channel_stride(self) -> int:
        """Floats from a channel to the next, with all that its pixels' taps read."""
        below = self.row_pad * self.row_stride + self.pad
        return self._odd_lines(max(self.vectors * self.lanes, self.span + below))

    @property
    def size(self) -> int:
        """Floats of the whole buffer; behind the last channel, what its last vectors read beside their pixels.

        Nobody writes there, so that only lanes behind the last pixel may see what memory held.
        """
        below = self.row_pad * self.row_stride + self.pad
        return (self.channels - 1) * self.channel_stride + self._odd_lines(self.vectors * self.lanes + below)

    def _odd_lines(self, behind: int) -> int:
        """Floats of a channel with so many from its first pixel on: an odd number of lines, to spread over the sets."""
        line = max(16, self.lanes)
        return (round_up(self.origin + behind, line) // line | 1) * line

    @property
    def is_plain(self) -> bool:
        """Whether all lies where ONNX's own layout has it."""
        return self.batch == 1 and self.origin == 0 and self.size == self.channels * self.height * self.width


@dataclass(frozen=True)
class PhasePlanes:
    """The zero-padded input of a strided convolution, dealt into planes so that every tap is a constant offset.

    Plane (a, b) of channel c holds the padded input's pixels (sh * i + a, sw * j + b). Its rows have the output's row
    stride and its images the output's pitch: pixel (i, j) of image n lies at
    `c * channel_stride + plane(a, b) + (n * output.pitch + i) * output.row_stride + j`. Output pixel p, counted from
    the output's origin, meets tap (kh, kw) of channel c at `c * channel_stride + offset(kh, kw) + p`. Only planes that
    some tap reads are stored; positions that no output pixel reads hold anything.

    Attributes:
        channels: of the input.
        kernel: (kh, kw).
        strides: (sh, sw).
        dilations: (dh, dw).
        begins: (top, left) padding.
        output: layout of the convolution's output; `misfit` says whether it leaves room for the planes' rows.

    """

    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    begins: tuple[int, int]
    output: PaddedFlat

    @property
    def phases(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The a and the b of the planes that taps read, ascending."""
        rows, columns = (tuple(sorted({tap * dilation % stride for tap in range(taps)}))
                         for taps, dilation, stride in zip(self.kernel, self.dilations, self.strides, strict=True))
        return rows, columns

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns of a plane between the first and the last tap of one output pixel."""
        rows, columns = ((taps - 1) * dilation // stride
                         for taps, dilation, stride in zip(self.kernel, self.dilations, self.strides, strict=True))
        return rows, columns

    @property
    def misfit(self) -> str | None:
        """Why the output's rows cannot carry the planes, or None."""
        rows, columns = self.reach
        if self.output.width + columns > self.output.row_stride:
            return f"row stride {self.output.row_stride} is below width {self.output.width} + {columns} columns of taps"
        if self.output.batch > 1 and self.output.height + rows > self.output.pitch:
            return f"images {self.output.pitch} rows apart overlap: height {self.output.height} + {rows} rows of taps"
        return None

    @property
    def plane_stride(self) -> int:
        """Floats from a plane to the next: an odd number of cache lines."""
        rows, columns = self.reach
        end = self.output.vectors * self.output.lanes + rows * self.output.row_stride + columns
        line = max(16, self.output.lanes)
        return (round_up(end, line) // line | 1) * line

    @property
    def channel_stride(self) -> int:
        """Floats from a channel's first plane to the next channel's."""
        return len(self.phases[0]) * len(self.phases[1]) * self.plane_stride

    @property
    def size(self) -> int:
        """Floats of the whole buffer."""
        return self.channels * self.channel_stride

    def plane(self, a: int, b: int) -> int:
        """Offset of plane (a, b) within a channel."""
        rows, columns = self.phases
        return (rows.index(a) * len(columns) + columns.index(b)) * self.plane_stride

    def offset(self, kh: int, kw: int) -> int:
        """Floats from an output pixel's offset to tap (kh, kw) of it, within a channel."""
        row, column = kh * self.dilations[0], kw * self.dilations[1]
        return (self.plane(row % self.strides[0], column % self.strides[1])
                + row // self.strides[0] * self.output.row_stride + column // self.strides[1])


@dataclass(frozen=True)
class Tiled:
    """Tokens x features, features first in tiles of `width` tokens, for transformers and batched MatMul.

    Feature f of token t of sequence b lies at `((b * tiles + t // width) * features + f) * width + t % width`.
    A sequence whose length is no multiple of `width` is padded with tokens that hold anything. `dtype` is as in
    `PaddedFlat`.
    """

    batch: int
    tokens: int
    features: int
    width: int
    dtype: str = "float32"

    @property
    def tiles(self) -> int:
        """Tiles of one sequence."""
        return -(-self.tokens // self.width)

    @property
    def size(self) -> int:
        """Floats of the whole buffer."""
        return self.batch * self.tiles * self.features * self.width


Layout = Plain | PaddedFlat | Tiled
PLAIN = Plain()
LAYOUT = Annotation[Layout]("layout")
"""Where the layout pass put a value; row-major where it says nothing."""


def layout_of(value: ir.Value | None) -> Layout:
    """Where the layout pass put a value that an operator cannot do without."""
    assert value is not None
    return LAYOUT.get(value) or PLAIN


def image_of(value: ir.Value | None) -> PaddedFlat:
    """Where the layout pass put a value whose operator it gave images."""
    layout = layout_of(value)
    assert isinstance(layout, PaddedFlat), layout
    return layout


def tokens_of(value: ir.Value | None) -> Tiled:
    """Where the layout pass put a value whose operator it gave tokens."""
    layout = layout_of(value)
    assert isinstance(layout, Tiled), layout
    return layout
