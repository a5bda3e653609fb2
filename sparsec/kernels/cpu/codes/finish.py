"""What follows exact integer sums: codes by requantisation, with a residual or not, or float32 numbers.

The arithmetic is that of `sparsec.graph.operators.products`, bit for bit. Codes of int8 lie in memory as unsigned
bytes, 128 larger, and so are their zero points and bounds here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.activations import ACTIVATIONS
from sparsec.kernels.emit.codes import FOUR, RAISED, fenced, narrowed, natural, raised, reordered, rounded, whole
from sparsec.kernels.emit.gelu import LANES, gelu
from sparsec.kernels.emit.tir import Buffers, Expr, lanes_of, load, splat, store

CODES, RATIOS = 8, 2  # entries of the arrays that hold a layer's constants
_Y_ZERO, _LOW, _HIGH, _P_ZERO, _P_LOW, _P_HIGH, _R_ZERO = range(7)
_LARGEST = 2147483520.0  # the largest float32 below 2^31


@dataclass(frozen=True)
class Finish:
    """What a kernel does with its sums; the numbers are arguments, so that layers share kernels.

    Attributes:
        real: the result is float32: activation(sum * scale + addend + residual).
        residual: there is one: codes, or float32 for a float32 result.
        shifted: the residual of codes is one constant for every output.
        coded: nothing but codes are made of a float32 result: it lies in the order of `emit.codes`, and the kernel
            keeps what it ranges over.
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
    shifted: bool = False
    coded: bool = False

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
        shifts: dict[str, tuple[int | None, str]] = {"addends": (outputs, "float32")} if self.shifted else {}
        return each | {"codes": (CODES, "int32"), "ratios": (RATIOS, "float32")} | shifts

    def inputs(self, x_size: int, y_size: int) -> dict[str, tuple[int | None, str]]:
        """The activations that a kernel reads, (elements, dtype): x, its scales if found at run time, the residual."""
        each: dict[str, tuple[int | None, str]] = {"x": (x_size, "uint8")}
        if self.dynamic:
            each |= {"x_scale": (1, "float32"), "x_zero_point": (1, "uint8")}
        return each | ({"residual": (y_size, self.dtype)} if self.residual else {})


@dataclass(frozen=True)
class Quantized:
    """The numbers that follow a product.

    Attributes:
        scales: (outputs,), of a sum: in units of the result's scale, of the product's where there is a residual.
        begins: (outputs,), int32: what sums over codes start from: bias less zero point times weights.
        totals: (outputs,), int32: sums of the weights, used where the zero point is known at run time only.
        addends: (outputs,), float32: what is added to a float32 result, or a constant residual in units of the result's
            scale.
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
        addends = [self.addends.astype(np.float32)]
        rest = addends if finish.real else [
            np.array(codes, np.int32), np.array([self.p_ratio, self.r_ratio], np.float32),
            *(addends if finish.shifted else [])]
        dynamic = [self.totals.astype(np.int32)] if finish.dynamic else []
        return [self.begins.astype(np.int32), self.scales.astype(np.float32), *dynamic, *rest]

    def is_far(self, weight: np.ndarray) -> bool:
        """Whether a scaled sum over the codes of a weight (outputs, columns) may exceed 32 bits."""
        largest = 255.0 * np.abs(weight.astype(np.float64)).sum(axis=1) + np.abs(self.begins.astype(np.float64))
        return bool(np.any(largest * self.scales >= _LARGEST))


def begin(b: Buffers, finish: Finish, row: Expr) -> Expr:
    """What the sums of a row start from, int32."""
    if not finish.dynamic:
        return b["begins"][row]
    return b["begins"][row] - T.Cast("int32", b["x_zero_point"][0]) * b["totals"][row]


def scale(b: Buffers, finish: Finish, row: Expr) -> Expr:
    """The factor of a row's sums."""
    return b["scales"][row] * b["x_scale"][0] if finish.dynamic else b["scales"][row]


def codes_of(b: Buffers, f: Finish, scaled: Sequence[Expr], residual: Expr, shifts: Sequence[Expr] = ()) -> Expr:
    """The codes of four vectors of sums times their factors in the order of `interleaved`.

    `residual` are codes in natural order, or None; `shifts` four vectors, where the residual is constant.
    """
    lanes = lanes_of(scaled[0])
    if residual is not None:
        shifts = [_residual(b, residual, part, lanes) for part in range(FOUR)]
    if shifts:
        integers = [_added(b, each, shift) for each, shift in zip(scaled, shifts, strict=True)]
    else:
        integers = [rounded(T.min(splat(_LARGEST, lanes), each) if f.far else each) for each in scaled]
    result = narrowed(integers, T.Broadcast(T.Cast("int16", b["codes"][_Y_ZERO]), 2 * lanes))
    return clamped(b, result) if f.clamped else result


