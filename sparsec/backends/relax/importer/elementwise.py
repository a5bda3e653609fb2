"""Element-wise operators that TVM's importer lacks, or takes for something else than ONNX does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import Operator, compute
from sparsec.errors import UnsupportedOperatorError
from sparsec.kernels.emit.tir import Expr

op = relax.op


def is_infinite(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """IsInf of both signs, one or none."""
    x, attributes = context.tensor(node.inputs[0]), node.attributes
    zero = relax.const(0, context.dtype(node.inputs[0]))
    signs = []
    if attributes.get_int("detect_positive", 1):
        signs.append(op.greater(x, zero))
    if attributes.get_int("detect_negative", 1):
        signs.append(op.less(x, zero))
    if not signs:
        return [relax.const(np.zeros(context.shape(node.outputs[0]), bool))]
    sign = signs[0] if len(signs) == 1 else op.logical_or(*signs)
    return [op.logical_and(op.isinf(x), sign)]


def equal(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Equal; TVM's code generator compares truth values as if they were floats, and fails."""
    x, y = (context.tensor(value) for value in node.inputs)
    truth = context.dtype(node.inputs[0]) == "bool"
    return [op.logical_not(op.logical_xor(x, y)) if truth else op.equal(x, y)]


def _divisors(context: LoweringContext, node: ir.Node) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Integer divisors with 1 for those that may trap the processor, and where these are 0 and where -1."""
    y, dtype = context.tensor(node.inputs[1]), context.dtype(node.inputs[1])
    zero = context.bb.emit(op.equal(y, relax.const(0, dtype)))
    minus = context.bb.emit(op.equal(y, relax.const(-1, dtype))) if dtype.startswith("int") else zero
    safe = op.where(op.logical_or(zero, minus), relax.const(1, dtype), y)
    return context.bb.emit(safe), zero, minus


def divide(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Div; integers are truncated, and their quotient by 0 is 0."""
    x, dtype = context.tensor(node.inputs[0]), context.dtype(node.inputs[0])
    if not dtype.startswith(("int", "uint")):
        return [op.divide(x, context.tensor(node.inputs[1]))]
    safe, zero, minus = _divisors(context, node)
    none, quotient = relax.const(0, dtype), op.divide(x, safe)
    if dtype.startswith("int"):
        quotient = op.where(minus, op.subtract(none, x), quotient)
    return [op.where(zero, none, quotient)]


