"""Activations written out as arithmetic become single nodes: Gelu (erf and tanh), HardSwish, HardSigmoid.

They are recognised as products: a constant times factors, however the multiplications and divisions are ordered. With x
for the input:

    1/2 * x * (1 + erf(x / sqrt 2))                               Gelu
    1/2 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))       Gelu, approximate="tanh" (x may be factored out)
    1/6 * x * clip(x + 3, 0, 6),   x * HardSigmoid(x)             HardSwish
    1/6 * clip(x + 3, 0, 6)                                       HardSigmoid
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from sparsec.graph.constants import scalar
from sparsec.graph.nodes import node_name
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Note, Report

SINCE = {"Gelu": 20, "HardSwish": 14, "HardSigmoid": 6}
TOLERANCE = 1e-4  # relative; exporters print constants with five digits or more
CUBIC = 0.044715


@dataclass(frozen=True)
class _Product:
    constant: float
    factors: tuple[ir.Value, ...]

    def is_(self, constant: float, *factors: ir.Value) -> bool:
        """Whether this is the constant times exactly these values."""
        return math.isclose(self.constant, constant, rel_tol=TOLERANCE) and self.factors == factors


@dataclass(frozen=True)
class _Activation:
    op_type: str
    x: ir.Value
    attributes: dict[str, str | float]


def run(model: ir.Model, _context: Context) -> Report:
    """Replaces every written-out activation, in place; the largest first."""
    counts: Counter[str] = Counter()
    notes = []
    opset = model.graph.opset_imports[""]
    for root in reversed(list(model.graph)):
        if root.domain or root.op_type not in ("Mul", "Div"):
            continue
        found = _recognise(_product(root.outputs[0], root=True))
        if found is None or static_shape(found.x) != static_shape(root.outputs[0]):
            continue
        if opset < SINCE[found.op_type]:
            notes.append(Note(node_name(root), f"stays written out: opset {opset} has no {found.op_type}"))
            continue
        node = ir.node(found.op_type, [found.x], found.attributes, name=node_name(root))
        root.prepend(node)
        rewrite.take_over(node.outputs[0], root.outputs[0])
        counts[found.op_type] += 1
    rewrite.clean(model)
    return Report("fuse_activation", bool(counts), counts, tuple(notes))


def _product(value: ir.Value | None, *, root: bool = False) -> _Product:
    """The value as a product; a value with several readers is a factor, since it may be the x of an activation."""
    assert value is not None
    if (number := scalar(value)) is not None:
        return _Product(number, ())
    node = value.producer()
    if node is None or node.domain or not (root or rewrite.only_use(value)):
        return _Product(1.0, (value,))
    second = scalar(node.inputs[1]) if len(node.inputs) == 2 else None
    if node.op_type == "Mul":
        a, b = _product(node.inputs[0]), _product(node.inputs[1])
        return _Product(a.constant * b.constant, a.factors + b.factors)
    if node.op_type == "Div" and second:
        a = _product(node.inputs[0])
        return _Product(a.constant / second, a.factors)
    if node.op_type == "Pow" and second in (2.0, 3.0):
        a = _product(node.inputs[0])
        return _Product(a.constant ** int(second), a.factors * int(second))
    return _Product(1.0, (value,))


def _plus(value: ir.Value, constant: float) -> ir.Value | None:
    """The v of a value v + constant."""
    node = value.producer()
    if node is None or node.domain or node.op_type != "Add":
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        if (number := scalar(one)) is not None and math.isclose(number, constant, rel_tol=TOLERANCE):
            return other
    return None


def _recognise(product: _Product) -> _Activation | None:
    """The activation that a product of one or two factors is."""
    if len(product.factors) == 1 and product.is_(1 / 6, *product.factors):
        x = _shifted_relu6(product.factors[0])
        return None if x is None else _Activation("HardSigmoid", x, {"alpha": 1 / 6, "beta": 0.5})
    if len(product.factors) == 2:
        for x, gate in (product.factors, product.factors[::-1]):
            found = _gated(product.constant, x, gate)
            if found is not None:
                return found
    return None


def _gated(constant: float, x: ir.Value, gate: ir.Value) -> _Activation | None:
    """The activation constant * x * gate(x)."""
    found = None
    is_sixth = math.isclose(constant, 1 / 6, rel_tol=TOLERANCE)
    if (is_sixth and _shifted_relu6(gate) is x) or (constant == 1.0 and _is_hard_sigmoid(gate, x)):
        found = _Activation("HardSwish", x, {})
    elif constant == 0.5:
        inner = _plus(gate, 1.0)
        node = inner.producer() if inner is not None else None
        if node is not None and node.op_type == "Erf" and _product(node.inputs[0]).is_(math.sqrt(0.5), x):
            found = _Activation("Gelu", x, {"approximate": "none"})
        elif node is not None and node.op_type == "Tanh" and _is_gelu_cubic(_product(node.inputs[0]), x):
            found = _Activation("Gelu", x, {"approximate": "tanh"})
    return found


def _shifted_relu6(value: ir.Value) -> ir.Value | None:
    """The x of clip(x + 3, 0, 6)."""
    node = value.producer()
    if node is None or node.op_type != "Clip" or len(node.inputs) != 3:
        return None
    argument, low, high = node.inputs
    if argument is None or scalar(low) != 0.0 or scalar(high) != 6.0:
        return None
    return _plus(argument, 3.0)


def _is_hard_sigmoid(value: ir.Value, x: ir.Value) -> bool:
    """Whether the value is the HardSigmoid of x with the slope and offset of HardSwish."""
    node = value.producer()
    return (node is not None and node.op_type == "HardSigmoid" and node.inputs[0] is x
            and math.isclose(node.attributes.get_float("alpha", 0.2), 1 / 6, rel_tol=TOLERANCE)
            and node.attributes.get_float("beta", 0.5) == 0.5)


def _is_gelu_cubic(product: _Product, x: ir.Value) -> bool:
    """Whether the product is sqrt(2 / pi) * (x + 0.044715 x^3), or the same with x factored out."""
    if not product.factors or not product.is_(math.sqrt(2 / math.pi), *product.factors):
        return False
    if len(product.factors) == 2 and x in product.factors:
        cubic = _plus(next(factor for factor in product.factors if factor is not x), 1.0)
        return cubic is not None and _product(cubic).is_(CUBIC, x, x)
    node = product.factors[0].producer()
    if len(product.factors) != 1 or node is None or node.op_type != "Add" or x not in node.inputs:
        return False
    a, b = node.inputs
    return _product(b if a is x else a).is_(CUBIC, x, x, x)
