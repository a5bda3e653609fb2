"""Which kernels of run-time sizes compute an operator of ONNX between stages of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sparsec.graph.sized import Computed
from sparsec.kernels.cuda import sized_elementwise, sized_order, sized_product, sized_reduce, sized_take
from sparsec.kernels.emit.tir import Kernel

FLOAT = "float32"
BYTES = {"bool": 1, "uint8": 1, "int8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "int32": 4, "int64": 8}
"""Of elements that are copied."""
TAKE = "Take"
"""The kernel of choices by index."""


def kernels_of(operator: str, given: Sequence[str], made: str) -> tuple[Computed, ...] | str:
    """The kernels of an operator, or why there are none.

    Args:
        operator: by ONNX's name.
        given: the element types of the operands that are data.
        made: that of the result.

    """
    found = RULES[operator](operator, given, made) if operator in RULES else _elementwise(operator, given, made)
    return found or f"there is no kernel of '{operator}' of {', '.join(given)}"


Found = tuple[Computed, ...]
"""The kernels of an operator; none where its operands have other types."""


def _elementwise(operator: str, given: Sequence[str], made: str) -> Found:
    return () if sized_elementwise.rejects(operator, given, made) else (Computed(operator, tuple(given), made),)


def _are_floats(given: Sequence[str], count: int = 1) -> bool:
    return len(given) == count and set(given) <= set(sized_elementwise.FLOATS)


def _taken(_operator: str, given: Sequence[str], _made: str) -> Found:
    """Elements are copied, whatever they are."""
    dtype, index = given
    return (Computed(TAKE, (dtype, index), dtype),) if dtype in BYTES and index in sized_elementwise.INTEGERS else ()


def _product(operator: str, given: Sequence[str], made: str) -> Found:
    return (Computed(operator, tuple(given), made),) if _are_floats(given, len(("left", "right"))) else ()


def _ordered(operator: str, given: Sequence[str], made: str) -> Found:
    return (Computed(operator, tuple(given), made),) if _are_floats(given) else ()


def _reduced(operator: str, given: Sequence[str], _made: str) -> Found:
    """Of the operand, and of what blocks leave that share a result."""
    types = dict.fromkeys((*given, FLOAT))
    return tuple(Computed(operator, (each,), FLOAT) for each in types) if _are_floats(given) else ()


def _softmax(_operator: str, given: Sequence[str], made: str) -> Found:
    if not _are_floats(given):
        return ()
    return (*_reduced("ReduceMax", given, FLOAT), Computed("ExpSub", (*given, FLOAT), FLOAT),
            *_reduced("ReduceSum", (FLOAT,), FLOAT), Computed("Div", (FLOAT, FLOAT), made))


def _log_softmax(_operator: str, given: Sequence[str], made: str) -> Found:
    if not _are_floats(given):
        return ()
    return (*_reduced("ReduceMax", given, FLOAT), Computed("Sub", (*given, FLOAT), FLOAT),
            Computed("Exp", (FLOAT,), FLOAT), *_reduced("ReduceSum", (FLOAT,), FLOAT),
            Computed("SubLog", (FLOAT, FLOAT), made))


RULES: Mapping[str, Callable[[str, Sequence[str], str], Found]] = {
    **dict.fromkeys(sized_reduce.KINDS, _reduced), **dict.fromkeys(("Gather", "GatherElements"), _taken),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK"), _ordered), "MatMul": _product, "Softmax": _softmax,
    "LogSoftmax": _log_softmax}
"""By operator that is not element-wise, its kernels for element types of operands and result."""


def build(computed: Computed) -> Kernel:
    """The kernel."""
    operator, given, made = computed
    if operator in sized_reduce.KINDS:
        return sized_reduce.build(operator, *given)
    builder = BUILDERS.get(operator)
    return sized_elementwise.build(operator, given, made) if builder is None else builder(given, made)


def chained(kernel: Computed, before: Sequence[Computed | None]) -> Computed | None:
    """One kernel of element-wise operators in a row, with operands in their order; None where there is none."""
    if kernel.operator.startswith(sized_elementwise.CHAIN) or not all(
            sized_elementwise.joins(*each) for each in (kernel, *before) if each is not None):
        return None
    parts = [sized_elementwise.LEAF if each is None else sized_elementwise.expression(*each[:2]) for each in before]
    given = tuple(dtype for own, each in zip(kernel.given, before, strict=True)
                  for dtype in ((own,) if each is None else each.given))
    name = "_".join((sized_elementwise.CHAIN, *parts, kernel.operator))
    return Computed(name, given, kernel.made) if len(given) <= sized_elementwise.MOST else None


BUILDERS: Mapping[str, Callable[[Sequence[str], str], Kernel]] = {
    TAKE: lambda given, _made: sized_take.build(f"uint{8 * BYTES[given[0]]}", given[1]),
    "MatMul": lambda given, made: sized_product.build(given[0], given[1], made),
    **dict.fromkeys(("ArgMax", "ArgMin"), lambda given, _made: sized_order.build_one(given[0])),
    "TopK": lambda given, _made: sized_order.build_several(given[0])}
"""By kernel that is neither a reduction nor element-wise, what builds it."""
