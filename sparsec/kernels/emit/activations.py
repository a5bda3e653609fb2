"""Activation functions as TIR expressions on float32 vectors: polynomials, none of libm's functions.

Every function takes a vector expression and returns one; values used more than once are bound by `Let`, so expressions
stay linear in size. Errors are below 1e-6 of the output's magnitude (1e-6 absolute where |output| < 1), but for
`gelu_narrow`. NaN, infinities and signed zeros are those of ONNX's reference, x times a gate of 0 included: NaN of
-infinity. `T.max(c, x)` and `T.min(c, x)` compile to `vmaxps`/`vminps`, which return their second operand when either
is NaN, so the constant always comes first.

The coefficients are weighted minimax fits in double precision, rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.epilogue import Follows
from sparsec.kernels.emit.extremum import bind
from sparsec.kernels.emit.phi import LANES, phi
from sparsec.kernels.emit.tir import Expr, splat

_LOG2E = 1.4426950408889634
_LN2_HIGH = 0.693359375  # 10 significant bits: n * _LN2_HIGH is exact without a fused multiply-add
_LN2_LOW = -2.12194440e-4
_ROUND = 12582912.0  # 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, which the low bits then hold
_ROUND_BITS = 0x4B400000
_EXP_LIMIT = 87.0  # 2^n stays a normal number below
_EXP_INFINITE = 89.0  # 2^128 is infinity's bit pattern
_SIGN = -(2**31)  # the sign bit

# (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2
_EXP = (0.5, 0.166665181517601, 0.04166620224714279, 0.008369024842977524, 0.0013950725551694632)

# 2^r on |r| <= 1/2
_EXP2 = (
    1.0000001192092896, 0.6931469440460205, 0.24022120237350464, 0.05550713092088699, 0.009675540961325169,
    0.001327647129073739,
)

# (Phi(x) - 1/2) / x, Phi the normal distribution, as a polynomial in 2 (x / _GELU_LIMIT)^2 - 1. At the end it is above
# 1 / (2 x) by less than half a unit in the last place of 1: Phi is 1 there, and at the other end not above 0.
_GELU_LIMIT, _GELU_END = 5.4, 5.38
_GELU = (
    0.13092811405658722, -0.06532768905162811, 0.048498596996068954, -0.039219558238983154, 0.032139599323272705,
    -0.025621626526117325, 0.019457794725894928, -0.014477268792688847, 0.010346528142690659, -0.0057029458694159985,
    0.0023764939978718758, -0.002130951266735792, 0.00201875320635736, -0.000693264591973275,
)

# The same to 3e-4, which bf16 would not show
_GELU_NARROW_LIMIT, _GELU_NARROW_END = 4.0, 3.998113
_GELU_NARROW = (
    0.17597046494483948, -0.08439133316278458, 0.05536886304616928, -0.03570181503891945,
    0.024351565167307854, -0.016258107498288155, 0.005661436356604099,
)

# erf(x) / x as a polynomial in 2 (x / _ERF_LIMIT)^2 - 1; at the end erf(x) is not below 1
_ERF_LIMIT, _ERF_END = 3.9, 3.9025
_ERF = (
    0.3625839948654175, -0.18101149797439575, 0.13468892872333527, -0.10951576381921768, 0.09070903062820435,
    -0.07399733364582062, 0.057643964886665344, -0.04178546369075775, 0.029963137581944466, -0.02215185947716236,
    0.012248299084603786, -0.0034794993698596954, 0.002960952464491129, -0.004042687360197306, 0.0015960761811584234,
)


def _integers(value: int, lanes: int) -> Expr:
    return splat(T.int32(value), lanes)


def _vector_type(element: str, lanes: int) -> str:
    return f"{element}x{lanes}" if lanes > 1 else element


def _polynomial(coefficients: Sequence[float], x: Expr, lanes: int) -> Expr:
    """Horner's scheme; `x` should be a variable."""
    result = splat(coefficients[-1], lanes)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + splat(coefficient, lanes)
    return result


def _even_polynomial(coefficients: Sequence[float], limit: float, x: Expr, lanes: int) -> Expr:
    """A polynomial in 2 (x / limit)^2 - 1."""
    return bind(x * x * splat(2.0 / limit**2, lanes) - splat(1.0, lanes), lambda t: _polynomial(coefficients, t, lanes))


