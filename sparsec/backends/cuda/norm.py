"""Lowering of LayerNormalization with the sum before it: embeddings, places and residuals are added in its kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from tvm import relax, te, tirx

from sparsec.backends.cuda.context import CudaContext
from sparsec.backends.cuda.written_norms import Norm, without_mean
from sparsec.graph.constants import constant_shape
from sparsec.graph.nodes import operand
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cuda import norm
from sparsec.kernels.cuda.norm import NormParams, Term
from sparsec.kernels.emit.tir import Expr, Kernel

MOST = 4
"""Terms of a sum."""
INDICES = ("int32", "int64")


@dataclass(frozen=True)
class _Source:
    """A term, with the value that it reads and the one that names its rows."""

    term: Term
    value: ir.Value
    index: ir.Value | None = None


def lower(context: CudaContext, node: ir.Node) -> bool:
    """Emit a layer norm; False where its statistics are outputs."""
    x, parameters = operand(node, 0), tuple(each for each in node.inputs[1:] if each is not None)
    found = Norm(node, x, node.attributes.get_int("axis", -1) % len(context.shape(x)),
                  node.attributes.get_float("epsilon", 1e-5), parameters, (node,))
    if any(output.name for output in node.outputs[1:]) or not _is_plain(context, found):
        return False
    return _emit(context, found) or _by_loops(context, found)


def lower_written_out(context: CudaContext, node: ir.Node) -> bool:
    """Emit a norm without mean of which a Mul by the scale is the last node; False for others, computed as they are."""
    found = without_mean(context, node)
    return found is not None and _is_plain(context, found) and _emit(context, found)


def _is_plain(context: CudaContext, norm_: Norm) -> bool:
    """Whether it is of floats, with parameters for every feature."""
    features = math.prod(context.shape(norm_.x)[norm_.axis:])
    return context.dtype(norm_.x) == "float32" and all(
        math.prod(context.shape(value)) == features for value in norm_.parameters)


def _emit(context: CudaContext, found: Norm) -> bool:
    """Emit a norm, with the sum before it, by the kernel; False where there is none for it."""
    x, output = found.x, found.node.outputs[0]
    dims = context.shape(x)
    rows, features = math.prod(dims[:found.axis]), math.prod(dims[found.axis:])
    sources = _terms(context, x, dims) if found.axis == len(dims) - 1 else None
    sources = sources or [_Source(Term(rows), x)]
    read_elsewhere = len(sources) > 1 and (x.is_graph_output() or any(
        use.node not in found.readers for use in x.uses()))
    terms = tuple(_stored(context, source) for source in sources)
    out = context.half if output in context.narrow else "float32"
    p = NormParams(rows, features, terms, found.epsilon, out,
                   (context.half if x in context.narrow else "float32") if read_elsewhere else "",
                   len(found.parameters) > 1, found.centred)
    if norm.reject(p) is not None:
        return False
    arguments = [each for source, term in zip(sources, terms, strict=True) for each in _inputs(context, source, term)]
    arguments += [context.reshaped(context.tensor(value), (features,)) for value in found.parameters]
    outputs = [norm.arguments(p)[name] for name in ("sums", "y") if name in norm.arguments(p)]
    results = context.launch_all(_kernel(p), arguments, outputs, "layer_norm")
    if read_elsewhere:
        context.bind(x, context.reshaped(results[0], dims))
    context.bind(output, context.reshaped(results[-1], dims))
    return True


def _by_loops(context: CudaContext, found: Norm) -> bool:
    """Rows of more features than a block keeps, by TVM's schedule; mean and variance are two passes, too."""
    x, epsilon, features = found.x, found.epsilon, math.prod(context.shape(found.x)[found.axis:])
    shape = math.prod(context.shape(x)) // features, features
    parameters = [context.reshaped(context.tensor(value), (features,)) for value in found.parameters]

    def build(x: te.Tensor, scale: te.Tensor, *bias: te.Tensor) -> te.Tensor:
        total, squares = (te.reduce_axis((0, features), name=name) for name in ("total", "squares"))
        mean = te.compute(shape[:1], lambda i: te.sum(x[i, total], axis=total), name="mean")

        def centred(i: Expr, j: Expr) -> Expr:
            return x[i, j] - mean[i] / features

        variance = te.compute(shape[:1], lambda i: te.sum(centred(i, squares) * centred(i, squares), axis=squares),
                              name="variance")

        def element(i: Expr, j: Expr) -> Expr:
            y = centred(i, j) * tirx.rsqrt(variance[i] / features + epsilon) * scale[j]
            return y + bias[0][j] if bias else y

        return te.compute(shape, element, name="layer_norm")

    rows = context.reshaped(context.tensor(x), shape)
    y = context.bb.emit_te(build, rows, *parameters, primfunc_name_hint="layer_norm")
    context.bind(found.node.outputs[0], context.reshaped(y, context.shape(x)))
    return True


