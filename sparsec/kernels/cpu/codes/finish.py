"""What follows exact integer sums: codes by requantisation, with a residual or not, or float32 numbers.

The arithmetic is that of `sparsec.graph.operators.products`, bit for bit. Codes of int8 lie in memory as unsigned
bytes, 128 larger, and so are their zero points and bounds here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.activations import ACTIVATIONS
from sparsec.kernels.emit.codes import FOUR, fenced, narrowed, natural, rounded, spread
from sparsec.kernels.emit.tir import Buffers, lanes_of, load, splat, store

CODES, RATIOS = 8, 2  # entries of the arrays that hold a layer's constants
_Y_ZERO, _LOW, _HIGH, _P_ZERO, _P_LOW, _P_HIGH, _R_ZERO = range(7)
_LARGEST = 2147483520.0  # the largest float32 below 2^31


@dataclass(frozen=True)
class Finish:
    """What a kernel does with its sums; the numbers are arguments, so that layers share kernels.

    Attributes:
        real: the result is float32: activation(sum * scale + addend + residual).
        residual: there is one: codes, or float32 for a float32 result.
        clamped: bounds of the result's codes are tighter than a byte.
        far: sum * scale may exceed 32 bits.
        activation, alpha, beta: of a float32 result.
        dynamic: the activations' scale and zero point are known at run time only.

    """

    real: bool = False
    residual: bool = False
    clamped: bool = False
    far: bool = False
    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    dynamic: bool = False

    @property
    def dtype(self) -> str:
        """Element type of the result."""
        return "float32" if self.real else "uint8"

    def arguments(self, outputs: int) -> dict[str, tuple[int | None, str]]:
        """The constants of a kernel of so many outputs."""
        each: dict[str, tuple[int | None, str]] = {"begins": (outputs, "int32"), "scales": (outputs, "float32")}
        if self.dynamic:
            each["totals"] = (outputs, "int32")
        if self.real:
            return each | {"addends": (outputs, "float32")}
        return each | {"codes": (CODES, "int32"), "ratios": (RATIOS, "float32")}

    def inputs(self, x_size: int, y_size: int) -> dict[str, tuple[int | None, str]]:
        """The kernel's other inputs."""
        each: dict[str, tuple[int | None, str]] = {"x": (x_size, "uint8")}
        if self.dynamic:
            each |= {"x_scale": (1, "float32"), "x_zero_point": (1, "uint8")}
        return each | ({"residual": (y_size, self.dtype)} if self.residual else {})


@dataclass(frozen=True)
class Quantised:
    """The numbers that follow a product.

    Attributes:
        scales: (outputs,), of a sum: in units of the result's scale, of the product's where there is a residual.
        begins: (outputs,), int32: what sums over codes start from: bias less zero point times weights.
        totals: (outputs,), int32: sums of the weights, used where the zero point is known at run time only.
        addends: (outputs,), float32: what is added to a float32 result.
        y_zero_point, low, high: of the result.
        p_zero_point, p_low, p_high: of the product's own codes, where there is a residual.
        r_zero_point: of the residual.
        p_ratio, r_ratio: the product's and the residual's scale in units of the result's.

    """

    scales: np.ndarray
    begins: np.ndarray
    totals: np.ndarray
    addends: np.ndarray
    y_zero_point: int = 0
    low: int = 0
    high: int = 255
    p_zero_point: int = 0
    p_low: int = 0
    p_high: int = 255
    r_zero_point: int = 0
    p_ratio: float = 1.0
    r_ratio: float = 1.0

    def arrays(self, finish: Finish) -> list[np.ndarray]:
        """The constants in the order of `Finish.arguments`."""
        codes = [self.y_zero_point, self.low, self.high, self.p_zero_point, self.p_low, self.p_high, self.r_zero_point,
                 0]
        rest = [self.addends.astype(np.float32)] if finish.real else [
            np.array(codes, np.int32), np.array([self.p_ratio, self.r_ratio], np.float32)]
        dynamic = [self.totals.astype(np.int32)] if finish.dynamic else []
        return [self.begins.astype(np.int32), self.scales.astype(np.float32), *dynamic, *rest]

    def is_far(self, weight: np.ndarray) -> bool:
        """Whether a scaled sum over the codes of a weight (outputs, columns) may exceed 32 bits."""
        largest = 255.0 * np.abs(weight.astype(np.float64)).sum(axis=1) + np.abs(self.begins.astype(np.float64))
        return bool(np.any(largest * self.scales >= _LARGEST))


