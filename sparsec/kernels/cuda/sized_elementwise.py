"""Element-wise operators whose operands are spread over each other, of any sizes and strides, on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from inspect import signature
from operator import mul

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline
from sparsec.kernels.cuda.sized_threads import RANK, own_element, places
from sparsec.kernels.emit.activations import ACTIVATIONS
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel

CHAIN, LEAF, MOST = "Chain", "x", 8
"""How the name of several operators begins, what stands for an operand in it, and operands of a kernel at most."""
FLOATS, INTEGERS, BOOLS = ("float16", "bfloat16", "float32"), ("int32", "int64"), ("bool",)


def numbers(count: int) -> tuple[str, ...]:
    """The numbers of a kernel of so many operands: sizes, then the strides of each in elements."""
    return tuple(f"{what}{axis}" for what in ("size", *(f"by{index}_" for index in range(count)))
                 for axis in range(RANK))


def build(operator: str, given: Sequence[str], made: str) -> Kernel:
    """The kernel: (x0, x1, …) -> y in C order, then `numbers`; a thread computes an element.

    Args:
        operator: of `OPERATORS`, or several as `expression` has them.
        given: the element types of the operands; booleans are bytes.
        made: that of y.

    """
    function = _chain(operator) if operator.startswith(CHAIN) else (
        OPERATORS[operator] if given[-1] in FLOATS else WHOLE.get(operator, OPERATORS[operator]))

    def body(b: Buffers, told: pipeline.Numbers) -> None:
        sizes = [told[f"size{axis}"] for axis in range(RANK)]
        with own_element(reduce(mul, sizes)) as number:
            at_axis, operands = places(number, sizes), []
            for index, dtype in enumerate(given):
                at = sum(place * told[f"by{index}_{axis}"] for axis, place in enumerate(at_axis))
                x = b[f"x{index}"][at]
                operands.append(T.Bind(T.Cast("float32", x) if dtype in FLOATS else x))
            T.buffer_store(b["y"], _stored(function(*operands), made), [number])

    buffers = {f"x{index}": _held(dtype) for index, dtype in enumerate(given)}
    return pipeline.sized_func({**buffers, "y": _held(made)}, numbers(len(given)), body)


def expression(operator: str, given: Sequence[str]) -> str:
    """Operators with their operands in front of them, in one name: those of a kernel."""
    if operator.startswith(CHAIN):
        return operator.removeprefix(f"{CHAIN}_")
    return "_".join((*[LEAF] * len(given), operator))


def joins(operator: str, given: Sequence[str], made: str) -> bool:
    """Whether a kernel may be part of one of several operators: of floats and booleans, whose types follow."""
    if operator.startswith(CHAIN):
        return True
    return operator in OPERATORS and {*given, made} <= {*FLOATS, *BOOLS} and (
        (made in BOOLS) == (operator in COMPARED + LOGICAL))


def _chain(name: str) -> Callable[..., Expr]:
    """What an `expression` computes; results between are float32, or the bytes of booleans."""
    def function(*operands: Expr) -> Expr:
        left, stack = list(operands), list[Expr]()
        *inner, last = name.split("_")[1:]
        for each in inner:
            if each == LEAF:
                stack.append(left.pop(0))
                continue
            count = len(signature(OPERATORS[each]).parameters)
            value = OPERATORS[each](*stack[-count:])
            stack[-count:] = [T.Bind(_stored(value, BOOLS[0] if each in COMPARED + LOGICAL else "float32"))]
        return OPERATORS[last](*stack)

    return function


def _held(dtype: str) -> str:
    return "uint8" if dtype in BOOLS else dtype


def _stored(value: Expr, made: str) -> Expr:
    if made in BOOLS:
        return T.Select(value, T.uint8(1), T.uint8(0))
    return T.Cast(made, value)


def rejects(operator: str, given: Sequence[str], made: str) -> str | None:
    """Why there is no kernel of these element types, or None."""
    if operator not in OPERATORS or len(given) != len(signature(OPERATORS[operator]).parameters):
        return f"there is no kernel of '{operator}' with {len(given)} operands"
    data = given[1:] if operator == "Where" else given
    if operator in LOGICAL or (operator == "Where" and given[0] not in BOOLS):
        fits = operator != "Where" and all(each in BOOLS for each in given)
    elif all(each in FLOATS for each in data):
        fits = True
    else:
        fits = operator in EXACT and len(set(data)) == 1 and data[0] in INTEGERS + BOOLS * (operator == "Cast")
    wide = made in BOOLS if operator in COMPARED + LOGICAL else made not in BOOLS
    return None if fits and wide and made in (*FLOATS, *INTEGERS, *BOOLS) else (
        f"there is no kernel of '{operator}' of {', '.join(given)}")


def _largest(a: Expr, b: Expr) -> Expr:
    """NaN where one of them is."""
    return T.Select(T.Or(T.isnan(b), b > a), b, a)


def _least(a: Expr, b: Expr) -> Expr:
    return T.Select(T.Or(T.isnan(b), b < a), b, a)


def _sigmoid(x: Expr) -> Expr:
    return T.Select(T.isnan(x), x, ACTIVATIONS["sigmoid"](x, 1, 0.0, 0.0))


def _floor(x: Expr) -> Expr:
    return T.floor(x)


def _ceil(x: Expr) -> Expr:
    return T.ceil(x)


def _power(x: Expr, y: Expr) -> Expr:
    """Of magnitudes, since a GPU's own function knows no negative base; odd exponents keep the sign."""
    whole, half = T.floor(y) == y, y * T.float32(0.5)
    magnitude = T.pow(T.Select(x < 0, -x, x), y)
    signed = T.Select(T.And(x < 0, T.And(whole, T.floor(half) != half)), -magnitude, magnitude)
    finite = T.And(x < 0, x > T.float32(float("-inf")))
    found = T.Select(T.And(finite, T.Not(whole)), T.sqrt(x), signed)  # which is no number
    return T.Select(y == T.float32(0), T.float32(1), T.Select(y == T.float32(2), x * x, found))