def _power_of_two(exponent: Expr, lanes: int) -> Expr:
    """2^n of an int32 n in [-126, 127], infinity for 128."""
    bits = T.shift_left(exponent + _integers(127, lanes), _integers(23, lanes))
    return T.reinterpret(_vector_type("float32", lanes), bits)


def _reduce(x: Expr, lanes: int, body: Callable[[Expr, Expr], Expr]) -> Expr:
    """`body(e^r - 1, n)` for x = n ln 2 + r with int32 n and |r| <= ln(2) / 2; |x| must stay below 2^20."""
    def reduced(v: Expr, shifted: Expr) -> Expr:
        n = T.reinterpret(_vector_type("int32", lanes), shifted) - _integers(_ROUND_BITS, lanes)
        return bind(shifted - splat(_ROUND, lanes), lambda k: bind(
            v - k * splat(_LN2_HIGH, lanes) - k * splat(_LN2_LOW, lanes), lambda r: bind(
                _polynomial(_EXP, r, lanes) * r * r + r, lambda p: body(p, n))))

    return bind(x, lambda v: bind(v * splat(_LOG2E, lanes) + splat(_ROUND, lanes), lambda s: reduced(v, s)))


def _clamp(x: Expr, low: float, high: float, lanes: int) -> Expr:
    return T.min(splat(high, lanes), T.max(splat(low, lanes), x))


def exp_normal(x: Expr, lanes: int) -> Expr:
    """e^x for results that are normal numbers: arguments are clamped to |x| <= 87."""
    return _reduce(_clamp(x, -_EXP_LIMIT, _EXP_LIMIT, lanes), lanes,
                   lambda p, n: (p + splat(1.0, lanes)) * _power_of_two(n, lanes))


def exp(x: Expr, lanes: int) -> Expr:
    """e^x over the whole range, subnormal and infinite results included."""
    def scaled(p: Expr, n: Expr) -> Expr:  # 2^n in two factors, since it may not be a normal number
        half = T.shift_right(n, _integers(1, lanes))
        return bind(half, lambda h: (p + splat(1.0, lanes)) * _power_of_two(h, lanes) * _power_of_two(n - h, lanes))

    return _reduce(_clamp(x, -105.0, 90.0, lanes), lanes, lambda p, n: bind(n, lambda n: scaled(p, n)))


def exp_below_one(x: Expr, lanes: int) -> Expr:
    """e^x for x <= 0, as a softmax needs it: the error is relative to 1, and e^x below 1e-37 may be any such value."""
    def scaled(z: Expr, shifted: Expr) -> Expr:
        r = z * splat(_LOG2E, lanes) - (shifted - splat(_ROUND, lanes))
        power = bind(r, lambda r: _polynomial(_EXP2, r, lanes))
        exponent = T.shift_left(T.reinterpret(_vector_type("int32", lanes), shifted), _integers(23, lanes))
        return T.reinterpret(_vector_type("float32", lanes),
                             T.reinterpret(_vector_type("int32", lanes), power) + exponent)

    return bind(T.max(splat(-86.0, lanes), x), lambda z: bind(
        z * splat(_LOG2E, lanes) + splat(_ROUND, lanes), lambda shifted: scaled(z, shifted)))


def erf(x: Expr, lanes: int) -> Expr:
    """The error function, exactly 1 or -1 beyond the ends."""
    return bind(_clamp(x, -_ERF_END, _ERF_END, lanes), lambda z: _clamp(
        z * _even_polynomial(_ERF, _ERF_LIMIT, z, lanes), -1.0, 1.0, lanes))


def _logistic_times(numerator: Expr, x: Expr, lanes: int) -> Expr:
    """The quotient numerator / (1 + e^-x), whose divisor is infinite from -88.4 down."""
    power = _reduce(_clamp(splat(0.0, lanes) - x, -_EXP_LIMIT, _EXP_INFINITE, lanes), lanes,
                    lambda p, n: (p + splat(1.0, lanes)) * _power_of_two(n, lanes))
    return numerator / (splat(1.0, lanes) + power)