def begin(b: Buffers, finish: Finish, row: Any) -> Any:
    """What the sums of a row start from, int32."""
    if not finish.dynamic:
        return b["begins"][row]
    return b["begins"][row] - T.Cast("int32", b["x_zero_point"][0]) * b["totals"][row]


def scale(b: Buffers, finish: Finish, row: Any) -> Any:
    """The factor of a row's sums."""
    return b["scales"][row] * b["x_scale"][0] if finish.dynamic else b["scales"][row]


def codes_of(b: Buffers, f: Finish, sums: Sequence[Any], factor: Any, residual: Any) -> Any:
    """The codes of four vectors of sums in the order of `interleaved`; `residual` are codes, or None."""
    lanes = lanes_of(sums[0])
    zero = _halves(b, _Y_ZERO, lanes)
    floats = [T.Cast(f"float32x{lanes}", each) * factor for each in sums]
    if f.far:
        floats = [T.min(splat(_LARGEST, lanes), each) for each in floats]
    integers = [rounded(each) for each in floats]
    if residual is not None:
        integers = [_added(b, each, residual, part) for part, each in enumerate(integers)]
    result = narrowed(integers, zero)
    return clamped(b, result) if f.clamped else result


def clamped(b: Buffers, codes: Any) -> Any:
    """The codes within their bounds."""
    count = lanes_of(codes)
    low, high = (T.Broadcast(T.Cast("uint8", b["codes"][place]), count) for place in (_LOW, _HIGH))
    return T.min(T.max(T.Bind(codes), low), high)


def _added(b: Buffers, integers: Any, residual: Any, part: int) -> Any:
    """The sum of a product's own code and the residual's, rounded, without a zero point."""
    lanes = lanes_of(integers)

    def word(place: int) -> Any:
        return T.Broadcast(b["codes"][place], lanes)

    own = T.min(T.max(integers, word(_P_LOW) - word(_P_ZERO)), word(_P_HIGH) - word(_P_ZERO))
    other = spread(residual, part) - word(_R_ZERO)
    terms = [fenced(T.Cast(f"float32x{lanes}", each) * splat(b["ratios"][place], lanes))
             for place, each in enumerate((own, other))]
    return rounded(terms[0] + terms[1])


def numbers_of(f: Finish, sums: Sequence[Any], factor: Any, addend: Any, residual: Sequence[Any]) -> list[Any]:
    """Float32 results, in natural order, of four vectors of sums in the order of `interleaved`."""
    lanes = lanes_of(sums[0])
    scaled = [T.Bind(fenced(T.Cast(f"float32x{lanes}", each) * factor)) for each in sums]
    ordered = [natural(scaled, part) + addend for part in range(FOUR)]
    if residual:
        ordered = [each + other for each, other in zip(ordered, residual, strict=True)]
    return [ACTIVATIONS[f.activation](each, lanes, f.alpha, f.beta) for each in ordered]


def put(b: Buffers, f: Finish, sums: Sequence[Any], row: Any, at: Any, mask: tuple[Any, Any] | None) -> None:
    """Store the results of four vectors of a row's sums at `at` of Y.

    `mask` (codes only) are the bits to keep and what stands for the others.
    """
    lanes = lanes_of(sums[0])
    factor = splat(T.Bind(scale(b, f, row)), lanes)
    if f.real:
        beside = [load(b["residual"], at + part * lanes, lanes) for part in range(FOUR)] if f.residual else []
        results = numbers_of(f, sums, factor, splat(b["addends"][row], lanes), beside)
        for part, result in enumerate(results):
            store(b["y"], at + part * lanes, result)
        return
    residual = T.Bind(load(b["residual"], at, FOUR * lanes)) if f.residual else None
    result = codes_of(b, f, sums, factor, residual)
    store(b["y"], at, result if mask is None else T.bitwise_or(T.bitwise_and(result, mask[0]), mask[1]))


def _halves(b: Buffers, place: int, lanes: int) -> Any:
    return T.Broadcast(T.Cast("int16", b["codes"][place]), 2 * lanes)
