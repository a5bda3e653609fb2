"""Products in other words become MatMul, by one matrix where that can be, which every later stage knows.

An Einsum of two operands becomes Transpose, Reshape and MatMul, by one matrix where a constant is one. A MatMul by a
batch of constant matrices becomes one product where the matrices are equal or all multiply the same rows, and a product
for each where they are sparse and multiply rows of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_constant, constant, constant_shape
from sparsec.graph.nodes import node_name, operand
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.chain import Chain
from sparsec.passes.context import Context, Note, Report

MOST_MATRICES = 64
SPARSE = 0.5
"""The share of zeros from which matrices of a batch are worth a product each."""


def run(model: ir.Model, _context: Context) -> Report:
    """Rewrites every product it can, in place."""
    counts: Counter[str] = Counter()
    notes = []
    for node in list(model.graph):
        rule = RULES.get(node.op_type) if node.domain == "" and node.outputs[0].dtype == ir.DataType.FLOAT else None
        shapes = [static_shape(value) for value in (*node.inputs, node.outputs[0])]
        if rule is None or any(not shape or 0 in shape for shape in shapes):
            continue
        kind, reason = node.op_type, rule(node)
        if reason is None:
            counts[kind] += 1
        elif reason:
            notes.append(Note(node_name(node), f"{kind} stays: {reason}"))
    if counts:
        rewrite.clean(model)
    return Report("products", bool(counts), counts, tuple(notes))


def _reshape(chain: Chain, x: ir.Value, old: Sequence[int], new: Sequence[int]) -> ir.Value:
    """A value of another shape; itself where that is its own."""
    return x if tuple(old) == tuple(new) else chain.reshape(x, new)


def _transpose(chain: Chain, x: ir.Value, perm: Sequence[int]) -> ir.Value:
    """A value with its axes in another order; itself where that is its own."""
    return x if list(perm) == list(range(len(perm))) else chain.add("Transpose", x, perm=list(perm))


def _einsum(node: ir.Node) -> str | None:
    if len(node.inputs) != 2:
        return f"it has {len(node.inputs)} operands, not 2"
    place = next((i for i, value in enumerate(node.inputs) if constant(value) is not None), None)
    ranks = [len(static_shape(value) or ()) for value in node.inputs]
    terms = labels(node.attributes.get_string("equation") or "", ranks)
    if terms is None:
        return "its equation repeats an index in one operand"
    weight = None if place is None else constant(node.inputs[place])
    if place is None or weight is None:
        return _batched(node, *terms)
    x = operand(node, 1 - place)
    w, source, out = terms[0][place], terms[0][1 - place], terms[1]
    shape = static_shape(x) or ()
    sizes = dict(zip(source, shape, strict=True))
    summed = [label for label in source if label in w and label not in out]
    columns = [label for label in out if label in w]
    kept = [label for label in source if label in out]
    if not summed or set(columns) & set(kept) or set(w) != {*summed, *columns} or set(source) != {*summed, *kept}:
        return _batched(node, *terms)
    wide = dict(zip(w, weight.shape, strict=True))
    if any(wide[label] != sizes[label] for label in summed):
        return "it broadcasts along an index that is summed"
    matrix = weight.transpose([w.index(label) for label in (*summed, *columns)])
    matrix = matrix.reshape(math.prod(wide[label] for label in summed), -1)
    chain = Chain(node)
    x = _transpose(chain, x, [source.index(label) for label in (*kept, *summed)])
    lead = [sizes[label] for label in kept]
    x = _reshape(chain, x, [*lead, *(sizes[label] for label in summed)], [*lead, len(matrix)])
    y = chain.add("MatMul", x, matrix)
    y = _reshape(chain, y, [*lead, matrix.shape[1]], [*lead, *(wide[label] for label in columns)])
    chain.end(_transpose(chain, y, [[*kept, *columns].index(label) for label in out]))
    return None


def _batched(node: ir.Node, terms: Sequence[str], out: str) -> str | None:
    """An Einsum as a batch of products of matrices, one for every index that both operands and the result have."""
    left, right = terms
    shapes = [static_shape(value) or () for value in node.inputs]
    sizes, others = (dict(zip(term, shape, strict=True)) for term, shape in zip(terms, shapes, strict=True))
    batch = [label for label in out if label in left and label in right]
    rows, columns = ([label for label in out if label not in other] for other in (right, left))
    summed = [label for label in left if label in right and label not in out]
    if not summed or set(left) != {*batch, *rows, *summed} or set(right) != {*batch, *summed, *columns}:
        return "it is not a product of matrices"
    if any(sizes[label] != others[label] for label in (*batch, *summed)):
        return "it broadcasts along an index"
    sizes |= others
    chain = Chain(node)

    def matrices(place: int, *groups: list[str]) -> ir.Value:
        order = [*batch, *(label for group in groups for label in group)]
        x = _transpose(chain, operand(node, place), [terms[place].index(label) for label in order])
        return _reshape(chain, x, [sizes[label] for label in order],
                        [*lead, *(math.prod(sizes[label] for label in group) for group in groups)])

    lead = [sizes[label] for label in batch]
    y = chain.add("MatMul", matrices(0, rows, summed), matrices(1, summed, columns))
    height, width = (math.prod(sizes[label] for label in group) for group in (rows, columns))
    order = [*batch, *rows, *columns]
    y = _reshape(chain, y, [*lead, height, width], [sizes[label] for label in order])
    chain.end(_transpose(chain, y, [order.index(label) for label in out]))
    return None


def labels(equation: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """The indices of an Einsum's operands and of its result, a letter each; those of an ellipsis are digits.

    Returns:
        None where an operand has an index twice.

    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    hidden = [rank - len(term.replace("...", "")) if "..." in term else 0
              for term, rank in zip(terms, ranks, strict=True)]
    digits = "".join(chr(ord("0") + i) for i in range(max(hidden)))
    terms = [term.replace("...", digits[len(digits) - count:]) for term, count in zip(terms, hidden, strict=True)]
    if not arrow:
        letters = "".join(terms)
        right = digits + "".join(sorted(label for label in set(letters) - set(digits) if letters.count(label) == 1))
    right = right.replace("...", digits)
    return None if any(len(set(term)) < len(term) for term in terms) else (terms, right)


