"""Activations between compiled stages are onnxruntime's."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from sparsec.graph.ort import session
from sparsec.runtime.sized.elementwise import OPERATORS

CASES = {"Elu": {"alpha": 0.7}, "HardSigmoid": {"alpha": 0.1667}, "HardSwish": {}, "LeakyRelu": {}, "PRelu": {},
         "Selu": {}, "Softplus": {}}


@pytest.mark.parametrize("operator", CASES)
def test_activation(operator, tmp_path):
    x = np.append(np.random.default_rng(0).standard_normal(61) * 4, (0, 30, -30)).reshape(2, 4, 8).astype(np.float32)
    feeds = {"x": x} | ({"slope": np.array([0.1, 0.2, -0.3, 1], np.float32)[:, None]} if operator == "PRelu" else {})
    graph = helper.make_graph(
        [helper.make_node(operator, list(feeds), ["y"], **CASES[operator])], "activation",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, each.shape) for name, each in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    path = tmp_path / "activation.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)],
                                       ir_version=9).SerializeToString())
    found = OPERATORS[operator](list(feeds.values()), CASES[operator])[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, session(path, 1).run(None, feeds)[0], rtol=2e-5, atol=1e-6)
