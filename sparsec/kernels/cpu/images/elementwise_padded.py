"""Elementwise operators over the padded flat layout: activations, arithmetic, and scale and shift per channel.

Inputs may have other paddings and row strides than the output; no padding is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sparsec.graph.layout import PaddedFlat
from sparsec.graph.operators.epilogue import apply
from sparsec.kernels.cpu.images.padded import blank, load_lanes, padded_rows, pixels, write_images
from sparsec.kernels.emit.activations import ACTIVATIONS
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.extremum import maximum, minimum
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel, splat

OPERATIONS: dict[str, tuple[Callable[[Expr, Expr], Expr], np.ufunc]] = {
    "Add": (lambda a, b: a + b, np.add),
    "Sub": (lambda a, b: a - b, np.subtract),
    "Mul": (lambda a, b: a * b, np.multiply),
    "Div": (lambda a, b: a / b, np.divide),
    "Max": (maximum, np.maximum),
    "Min": (minimum, np.minimum),
}
"""Binary operators by their ONNX names: on vectors, and in numpy."""


@dataclass(frozen=True)
class ElementwiseParams:
    """y = activation(a operation b), or activation(a) of a single source.

    Attributes:
        sources: layouts of the one or two inputs, of the target's shape.
        target: layout of the output.
        operation: a key of OPERATIONS; not used with one source.
        epilogue: the activation that follows.

    """

    sources: tuple[PaddedFlat, ...]
    target: PaddedFlat
    operation: str = ""
    epilogue: Epilogue = field(default_factory=Epilogue)


@dataclass(frozen=True)
class ScaleParams:
    """y = activation(x * scale + shift), with a scale and a shift for every channel, or for each channel of each image.

    Attributes:
        source: layout of the input.
        target: layout of the output.
        per_image: scale and shift are (batch, channels) instead of (channels,).
        epilogue: the activation that follows.

    """

    source: PaddedFlat
    target: PaddedFlat
    per_image: bool = False
    epilogue: Epilogue = field(default_factory=Epilogue)


def build(params: ElementwiseParams, isa: Isa) -> Kernel:
    """The kernel: x0 -> y or (x0, x1) -> y, all flat."""
    names = [f"x{i}" for i in range(len(params.sources))]

    def body(b: Buffers) -> None:
        def vector(*at: Expr) -> Expr:
            terms = [_load(b[name], layout, isa.lanes, *at) for name, layout in zip(names, params.sources, strict=True)]
            value = OPERATIONS[params.operation][0](*terms) if len(terms) > 1 else terms[0]
            return _activate(value, params.epilogue, isa.lanes)

        write_images(b["y"], params.target, isa, params.target.width // isa.lanes, vector)

    sizes = {name: layout.size for name, layout in zip(names, params.sources, strict=True)}
    return kernel({name: (size, "float32") for name, size in {**sizes, "y": params.target.size}.items()}, body)


def build_scale(params: ScaleParams, isa: Isa) -> Kernel:
    """The kernel: (scale, shift, x) -> y, all flat."""
    source, lanes = params.source, isa.lanes

    def body(b: Buffers) -> None:
        def vector(n: Expr, c: Expr, h: Expr, t: Expr) -> Expr:
            at = n * source.channels + c if params.per_image else c
            scale, shift = splat(b["scale"][at], lanes), splat(b["shift"][at], lanes)
            return _activate(_load(b["x"], source, lanes, n, c, h, t) * scale + shift, params.epilogue, lanes)

        write_images(b["y"], params.target, isa, source.width // lanes, vector)

    count = source.channels * (source.batch if params.per_image else 1)
    return kernel({"scale": (count, "float32"), "shift": (count, "float32"), "x": (source.size, "float32"),
                   "y": (params.target.size, "float32")}, body)


def _load(x: Expr, layout: PaddedFlat, lanes: int, n: Expr, c: Expr, h: Expr, t: Expr) -> Expr:
    end = layout.width - t * lanes if isinstance(t, int) else lanes
    return load_lanes(x, padded_rows(layout).start(n, c, h) + t * lanes, lanes, 0, end)


def _activate(value: Expr, e: Epilogue, lanes: int) -> Expr:
    return ACTIVATIONS[e.activation](value, lanes, e.alpha, e.beta)


def reference(inputs: list[np.ndarray], params: ElementwiseParams) -> np.ndarray:
    """The flat output of flat inputs; positions that its layout leaves undefined are NaN."""
    images = [pixels(x, padded_rows(layout)) for x, layout in zip(inputs, params.sources, strict=True)]
    value = OPERATIONS[params.operation][1](*images) if len(images) > 1 else images[0]
    return _laid_out(value, params.target, params.epilogue)


def scale_reference(scale: np.ndarray, shift: np.ndarray, x: np.ndarray, params: ScaleParams) -> np.ndarray:
    """The flat output of a flat input; positions that its layout leaves undefined are NaN."""
    scale, shift = (a.reshape(-1, params.source.channels, 1, 1) for a in (scale, shift))
    return _laid_out(pixels(x, padded_rows(params.source)) * scale + shift, params.target, params.epilogue)


def _laid_out(images: np.ndarray, target: PaddedFlat, e: Epilogue) -> np.ndarray:
    y = blank(target)
    pixels(y, padded_rows(target))[...] = apply(images, None, None, e.activation, e.alpha, e.beta)
    return y
