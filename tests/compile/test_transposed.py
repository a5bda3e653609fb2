"""Transposed convolutions between compiled stages are onnxruntime's, whatever their groups, padding and sizes."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from sparsec.graph.ort import session
from sparsec.runtime.sized.images import OPERATORS

CASES = {  # shape of the input, of the weight, attributes
    "plain": ((2, 4, 5, 7), (4, 3, 3, 2), {}),
    "groups": ((1, 6, 4, 5), (6, 2, 3, 3), {"group": 3, "strides": [2, 3], "pads": [1, 0, 1, 2],
                                            "output_padding": [1, 0]}),
    "dilated": ((1, 2, 5, 5), (2, 3, 3, 3), {"dilations": [2, 1], "strides": [2, 2]}),
    "gaps": ((1, 2, 3, 3), (2, 3, 2, 2), {"strides": [3, 3], "output_shape": [9, 9]}),
    "same upper": ((1, 2, 5, 5), (2, 3, 3, 4), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "same lower": ((1, 2, 5, 5), (2, 3, 3, 4), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "valid": ((1, 2, 5, 5), (2, 3, 3, 3), {"strides": [2, 2], "auto_pad": "VALID"}),
    "told": ((1, 2, 5, 5), (2, 3, 4, 3), {"strides": [3, 2], "output_shape": [11, 10]}),
    "sequence": ((1, 3, 9), (3, 4, 5), {"strides": [3], "pads": [2, 1]}),
}


@pytest.mark.parametrize("case", CASES)
def test_transposed_convolution(case, tmp_path):
    shape, weights, attributes = CASES[case]
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal(shape).astype(np.float32), "w": rng.standard_normal(weights).astype(np.float32),
             "b": rng.standard_normal(weights[1] * attributes.get("group", 1)).astype(np.float32)}
    node = helper.make_node("ConvTranspose", list(feeds), ["y"], **attributes)
    graph = helper.make_graph(
        [node], "transposed", [helper.make_tensor_value_info(name, TensorProto.FLOAT, each.shape)
                               for name, each in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    path = tmp_path / "transposed.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)],
                                       ir_version=9).SerializeToString())
    expected = session(path, 1).run(None, feeds)[0]
    found = OPERATORS["ConvTranspose"](list(feeds.values()), attributes)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
