"""Executing a graph with numpy and onnxruntime: the definition that kernels and backends are tested against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sparsec.errors import InputError, UnsupportedOperatorError
from sparsec.graph import ort
from sparsec.graph.operators import DOMAIN, REFERENCES
from sparsec.graph.reader import IR_VERSION

Arrays = list[np.ndarray | None]


def evaluate(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a graph of standard and `sparsec` operators, in order, for inputs by name. Slow: for checks."""
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=REFERENCES)
    return list(evaluator.run(None, dict(feeds)))


def run_by_nodes(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a graph, computed node by node as `walk` does: in the memory of the weights of one node."""
    results: dict[ir.Value, np.ndarray] = {}
    for _ in walk(model, feeds, results):
        pass
    return [results[value] if value.const_value is None else value.const_value.numpy() for value in model.graph.outputs]


def walk(model: ir.Model, feeds: Mapping[str, np.ndarray], results: dict[ir.Value, np.ndarray] | None = None,
         ) -> Iterator[tuple[ir.Node, Arrays]]:
    """Every node of a sorted graph with what it reads, in order; values live until their last reader has run.

    In the end, `results` has the graph's outputs.

    Raises:
        InputError: an input is missing.
        UnsupportedOperatorError: a node cannot be executed by itself.

    """
    if missing := [value.name for value in model.graph.inputs if value.const_value is None and value.name not in feeds]:
        raise InputError(f"no input '{missing[0]}'; the inputs given are {', '.join(feeds) or 'none'}")
    readers = Counter(value for node in model.graph for value in node.inputs if value is not None)
    readers.update(() if results is None else model.graph.outputs)
    values = {value: np.asarray(feeds[value.name or ""]) for value in model.graph.inputs if value.const_value is None}
    for node in model.graph:
        inputs = [None if value is None else values[value] if value.const_value is None else value.const_value.numpy()
                  for value in node.inputs]
        yield node, inputs
        outputs = run_node(node, inputs, dict(model.graph.opset_imports))
        values.update((value, array) for value, array in zip(node.outputs, outputs, strict=False) if readers[value])
        readers.subtract(value for value in node.inputs if value is not None)
        for value in set(node.inputs):
            if value is not None and not readers[value]:
                values.pop(value, None)
    if results is not None:
        results.update(values)


def zeros_of(model: ir.Model, samples: Sequence[Mapping[str, np.ndarray]], nodes: Collection[ir.Node],
             ) -> dict[ir.Node, float]:
    """The share of zeros in what some nodes read first, in all samples; nothing where a node cannot be executed."""
    counts: dict[ir.Node, list[int]] = {node: [0, 0] for node in nodes}
    try:
        for sample in samples:
            for node, inputs in walk(model, sample):
                if node in counts and inputs[0] is not None:
                    counts[node][0] += inputs[0].size - int(np.count_nonzero(inputs[0]))
                    counts[node][1] += inputs[0].size
    except UnsupportedOperatorError:
        return {}
    return {node: zeros / max(1, size) for node, (zeros, size) in counts.items()}


def run_node(node: ir.Node, inputs: Arrays, opsets: Mapping[str, int]) -> list[Any]:
    """The outputs of one node: a standard operator's in onnxruntime, those of `sparsec`'s by their reference.

    Raises:
        UnsupportedOperatorError: onnxruntime cannot run the node by itself.

    """
    onnxruntime, proto = ort.load(), ir.to_proto(node)
    feeds = {name: x for name, x in zip(proto.input, inputs, strict=True) if x is not None}
    sources = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
               for name, x in feeds.items()]
    results = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    model = helper.make_model(helper.make_graph([proto], "node", sources, results), ir_version=IR_VERSION,
                              opset_imports=[helper.make_opsetid(*opset) for opset in opsets.items()])
    if node.domain == DOMAIN:
        return list(ReferenceEvaluator(model, new_ops=REFERENCES).run(None, feeds))
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return list(session.run(None, feeds))
    except Exception as error:  # onnxruntime's errors have no public base
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedOperatorError(f"node '{node.name}' ({node.op_type}) runs neither by its reference nor in "
                                       f"onnxruntime: {reason}") from error
