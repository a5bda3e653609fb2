"""Embeddings of small artifacts: in fewer bits where the precision allows them, widened when they are gathered."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec

ROWS, WIDTH = 1024, 64
TABLE = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
TABLE[7] = 0
FEEDS = {"i": np.array([[0, 7, ROWS - 1], [-1, 5, 5]])}
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def model():
    nodes = [helper.make_node("Gather", ["t", "i"], ["g"]), helper.make_node("MatMul", ["g", "w"], ["y"])]
    weight = np.random.default_rng(1).standard_normal((WIDTH, 8)).astype(np.float32)
    constants = [numpy_helper.from_array(TABLE, "t"), numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("i", TensorProto.INT64, (2, 3))],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3, 8))], constants)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("precision", BYTES)
def test_tables_take_what_the_precision_allows(precision):
    options = {"precision": precision, "tune": "off", "max_error": 0.05}
    wide, compact = (sparsec.compile(model(), optimize=goal, **options) for goal in ("latency", "balanced"))
    sizes = [sum(array.nbytes for array in each.constants() if array.size >= TABLE.size) for each in (wide, compact)]
    assert sizes == [4 * TABLE.size, BYTES[precision] * TABLE.size]
    expected, actual = (sparsec.InferenceSession(each).run(None, FEEDS)[0] for each in (wide, compact))
    assert np.abs(actual - expected).max() <= (0 if precision == "fp32" else 0.02) * np.abs(expected).max()
