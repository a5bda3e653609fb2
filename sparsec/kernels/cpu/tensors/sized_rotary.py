"""The rotation of features by angles that grow with the position, for any number of tokens and views of any strides.

Feature i of the first half makes a pair with feature i of the second: (a, b) becomes (a cos - b sin, b cos + a sin)
(Su et al. 2021, section 3.4.2). Sizes and strides, in elements, are an argument: see `SIZES`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, store

SIZES = ("batch", "heads", "tokens", "x_batch", "x_head", "x_token", "cos_batch", "cos_token", "sin_batch",
         "sin_token", "y_batch", "y_head", "y_token")
"""The elements of the argument `sizes`."""
Place = tuple[Buffer, Expr]
"""A buffer, and where in it a row begins."""


@dataclass(frozen=True)
class SizedRotary:
    """A kernel: features, all of which are rotated, and whether the tables have angles for both halves."""

    depth: int
    both: bool


def reference(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Y (batch, heads, tokens, depth), for tables that broadcast to it, of both halves."""
    first, second = np.split(x, 2, axis=-1)
    return np.asarray(x * cos + np.concatenate([-second, first], axis=-1) * sin)


def build(p: SizedRotary, isa: Isa) -> Kernel:
    """The kernel: (sizes, x, cos, sin) -> y, all but sizes flat float32 of any length and alignment."""
    floats = dict.fromkeys(("x", "cos", "sin", "y"), (None, "float32"))
    return kernel({"sizes": (len(SIZES), "int64"), **floats}, lambda b: _emit(b, p, isa), views=True)


def _emit(b: Buffers, p: SizedRotary, isa: Isa) -> None:
    sizes = {name: T.Bind(b["sizes"][index]) for index, name in enumerate(SIZES)}
    with (T.serial(0, sizes["batch"]) as batch, T.serial(0, sizes["tokens"]) as token,
          T.serial(0, sizes["heads"]) as head):
        x, y = (T.Bind(batch * sizes[f"{name}_batch"] + head * sizes[f"{name}_head"] + token * sizes[f"{name}_token"])
                for name in ("x", "y"))
        cos, sin = ((b[name], T.Bind(batch * sizes[f"{name}_batch"] + token * sizes[f"{name}_token"]))
                    for name in ("cos", "sin"))
        rotate(p, isa, (b["x"], x), (b["y"], y), (cos, sin))


def rotate(p: SizedRotary, isa: Isa, source: Place, target: Place, tables: tuple[Place, Place]) -> None:
    """The features of one head of one token, by tables of cosines and sines."""
    half, lanes = p.depth // 2, isa.lanes_dividing(p.depth // 2)
    (x, at), (y, to) = source, target
    for first in range(0, half, lanes):
        near, far = (T.Bind(load(x, at + first + side, lanes)) for side in (0, half))
        cos, sin = ([load(table, start + first + side * p.both, lanes) for side in (0, half)]
                    for table, start in tables)
        store(y, to + first, near * cos[0] - far * sin[0])
        store(y, to + first + half, far * cos[1] + near * sin[1])