def _matmul(node: ir.Node) -> str | None:
    x, value = (operand(node, index) for index in (0, 1))
    shape = static_shape(x) or ()
    weight = constant(value) if len(constant_shape(value) or ()) > 2 and len(shape) > 1 else None
    if weight is None:
        return ""  # one matrix, or a weight on the left
    matrices = weight.reshape(-1, *weight.shape[-2:])
    out = static_shape(node.outputs[0]) or ()
    chain = Chain(node)
    if all(np.array_equal(matrices[0], each) for each in matrices[1:]):
        lead = np.broadcast_shapes(shape[:-2], (1,) * (len(out) - 2))
        if lead != out[:-2] and math.prod(lead) != math.prod(out[:-2]):
            return "its equal matrices repeat its rows"
        y = chain.add("MatMul", x, matrices[0])
        chain.end(_reshape(chain, y, (*shape[:-1], out[-1]), out))
        return None
    if len(matrices) > MOST_MATRICES or matrices.shape[0] != max(weight.shape[:-2]):
        return f"its constant has {len(matrices)} matrices"
    if math.prod(shape[:-2]) == 1:
        joined = matrices.transpose(1, 0, 2).reshape(matrices.shape[1], -1)
        rows = _reshape(chain, x, shape, shape[-2:])
        y = chain.add("MatMul", rows, joined)
        y = chain.reshape(y, [shape[-2], len(matrices), out[-1]])
        chain.end(_reshape(chain, _transpose(chain, y, (1, 0, 2)), (len(matrices), *out[-2:]), out))
        return None
    return _one_by_one(chain, matrices, weight.ndim - weight.shape.index(len(matrices)), shape, out)


def _one_by_one(chain: Chain, matrices: np.ndarray, back: int, shape: tuple[int, ...],
                out: tuple[int, ...]) -> str | None:
    """A product for every matrix; they lie along the axis that is `back` axes from the end."""
    node, axis = chain.node, len(out) - back
    if len(shape) != len(out) or shape[axis] != len(matrices):
        return "its matrices broadcast over the rows"
    if (matrices == 0).mean() < SPARSE:
        return "its matrices are not sparse enough for a product each"
    assert node.graph is not None
    sizes = add_constant(node.graph, f"{node_name(node)}.split", np.ones(len(matrices), np.int64))
    split = ir.node("Split", [node.inputs[0], sizes], {"axis": axis}, num_outputs=len(matrices))
    node.prepend(split)
    parts = [chain.add("MatMul", part, matrix) for part, matrix in zip(split.outputs, matrices, strict=True)]
    concat = ir.node("Concat", parts, {"axis": axis})
    node.prepend(concat)
    chain.end(concat.outputs[0])
    return None


RULES: dict[str, Callable[[ir.Node], str | None]] = {"Einsum": _einsum, "MatMul": _matmul}
"""By operator: rewrites the node, or returns why not; "" where there is nothing to rewrite."""
