"""Whether the operators on integers of a compiled graph compute the tensors of the file: in steps of rounding.

Every operator is executed by its reference on what onnxruntime computes in front of it in the file, and compared with
what onnxruntime computes behind it. Codes are equal, or one step apart where the file rounds floats in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.graph import ort
from sparsec.graph.compare import Feeds, relative_error
from sparsec.graph.evaluate import run_node
from sparsec.graph.operators import DOMAIN
from sparsec.graph.shapes import static_shape

INTEGERS = ("Lookup", "QAttention", "QAveragePool", "QBatchMatMul", "QBinary", "QConv", "QMatMul")
FLOAT_ERROR = 1e-4
"""How far a float32 result of exact sums may be from the file's, relative to its largest magnitude."""
PRODUCTS = ("QConv", "QMatMul", "QBatchMatMul")
LARGEST = 5e9
"""Multiplications of a model that are executed by references."""


@dataclass(frozen=True)
class Steps:
    """The comparison of a graph's quantised tensors with the file's.

    Attributes:
        tensors: how many could be compared: those that the file has, of the same shape.
        codes: their elements.
        one_step: of these, how many are one step apart.
        further: by tensor, how far the furthest element is where that is more than one step, or a float's error.

    """

    tensors: int
    codes: int
    one_step: int
    further: Mapping[str, float]


def has_integers(model: ir.Model) -> bool:
    """Whether a graph has operators on integers."""
    return any(node.domain == DOMAIN and node.op_type in INTEGERS for node in model.graph)


def compare_steps(source: str | Path | bytes | onnx.ModelProto, model: ir.Model, feeds: Feeds) -> Steps | str:
    """Compares the operators on integers of a graph after all passes with the file that it came from.

    Where they are further from what onnxruntime computes, it computes again without its optimisations: these take the
    codes of a bias for steps of the product, whatever the bias's scale is.

    Returns:
        Why there is nothing to compare, where the model is too large or onnxruntime cannot execute it.

    """
    if (count := sum(map(_multiplications, model.graph))) > LARGEST:
        return f"the model has {count / 1e9:.0f} billion multiplications, references execute {LARGEST / 1e9:.0f}"
    proto = source if isinstance(source, onnx.ModelProto) else (
        onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source))
    nodes = list(_nodes(model, {name for node in proto.graph.node for name in node.output} | feeds.keys()))
    names = sorted({name for node in nodes for name in (*_activations(node), node.outputs[0].name or "")})
    steps: Steps | None = None
    for optimized in (True, False):
        try:
            found = dict(zip(names, _intermediate(proto, names, feeds, optimized=optimized), strict=True))
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
            return steps or f"onnxruntime cannot run the model: {' '.join(str(error).split())}"
        steps = _compare(nodes, found, dict(model.graph.opset_imports))
        if not steps.further:
            break
    assert steps is not None
    return steps


def _origin(value: ir.Value) -> ir.Value:
    """The value that a change of layout reads."""
    node = value.producer()
    while node is not None and node.domain == DOMAIN and node.op_type == "Reformat" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _activations(node: ir.Node) -> Iterator[str]:
    for value in node.inputs:
        if value is not None and value.const_value is None:
            yield _origin(value).name or ""


def _nodes(model: ir.Model, known: set[str]) -> Iterator[ir.Node]:
    """The operators whose result and activations the file names."""
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type in INTEGERS and {*_activations(node), node.outputs[0].name} <= known:
            yield node


def _multiplications(node: ir.Node) -> int:
    shapes = [static_shape(value) or () for value in (*node.inputs[:2], node.outputs[0])]
    if node.domain != DOMAIN or node.op_type not in PRODUCTS or len(shapes) < 3:
        return 0
    inner = shapes[1][-2] if node.op_type == "QBatchMatMul" else int(np.prod(shapes[1][1:]))
    return int(np.prod(shapes[2])) * inner


def _intermediate(proto: onnx.ModelProto, names: list[str], feeds: Feeds, *, optimized: bool) -> list[np.ndarray]:
    """Tensors of a model by name, as onnxruntime computes them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    there = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there | feeds.keys())
    wanted = [name for name in names if name not in feeds]
    session = ort.session(copy, optimized=optimized) if wanted else None
    computed = {} if session is None else dict(zip(wanted, session.run(wanted, dict(feeds)), strict=True))
    return [np.asarray(feeds[name]) if name in feeds else computed[name] for name in names]


def _compare(nodes: list[ir.Node], found: Mapping[str, np.ndarray], opsets: Mapping[str, int]) -> Steps:
    tensors = codes = one_step = 0
    further: dict[str, float] = {}
    for node in nodes:
        output = node.outputs[0]
        expected = found[output.name or ""]
        inputs = [None if value is None else found[_origin(value).name or ""] if value.const_value is None
                  else value.const_value.numpy() for value in node.inputs]
        if not _fits(output, expected) or any(value is not None and array is not None and not _fits(value, array)
                                              for value, array in zip(node.inputs, inputs, strict=True)):
            continue
        actual = np.asarray(run_node(node, inputs, opsets)[0])
        tensors += 1
        if actual.dtype.kind == "f":
            error = relative_error(actual, expected)
            further.update({output.name or "": error} if error > FLOAT_ERROR else {})
            continue
        apart = np.abs(actual.astype(np.int16) - expected.astype(np.int16))
        codes, one_step = codes + apart.size, one_step + int(np.count_nonzero(apart == 1))
        further.update({output.name or "": float(apart.max())} if apart.max(initial=0) > 1 else {})
    return Steps(tensors, codes, one_step, further)


def _fits(value: ir.Value, array: np.ndarray) -> bool:
    return value.dtype is not None and array.dtype == value.dtype.numpy() and array.shape == static_shape(value)
