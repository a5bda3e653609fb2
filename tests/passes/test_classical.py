"""Linear models of ai.onnx.ml, written out in ONNX's operators, give what onnxruntime's kernels give, in every form."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import sparsec
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.compare import run_onnxruntime
from sparsec.passes.contributed import classical

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype(np.float32)
X[2], X[3] = 0, -np.abs(X[3])
LOST = np.where(X > 0.5, np.float32(np.nan), X)
WEIGHT, SCALES = [1.0, -2.0, 0.5, -0.3, 0.7, 1.1, 0.2, 0.1, -0.4], {"offset": [1.0, 2.0, 3.0], "scale": [2.0, 3.0, 4.0]}
ONE, THREE = {"coefficients": WEIGHT[:3], "intercepts": [0.1]}, {"coefficients": WEIGHT, "intercepts": [0.1, -0.1, 0.3]}
PAIR, MANY = {**ONE, "classlabels_ints": [5, 9]}, {**THREE, "classlabels_ints": [7, 3, 5]}
SVM = {"kernel_type": "LINEAR", "rho": [0.3], "kernel_params": [1.0, 0.0, 3.0]}

CASES = {  # name -> (operator, inputs, attributes, element types of the outputs)
    "regressor": ("LinearRegressor", [X], ONE, "f"),
    "regressor of a row": ("LinearRegressor", [X[0]], ONE, "f"),
    "regressor without intercepts": ("LinearRegressor", [X], {"coefficients": WEIGHT, "targets": 3}, "f"),
    **{f"regressor {name.lower()}": ("LinearRegressor", [X], {**THREE, "targets": 3, "post_transform": name}, "f")
       for name in ("NONE", "LOGISTIC", "SOFTMAX")},
    "one target is not transformed": ("LinearRegressor", [X], {**ONE, "post_transform": "LOGISTIC"}, "f"),
    **{f"classifier {name.lower()}": ("LinearClassifier", [X], {**MANY, "post_transform": name}, "if")
       for name in ("NONE", "LOGISTIC", "SOFTMAX")},
    **{f"two labels {name.lower()}": ("LinearClassifier", [X], {**PAIR, "post_transform": name}, "if")
       for name in ("NONE", "LOGISTIC", "SOFTMAX")},
    "classifier of integers": ("LinearClassifier", [np.int64(X * 3)], MANY, "if"),
    "classifier of doubles": ("LinearClassifier", [np.float64(X)], MANY, "if"),
    "classifier of a row": ("LinearClassifier", [X[0]], PAIR, "if"),
    "support vectors": ("SVMRegressor", [X], {**SVM, "n_supports": 2, "coefficients": [2.0, 1.0],
                                              "support_vectors": WEIGHT[:6]}, "f"),
    "linear support vector machine": ("SVMRegressor", [X], {**SVM, "n_supports": 0, "coefficients": WEIGHT[:3]}, "f"),
    "scaler": ("Scaler", [X], SCALES, "f"),
    "scaler, one for all": ("Scaler", [X], {"offset": [1.0], "scale": [2.0]}, "f"),
    "scaler of doubles": ("Scaler", [np.float64(X)], SCALES, "f"),
    "scaler of integers": ("Scaler", [np.int32(X * 3)], SCALES, "f"),
    **{f"normalizer {name}": ("Normalizer", [X], {"norm": name}, "f") for name in ("MAX", "L1", "L2")},
    "normalizer of a row": ("Normalizer", [np.int64(X[0] * 9)], {"norm": "L2"}, "f"),
    "imputer": ("Imputer", [LOST], {"imputed_value_floats": [7.0, 8.0, 9.0], "replaced_value_float": np.nan}, "f"),
    "imputer of zeros": ("Imputer", [X], {"imputed_value_floats": [7.0]}, "f"),
    "imputer of integers": ("Imputer", [np.int64(X * 3)], {"imputed_value_int64s": [70, 71, 72],
                                                          "replaced_value_int64": 1}, "i"),
    "binarizer": ("Binarizer", [X], {"threshold": 0.1}, "f"),
    "features": ("ArrayFeatureExtractor", [X, np.array([2, 0])], {}, "f"),
    "features of a row": ("ArrayFeatureExtractor", [X[0], np.array([2, 0])], {}, "f"),
    "features of integers": ("ArrayFeatureExtractor", [np.int64(X * 9)[None], np.array([[1]])], {}, "i"),
}
TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}


def model(operator, inputs, attributes, kinds):
    names = [f"x{index}" for index in range(len(inputs))]
    node = helper.make_node(operator, names, [f"y{index}" for index in range(len(kinds))], name="node",
                            domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
                      for name, x in zip(names, inputs, strict=True)],
        [helper.make_tensor_value_info(name, TYPES[kind], None) for name, kind in zip(node.output, kinds, strict=True)])
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17),
                                                                  helper.make_opsetid("ai.onnx.ml", 3)])
    return proto, dict(zip(names, inputs, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_linear_models_equal_onnxruntimes_kernels(name):
    proto, feeds = model(*CASES[name])
    expected = run_onnxruntime(proto, feeds)
    for value, array in zip(proto.graph.output, expected, strict=True):
        value.type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(1, array.shape).tensor_type.shape)
    session = sparsec.InferenceSession(sparsec.compile(proto, tune="off", verify=False))
    for found, wanted in zip(session.run(None, feeds), expected, strict=True):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_every_operator_is_met():
    assert {operator for operator, *_ in CASES.values()} == set(classical.WRITERS)


@pytest.mark.parametrize(("operator", "attributes", "kinds", "reason"), [
    ("LinearRegressor", {"coefficients": [1.0, 2.0], "intercepts": [0.0]}, "f", "2 coefficients and 1 intercepts"),
    ("LinearClassifier", {**MANY, "post_transform": "PROBIT"}, "if", "its post_transform is PROBIT"),
    ("LinearClassifier", {**ONE, "classlabels_ints": [1, 2, 3]}, "if", "3 labels for 1 scores"),
    ("Scaler", {"offset": [1.0, 2.0], "scale": [1.0]}, "f", "2 offsets for 3 features"),
    ("Scaler", {"offset": [1.0, 2.0, 3.0], "scale": [1.0]}, "f", "3 offsets and 1 scales"),
    ("Normalizer", {"norm": "L3"}, "f", "its norm is L3"),
    ("Imputer", {"imputed_value_int64s": [1]}, "f", "0 values for 3 features"),
    ("SVMRegressor", {**SVM, "kernel_type": "RBF"}, "f", "kernel is not linear")])
def test_forms_that_are_not_taken_are_refused_by_name(operator, attributes, kinds, reason):
    proto, _ = model(operator, [X], attributes, kinds)
    for value in proto.graph.output:
        value.type.tensor_type.shape.dim.add().dim_param = "n"
    with pytest.raises(UnsupportedOperatorError, match=f"'node'.*{operator}.*({reason}).*run this part before"):
        sparsec.compile(proto, tune="off")
