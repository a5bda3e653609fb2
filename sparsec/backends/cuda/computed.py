"""Which kernels of run-time sizes compute an operator of ONNX between stages of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sparsec.errors import counted
from sparsec.graph.sized import Computed
from sparsec.kernels.cuda import sized_elementwise, sized_order, sized_product, sized_reduce, sized_take
from sparsec.kernels.emit.tir import Kernel

FLOAT = "float32"
BITS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}
"""As which elements are copied, by their bytes."""
BYTES = {"bool": 1, "uint8": 1, "int8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "int32": 4, "int64": 8}
TAKES, PRODUCT = ("Gather", "GatherElements"), "MatMul"


def kernels_of(operator: str, given: Sequence[str], made: str) -> tuple[Computed, ...] | str:
    """The kernels of an operator, or why there are none.

    Args:
        operator: by ONNX's name.
        given: the element types of the operands that are data.
        made: that of the result.

    """
    if operator in TAKES:
        x, index = given
        if x not in BYTES or index not in ("int32", "int64"):
            return f"there is no kernel of '{operator}' of {x} by {index}"
        return (Computed("Take", (BITS[BYTES[x]], index), BITS[BYTES[x]]),)
    if operator == PRODUCT:
        floats = len(given) == len(TAKES) and set(given) <= set(sized_elementwise.FLOATS)
        return (Computed(operator, tuple(given), made),) if floats else _not_floats(operator, given)
    if operator in ORDERS:
        return (Computed(operator, tuple(given), made),) if _are_floats(given) else _not_floats(operator, given)
    if operator in sized_reduce.KINDS:
        return _reduced(operator, given[0]) if _are_floats(given) else _not_floats(operator, given)
    if operator in SOFTMAX:
        return SOFTMAX[operator](given[0], made) if _are_floats(given) else _not_floats(operator, given)
    return sized_elementwise.rejects(operator, given, made) or (Computed(operator, tuple(given), made),)


def _are_floats(given: Sequence[str]) -> bool:
    return len(given) == 1 and given[0] in sized_elementwise.FLOATS


def _not_floats(operator: str, given: Sequence[str]) -> str:
    return f"there is no kernel of '{operator}' of {counted(len(given), 'operand')} of {', '.join(given)}"


def _reduced(operator: str, dtype: str) -> tuple[Computed, ...]:
    """Of the operand, and of what blocks leave that share a result."""
    return tuple(dict.fromkeys(Computed(operator, (each,), FLOAT) for each in (dtype, FLOAT)))


def _softmax(dtype: str, made: str) -> tuple[Computed, ...]:
    return (*_reduced("ReduceMax", dtype), Computed("ExpSub", (dtype, FLOAT), FLOAT), *_reduced("ReduceSum", FLOAT),
            Computed("Div", (FLOAT, FLOAT), made))


def _log_softmax(dtype: str, made: str) -> tuple[Computed, ...]:
    return (*_reduced("ReduceMax", dtype), Computed("Sub", (dtype, FLOAT), FLOAT), Computed("Exp", (FLOAT,), FLOAT),
            *_reduced("ReduceSum", FLOAT), Computed("SubLog", (FLOAT, FLOAT), made))


ORDERS: Mapping[str, Callable[[str], Kernel]] = {
    **dict.fromkeys(("ArgMax", "ArgMin"), sized_order.build_one), "TopK": sized_order.build_several}
"""Those that compare elements along an axis."""
SOFTMAX: Mapping[str, Callable[[str, str], tuple[Computed, ...]]] = {"Softmax": _softmax, "LogSoftmax": _log_softmax}
"""Those that several kernels compute."""


def build(computed: Computed) -> Kernel:
    """The kernel."""
    operator, given, made = computed
    if operator == "Take":
        return sized_take.build(*given)
    if operator == PRODUCT:
        return sized_product.build(*given, made)
    if operator in ORDERS:
        return ORDERS[operator](*given)
    if operator in sized_reduce.KINDS:
        return sized_reduce.build(operator, *given)
    return sized_elementwise.build(operator, given, made)