@functools.lru_cache(maxsize=64)
def _kernel(p: NormParams) -> Kernel:
    """The kernel; layers with equal parameters share the object, and so the compiled code."""
    return norm.build(p)


def _terms(context: CudaContext, value: ir.Value | None, dims: tuple[int, ...]) -> list[_Source] | None:
    """What is added up to a value of the sum's shape, None where the kernel cannot add it."""
    found: list[_Source] = []
    waiting = [(value, True)]
    while waiting:
        each, is_sum = waiting.pop()
        if each is None or len(found) + len(waiting) >= MOST:
            return None
        node = each.producer()
        alone = is_sum or (len(list(each.uses())) == 1 and not each.is_graph_output())
        if node is not None and node.op_type == "Add" and not node.domain and alone:
            waiting += [(operand, False) for operand in reversed(node.inputs)]
            continue
        source = _source(context, each, dims)
        if source is None:
            return None
        found.append(source)
    return found


def _source(context: CudaContext, value: ir.Value, dims: tuple[int, ...]) -> _Source | None:
    """A value that is not a sum, as a term."""
    if value.dtype != ir.DataType.FLOAT or value in context.channels_last:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Gather" and not node.domain and node.attributes.get_int("axis", 0) == 0:
        table, index = node.inputs
        shape, places = constant_shape(table), static_shape(index)
        if table is not None and index is not None and shape is not None and len(shape) == 2 and places is not None:
            spread = _spread((*places, shape[1]), dims)
            if spread is not None and context.dtype(index) in INDICES:
                return _Source(Term(*spread, table=shape[0], index=context.dtype(index)), table, index)
    spread = _spread(static_shape(value) or (), dims)
    return None if spread is None else _Source(Term(*spread), value)


def _spread(shape: Sequence[int], dims: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows of a tensor and how many rows of the sum in a row have the same one; None where it repeats otherwise."""
    if len(shape) > len(dims) or not shape or shape[-1] != dims[-1]:
        return None
    lead, own = dims[:-1], (*(1,) * (len(dims) - len(shape)), *shape[:-1])
    varied = [axis for axis, size in enumerate(own) if size > 1]
    if not varied:
        return 1, math.prod(lead)
    first, last = varied[0], varied[-1]
    if own[first:last + 1] != lead[first:last + 1]:
        return None
    return math.prod(own), math.prod(lead[last + 1:])


def _stored(context: CudaContext, source: _Source) -> Term:
    """The term in the type that its value is stored in."""
    half = source.index is None and source.value in context.narrow
    return Term(source.term.rows, source.term.every, context.half if half else "float32", source.term.table,
                source.term.index)


def _inputs(context: CudaContext, source: _Source, term: Term) -> list[relax.Expr]:
    """The buffers of a term."""
    size = math.prod(context.shape(source.value))
    if term.dtype == context.half:
        return [context.stored(source.value, (size,))]
    rows = [context.reshaped(context.tensor(source.value), (size,))]
    if source.index is not None:
        rows.append(context.reshaped(context.tensor(source.index), (term.rows,)))
    return rows