OPERATORS: dict[str, Callable[..., Expr]] = {
    "Add": lambda a, b: a + b, "Sub": lambda a, b: a - b, "Mul": lambda a, b: a * b, "Div": lambda a, b: a / b,
    "Max": _largest, "Min": _least, "Pow": _power,
    "Clip": lambda x, least, most: _least(_largest(x, least), most),
    "PRelu": lambda x, slope: T.Select(x < 0, slope * x, x), "Where": lambda c, a, b: T.Select(c > 0, a, b),
    "ExpSub": lambda a, b: T.exp(a - b), "SubLog": lambda a, b: a - T.log(b),
    "Equal": lambda a, b: a == b, "Greater": lambda a, b: a > b, "GreaterOrEqual": lambda a, b: a >= b,
    "Less": lambda a, b: a < b, "LessOrEqual": lambda a, b: a <= b,
    "And": lambda a, b: T.And(a > 0, b > 0), "Or": lambda a, b: T.Or(a > 0, b > 0), "Not": lambda a: a == 0,
    "Abs": lambda x: T.Select(x < 0, -x, x), "Exp": T.exp, "Log": T.log,
    "Neg": lambda x: -x, "Reciprocal": lambda x: T.float32(1) / x, "Relu": lambda x: T.Select(x < 0, T.float32(0), x),
    "Sigmoid": _sigmoid, "Sqrt": T.sqrt, "Tanh": T.tanh,
    "Erf": T.erf, "Floor": _floor, "Ceil": _ceil, "Cast": lambda x: x,
}
"""By ONNX's operator, or of what makes a softmax, what an element of the result is; floats are float32."""
WHOLE: dict[str, Callable[..., Expr]] = {"Max": T.max, "Min": T.min}
"""Those that have no NaN to keep, of integers."""
COMPARED = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
"""Those that give booleans of numbers."""
LOGICAL = ("And", "Not", "Or")
"""Those of booleans."""
EXACT = ("Add", "Sub", "Mul", "Max", "Min", "Where", "Cast", *COMPARED)
"""Those that integers have, too."""