def _none(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:  # noqa: ARG001 (the registry's signature)
    return x


def _relu(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:  # noqa: ARG001 (the registry's signature)
    return T.max(splat(0.0, lanes), x)


def _clip(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:
    return _clamp(x, alpha, beta, lanes)


def _leaky_relu(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:  # noqa: ARG001 (the registry's signature)
    return bind(x, lambda x: T.Select(x < splat(0.0, lanes), x * splat(alpha, lanes), x))


def _hard_sigmoid(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:
    return _clamp(x * splat(alpha, lanes) + splat(beta, lanes), 0.0, 1.0, lanes)


def _hard_swish(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:  # noqa: ARG001 (the registry's signature)
    return bind(x, lambda x: x * _hard_sigmoid(x, lanes, 1 / 6, 0.5))


def _sigmoid(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:  # noqa: ARG001 (the registry's signature)
    return _logistic_times(splat(1.0, lanes), x, lanes)


def _silu(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:  # noqa: ARG001 (the registry's signature)
    return bind(x, lambda x: _logistic_times(x, x, lanes))


def _tanh(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:  # noqa: ARG001 (the registry's signature)
    """expm1(2x) / (expm1(2x) + 2), which keeps its relative precision around 0, with the sign of x where it is 0."""
    def ratio(p: Expr, n: Expr) -> Expr:
        return bind(_power_of_two(n, lanes), lambda s: bind(
            p * s + (s - splat(1.0, lanes)), lambda t: t / (t + splat(2.0, lanes))))

    def signed(x: Expr) -> Expr:
        bits, result = (T.reinterpret(_vector_type("int32", lanes), value) for value in (
            x, _reduce(_clamp(x + x, -20.0, 20.0, lanes), lanes, ratio)))
        return T.reinterpret(_vector_type("float32", lanes),
                             T.bitwise_or(result, T.bitwise_and(bits, _integers(_SIGN, lanes))))

    return bind(x, signed)


def _gelu_erf(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:  # noqa: ARG001 (the registry's signature)
    if lanes == LANES:
        return bind(x, lambda x: x * phi(x))
    return _times_phi(x, _GELU, _GELU_LIMIT, _GELU_END, lanes)


def _gelu_narrow(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:  # noqa: ARG001 (the registry's signature)
    return _times_phi(x, _GELU_NARROW, _GELU_NARROW_LIMIT, _GELU_NARROW_END, lanes)


def _times_phi(x: Expr, coefficients: Sequence[float], limit: float, end: float, lanes: int) -> Expr:
    """The product x Phi(x), with a polynomial for (Phi(x) - 1/2) / x; Phi is 0 from -end down and 1 from end on."""
    def phi(z: Expr) -> Expr:
        return T.max(splat(0.0, lanes), splat(0.5, lanes) + z * _even_polynomial(coefficients, limit, z, lanes))

    return bind(x, lambda x: x * bind(_clamp(x, -end, end, lanes), phi))


def _gelu_tanh(x: Expr, lanes: int, alpha: float, beta: float) -> Expr:  # noqa: ARG001 (the registry's signature)
    """The product x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3); the sigmoid is saturated beyond |x| = 12."""
    def twice_u(z: Expr) -> Expr:
        return z * (splat(1.5957691216057308, lanes) + z * z * splat(0.07135481282632467, lanes))

    return bind(x, lambda x: _logistic_times(x, bind(_clamp(x, -12.0, 12.0, lanes), twice_u), lanes))


ACTIVATIONS: dict[str, Callable[[Expr, int, float, float], Expr]] = {
    "none": _none,
    "relu": _relu,
    "clip": _clip,  # alpha <= x <= beta
    "leaky_relu": _leaky_relu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "tanh": _tanh,
    "gelu_erf": _gelu_erf,
    "gelu_tanh": _gelu_tanh,
    "gelu_narrow": _gelu_narrow,  # gelu_erf to 3e-4
}


def finished(e: Follows, value: Expr, lanes: int, residual: Expr | None) -> Expr:
    """A vector of a product and its bias, with the residual of the same places and activated."""
    if residual is not None and not e.multiplies:
        value = value + residual
    value = ACTIVATIONS[e.activation](value, lanes, e.alpha, e.beta)
    return value * residual if residual is not None and e.multiplies else value