def clamped(b: Buffers, codes: Expr) -> Expr:
    """The codes within their bounds."""
    count = lanes_of(codes)
    low, high = (T.Broadcast(T.Cast("uint8", b["codes"][place]), count) for place in (_LOW, _HIGH))
    return T.min(T.max(T.Bind(codes), low), high)


def _residual(b: Buffers, residual: Expr, part: int, lanes: int) -> Expr:
    """What a residual's codes stand for, in units of the result's scale."""
    centred = raised(residual, part) - splat(T.Cast("float32", b["codes"][_R_ZERO]) + T.float32(RAISED), lanes)
    return fenced(centred * splat(b["ratios"][1], lanes))


def _added(b: Buffers, product: Expr, shift: Expr) -> Expr:
    """The sum of a product's own code and the residual, rounded, without a zero point."""
    lanes = lanes_of(product)

    def bound(place: int) -> Expr:
        return splat(T.Cast("float32", b["codes"][place] - b["codes"][_P_ZERO]), lanes)

    own = whole(T.min(T.max(product, bound(_P_LOW)), bound(_P_HIGH)))
    return rounded(fenced(own * splat(b["ratios"][0], lanes)) + shift)


def numbers_of(f: Finish, scaled: Sequence[Expr], addends: Sequence[Expr], residual: Sequence[Expr]) -> list[Expr]:
    """Float32 results of four vectors of sums times their factors, all in natural order."""
    lanes, results = lanes_of(scaled[0]), [each + addend for each, addend in zip(scaled, addends, strict=True)]
    if residual:
        results = [each + other for each, other in zip(results, residual, strict=True)]
    if f.activation == "gelu_erf" and lanes == LANES:
        return [gelu(T.Bind(each)) for each in results]
    return [ACTIVATIONS[f.activation](each, lanes, f.alpha, f.beta) for each in results]


@dataclass(frozen=True)
class Place:
    """Where results of a row go.

    Attributes:
        at: of Y.
        mask: of codes, the bits to keep and what stands for the others.
        ends: where the least and the largest results so far are kept, where codes are made of them.
        natural: the sums are in natural order, not in that of `interleaved`; the results are codes.

    """

    at: Expr
    mask: tuple[Expr, Expr] | None
    ends: Expr
    natural: bool = False


def put(b: Buffers, f: Finish, sums: Sequence[Expr], row: Expr, place: Place) -> None:
    """Store the results of four vectors of a row's sums."""
    at, mask = place.at, place.mask
    lanes = lanes_of(sums[0])
    factor = splat(T.Bind(scale(b, f, row)), lanes)
    scaled = [T.Cast(f"float32x{lanes}", each) * factor for each in sums]
    if f.real:
        scaled = [T.Bind(fenced(each)) for each in scaled]
        if f.coded:
            _put_coded(b, f, scaled, row, place)
            return
        beside = [load(b["residual"], at + part * lanes, lanes) for part in range(FOUR)] if f.residual else []
        places = [natural(scaled, part) for part in range(FOUR)]
        for part, result in enumerate(numbers_of(f, places, [splat(b["addends"][row], lanes)] * FOUR, beside)):
            store(b["y"], at + part * lanes, result)
        return
    order = reordered if place.natural else lambda codes: codes
    residual = T.Bind(order(load(b["residual"], at, FOUR * lanes))) if f.residual else None
    shifts = [splat(b["addends"][row], lanes)] * FOUR if f.shifted else []
    result = order(codes_of(b, f, scaled, residual, shifts))
    store(b["y"], at, result if mask is None else T.bitwise_or(T.bitwise_and(result, mask[0]), mask[1]))


def _put_coded(b: Buffers, f: Finish, scaled: Sequence[Expr], row: Expr, place: Place) -> None:
    lanes = lanes_of(scaled[0])
    results = [T.Bind(each) for each in numbers_of(f, scaled, [splat(b["addends"][row], lanes)] * FOUR, [])]
    for part, result in enumerate(results):
        store(b["y"], place.at + part * lanes, result)
    for side, function in ((0, T.min), (lanes, T.max)):
        end = function(function(results[0], results[1]), function(results[2], results[3]))
        store(b["ends"], place.ends + side, function(load(b["ends"], place.ends + side, lanes), end))
