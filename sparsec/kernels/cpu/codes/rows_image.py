"""The pixels of a small image as a few rows: what a convolution's taps see, channel by channel within a tap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Work
from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.codes.finish import Finish
from sparsec.kernels.cpu.codes.rows import Ends, RowsOfCodes, codes_in_order
from sparsec.kernels.cpu.codes.walk import mask_arguments
from sparsec.kernels.cpu.images.padded import padded_rows
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Expr, load, store

CODE_CYCLES = 3  # that an input, an output or a residual takes on its way between an image and rows


class HasImage(Protocol):
    """What is asked of a layer: see `codes.layer.CodesProduct`."""

    @property
    def weight(self) -> np.ndarray:
        """(outputs, channels * taps)."""
        ...

    @property
    def finish(self) -> Finish:
        """What follows the sums."""
        ...

    @property
    def image(self) -> ImageRows | None:
        """The convolution, where its images are small."""
        ...


def reject(layer: HasImage, _isa: Isa) -> str | None:
    """Why the pixels of a layer's images cannot be rows, or None."""
    return "its pixels are too many to be rows" if layer.image is None or layer.finish.real else None


def pixels_as_rows(layer: HasImage, isa: Isa) -> RowsOfCodes:
    """The layer as a product of a few rows."""
    assert layer.image is not None
    outputs, inputs = layer.weight.shape
    return RowsOfCodes(len(layer.image.pixels), inputs, outputs, layer.finish, signed=False, result="uint8",
                       lanes=isa.lanes, threads=isa.threads)


@dataclass(frozen=True)
class ImageRows:
    """A convolution of small images.

    Attributes:
        source, target: layouts.
        kernel, strides, dilations: (height, width) of each.
        begins: (top, left) padding.
        outside: the byte that stands for zero around the source.

    """

    source: PaddedFlat
    target: PaddedFlat
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    begins: tuple[int, int]
    outside: int

    @property
    def taps(self) -> int:
        """Taps of the convolution: height times width of its kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def pixels(self) -> list[tuple[int, int, int]]:
        """(image, row, column) of every output pixel."""
        t = self.target
        return list(np.ndindex(t.batch, t.height, t.width))

    def with_copies(self, work: Work, shape: RowsOfCodes) -> Work:
        """The work with what codes that are read and written one by one take on every port."""
        inputs = self.source.batch * self.source.height * self.source.width * self.source.channels
        cycles = CODE_CYCLES * (inputs + shape.batch * shape.outputs * (2 if shape.finish.residual else 1))
        return replace(work, fmas=work.fmas + cycles, loads=work.loads + cycles, permutes=work.permutes + cycles)

    def columns(self, weight: np.ndarray) -> np.ndarray:
        """A weight (outputs, channels * taps) with its columns as (tap, channel)."""
        by_tap = weight.reshape(len(weight), self.source.channels, self.taps).swapaxes(1, 2)
        return np.ascontiguousarray(by_tap).reshape(len(weight), -1)

    def ends(self, shape: RowsOfCodes) -> Ends:
        """Images in their layouts instead of rows."""
        masks = mask_arguments(self.target.vectors * self.target.lanes) if self.target.clean else {}
        inputs = {**masks, **shape.finish.inputs(self.source.size, self.target.size)}
        return Ends(inputs, (self.target.size, "uint8"), lambda b: self._copied(b, shape),
                    lambda b, block, n, scaled, _end: self._put(b, shape, (block, n), scaled))

    def _copied(self, b: Buffers, shape: RowsOfCodes) -> Expr:
        """Every output pixel's inputs as a row; Y's padding is written first."""
        s, t, channels = self.source, self.target, self.source.channels
        if t.clean:
            border = T.Broadcast(b["border"][0], t.lanes)
            with T.serial(0, t.size // t.lanes) as vector:
                store(b["y"], vector * t.lanes, border)
        rows = T.alloc_buffer((shape.batch * shape.stride,), "uint8")
        where = padded_rows(s)
        inside: dict[tuple[int, int, int], list[int]] = {}
        for number, (n, h, w) in enumerate(self.pixels):
            for tap, (i, j) in enumerate(np.ndindex(self.kernel)):
                y = h * self.strides[0] + i * self.dilations[0] - self.begins[0]
                x = w * self.strides[1] + j * self.dilations[1] - self.begins[1]
                place = number * shape.stride + tap * channels
                if 0 <= y < s.height and 0 <= x < s.width:
                    inside.setdefault((n, y, x), []).append(place)
                else:
                    inside.setdefault((-1, -1, -1), []).append(place)
        for (n, y, x), places in inside.items():
            with T.serial(0, channels) as c:
                code = T.uint8(self.outside) if n < 0 else T.Bind(b["x"][where.start(n, c, y) + x])
                for place in places:
                    T.buffer_store(rows, code, [place + c])
        return rows

    def _put(self, b: Buffers, shape: RowsOfCodes, place: tuple[Expr, Expr], scaled: list[Expr]) -> None:
        """A pixel's results of a block (block, pixel)."""
        t, f, wide, (block, number) = self.target, shape.finish, shape.block, place
        n, h, w = number // (t.height * t.width), number // t.width % t.height, number % t.width
        row, beside = (T.alloc_buffer((wide,), "uint8") for _ in range(2))
        count = T.min(wide, shape.outputs - block * wide)
        at = T.Bind(padded_rows(t).start(n, block * wide, h) + w)
        if f.residual:
            with T.serial(0, count) as c:
                T.buffer_store(beside, b["residual"][at + c * t.channel_stride], [c])
        residual = T.Bind(load(beside, 0, wide)) if f.residual else None
        store(row, 0, codes_in_order(b, shape, scaled, residual, block))
        with T.serial(0, count) as c:
            T.buffer_store(b["y"], row[c], [at + c * t.channel_stride])