def modulo(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Mod: with the dividend's sign if `fmod`, else with the divisor's; integers modulo 0 are 0."""
    x, y = (context.tensor(value) for value in node.inputs)
    dtype, fmod = context.dtype(node.inputs[0]), node.attributes.get_int("fmod", 0)
    if not dtype.startswith("float"):
        safe, *_ = _divisors(context, node)  # the remainder by 1 is 0, as it is by -1
        return [op.mod(x, safe) if fmod else op.floor_mod(x, safe)]
    if fmod:
        return [op.mod(x, y)]
    zero, rest = relax.const(0, dtype), context.bb.emit(op.mod(x, y))
    other_sign = op.logical_xor(op.less(rest, zero), op.less(y, zero))
    moved = op.logical_and(op.not_equal(rest, zero), other_sign)
    return [op.where(moved, op.add(rest, y), rest)]


def shift(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """BitShift; a shift by no less than the width, or a negative one, leaves the sign, as numpy has it."""
    x, y = (context.tensor(value) for value in node.inputs)
    dtype = context.dtype(node.inputs[0])
    bits = np.dtype(dtype).itemsize * 8
    inside = op.less(y, relax.const(bits, dtype))
    if dtype.startswith("int"):
        inside = op.logical_and(inside, op.greater_equal(y, relax.const(0, dtype)))
    amount = op.where(inside, y, relax.const(bits - 1, dtype))
    if node.attributes.get_string("direction") == "LEFT":
        return [op.where(inside, op.left_shift(x, amount), relax.const(0, dtype))]
    shifted = op.right_shift(x, amount)
    return [shifted if dtype.startswith("int") else op.where(inside, shifted, relax.const(0, dtype))]


def power(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Pow: small constant exponents by multiplication, integers by way of float64."""
    x, dtype = context.tensor(node.inputs[0]), context.dtype(node.outputs[0])
    exponent = context.array(node.inputs[1])
    if exponent is not None and exponent.size == 1 and context.shape(node.inputs[0]) == context.shape(node.outputs[0]):
        value = float(exponent.reshape(()))
        if value in (2, 3):
            return [op.multiply(op.multiply(x, x), x) if value == 3 else op.multiply(x, x)]
        if value == 1 or (value == 0.5 and dtype.startswith("float")):
            return [x if value == 1 else op.sqrt(x)]
    through = "float64" if "int" in dtype else dtype
    y = context.tensor(node.inputs[1])
    x, y = (operand if str(operand.ty.dtype) == through else op.astype(operand, through) for operand in (x, y))
    result = op.power(x, y)
    return [result if through == dtype else op.astype(op.round(result), dtype)]


def bit_cast(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """BitCast between types of equal width; a bool, which has one bit in registers, is a byte of 0 or 1."""
    source, dtype = context.dtype(node.inputs[0]), context.dtype(node.outputs[0])
    if np.dtype(dtype).itemsize != np.dtype(source).itemsize:
        raise UnsupportedOperatorError("the element types differ in width")
    if "bool" in (source, dtype):
        return [relax.op.astype(context.tensor(node.inputs[0]), dtype)]
    return [compute(context, "bit_cast", context.shape(node.outputs[0]),
                    lambda i, x: tirx.reinterpret(dtype, x[i]), context.tensor(node.inputs[0]))]


def cast(context: LoweringContext, node: ir.Node) -> list[relax.Expr] | None:
    """Cast from and to bfloat16, whose bits programs hold as uint16; the other types are TVM's."""
    source, target = context.dtype(node.inputs[0]), context.dtype(node.outputs[0])
    if "bfloat16" not in (source, target) or source == target:
        return [context.tensor(node.inputs[0])] if source == target else None
    x = context.tensor(node.inputs[0])
    if source == "bfloat16":
        wide = compute(context, "widen", context.shape(node.inputs[0]), lambda i, x: tirx.reinterpret(
            "float32", x[i].astype("uint32") << tirx.const(16, "uint32")), x)
        return [wide if target == "float32" else op.astype(wide, target)]
    x = x if source == "float32" else context.bb.emit(op.astype(x, "float32"))
    return [compute(context, "narrow", context.shape(node.inputs[0]), lambda i, x: _rounded(x[i]), x)]


def _rounded(number: Expr) -> Expr:
    """The upper half of a float32's bits, rounded half to even; NaN stays NaN."""
    bits = tirx.reinterpret("uint32", number)
    upper, even = bits >> tirx.const(16, "uint32"), tirx.const(0x7FFF, "uint32")
    nan = tirx.bitwise_and(bits, tirx.const(0x7FFFFFFF, "uint32")) > tirx.const(0x7F800000, "uint32")
    rounded = (bits + even + tirx.bitwise_and(upper, tirx.const(1, "uint32"))) >> tirx.const(16, "uint32")
    quiet = tirx.bitwise_or(upper, tirx.const(0x40, "uint32"))
    return tirx.Select(nan, quiet, rounded).astype("uint16")


def dropout(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Dropout outside of training: the identity, with a mask that keeps everything."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        training = context.array(node.inputs[2])
        if training is None or training.any():
            raise UnsupportedOperatorError("training mode draws random numbers; export the model for inference")
    results = [context.tensor(node.inputs[0])]
    if len(node.outputs) > 1:
        results.append(op.full(context.shape(node.outputs[1]), relax.const(1, context.dtype(node.outputs[1]))))
    return results


def lp_normalization(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """LpNormalization: divided by the norm along an axis; where that is 0, the result is 0."""
    x, axis = context.tensor(node.inputs[0]), node.attributes.get_int("axis", -1)
    squares = node.attributes.get_int("p", 2) == 2
    norm = op.sum(op.multiply(x, x) if squares else op.abs(x), axis, keepdims=True)
    norm = context.bb.emit(op.sqrt(norm) if squares else norm)
    zero, one = (relax.const(value, context.dtype(node.inputs[0])) for value in (0, 1))
    return [op.divide(x, op.where(op.equal(norm, zero), one, norm))]


def leaky(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """PRelu: a slope for each element below zero, broadcast to the input."""
    x, slope = (context.tensor(value) for value in node.inputs)
    return [op.where(op.less(x, relax.const(0, context.dtype(node.inputs[0]))), op.multiply(x, slope), x)]


def space_to_depth(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """SpaceToDepth: with the pixels of a block before the channels (DCR), or behind them (CRD)."""
    n, c, h, w = context.shape(node.inputs[0])
    block, before = node.attributes.get_int("blocksize") or 1, node.attributes.get_string("mode", "DCR") == "DCR"
    x = op.reshape(context.tensor(node.inputs[0]), (n, c, h // block, block, w // block, block))
    return [op.reshape(op.permute_dims(x, [0, 3, 5, 1, 2, 4] if before else [0, 1, 3, 5, 2, 4]),
                       context.shape(node.outputs[0]))]


OPERATORS: dict[str, Operator] = {
    "BitCast": bit_cast,
    "BitShift": shift,
    "Cast": cast,
    "Div": divide,
    "Dropout": dropout,
    "Equal": equal,
    "IsInf": is_infinite,
    "LpNormalization": lp_normalization,
    "Mod": modulo,
    "PRelu": leaky,
    "Pow": power,
    "SpaceToDepth": space_to_depth,
}
