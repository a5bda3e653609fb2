"""Linear models and what prepares their features (domain ai.onnx.ml), as scikit-learn's exporter writes them.

Definitions follow ONNX's docs/Operators-ml.md and, where that is silent, onnxruntime's kernels for CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.passes.contributed.body import Body

DOMAIN = "ai.onnx.ml"
ROWS = 2
"""Dimensions of rows of features."""


def _reals(b: Body, name: str) -> list[float]:
    """An attribute of floats; none where it is absent."""
    return list(b.node.attributes.get_floats(name, []) or [])


def _ints(b: Body, name: str) -> list[int]:
    """An attribute of integers; none where it is absent."""
    return list(b.node.attributes.get_ints(name, []) or [])


def _word(b: Body, name: str, default: str) -> str:
    """A string attribute."""
    return b.node.attributes.get_string(name, default) or default


def _floats(b: Body, x: ir.Value) -> ir.Value:
    """A value as float32: these operators compute so whatever they are given."""
    return x if b.needed(0).dtype == ir.DataType.FLOAT else b.put("Cast", x, to=int(ir.DataType.FLOAT))


def _rows(b: Body) -> ir.Value:
    """The first input as a matrix of rows and features; a vector is one row of it."""
    x = b.needed(0)
    if not 1 <= b.rank(x) <= ROWS:
        raise b.refused(f"its input has {b.rank(x)} dimensions, which are to be rows and features")
    return x if b.rank(x) == ROWS else b.reshape(x, 1, -1)


def _check_features(b: Body, count: int, what: str) -> None:
    """Refuse other numbers of parameters than one a feature, or one for all."""
    x = b.needed(0)
    size = x.shape[-1] if b.rank(x) and x.shape is not None else 1
    if not count or (isinstance(size, int) and count not in (1, size)):
        raise b.refused(f"it has {count} {what} for {size} features")


def _product(b: Body, weight: list[float], bias: list[float], outputs: int) -> ir.Value:
    """The rows times the transposed weight of so many rows, plus a bias where there is one."""
    x, shape = _floats(b, _rows(b)), b.needed(0).shape
    size = None if shape is None else shape[-1]
    features = size if isinstance(size, int) else len(weight) // max(outputs, 1)
    if not weight or len(weight) != outputs * features or len(bias) not in (0, outputs):
        raise b.refused(f"{len(weight)} coefficients and {len(bias)} intercepts are not those of {outputs} results "
                        f"from {features} features")
    y = b.put("MatMul", x, b.constant(np.array(weight, np.float32).reshape(outputs, -1).T))
    return b.put("Add", y, b.constant(bias)) if bias else y


def _transformed(b: Body, scores: ir.Value) -> ir.Value:
    """Scores after the attribute `post_transform`."""
    name = _transform(b)
    return b.put("Softmax", scores, axis=-1) if name == "SOFTMAX" else b.put("Sigmoid", scores) if name == "LOGISTIC" \
        else scores


def _transform(b: Body) -> str:
    name = _word(b, "post_transform", "NONE")
    if name not in ("NONE", "LOGISTIC", "SOFTMAX"):
        raise b.refused(f"its post_transform is {name}")
    return name


def linear_regressor(b: Body) -> None:
    """X @ coefficients^T + intercepts; a single target is not transformed."""
    targets = b.integer("targets", 1)
    y = _product(b, _reals(b, "coefficients"), _reals(b, "intercepts"), targets)
    b.result(0, _transformed(b, y) if targets > 1 else y)


def linear_classifier(b: Body) -> None:
    """The label of the largest score, and the scores; two labels may share one score, positive for the second."""
    labels, bias = _ints(b, "classlabels_ints"), _reals(b, "intercepts")
    if not labels:
        raise b.refused("its labels are strings; export integer labels")
    pair = len(bias) == 1 and len(labels) == 2
    if not bias or not (pair or len(bias) == len(labels)):
        raise b.refused(f"it has {len(labels)} labels for {len(bias)} scores")
    scores = _product(b, _reals(b, "coefficients"), bias, len(bias))
    if pair:
        positive = b.put("Greater", scores, b.constant(0.0))
        best = b.put("Cast", b.reshape(positive, -1), to=int(ir.DataType.INT64))
    else:
        best = b.put("ArgMax", scores, axis=-1, keepdims=0)
    b.result(0, b.put("Gather", b.integers(*labels), best))
    b.result(1, _pair(b, scores) if pair else _transformed(b, scores))


def _pair(b: Body, score: ir.Value) -> ir.Value:
    """The scores of both labels from that of the second."""
    if _transform(b) == "LOGISTIC":
        parts = [b.put("Sigmoid", b.put("Neg", score)), b.put("Sigmoid", score)]
    else:
        parts = [b.put("Sub", b.constant(1.0), score), score]
    return b.put("Concat", *parts, axis=-1)


def svm_regressor(b: Body) -> None:
    """A linear kernel's sum over support vectors, which is a product with one weight."""
    if _word(b, "kernel_type", "LINEAR") != "LINEAR" or b.integer("one_class"):
        raise b.refused("its kernel is not linear, or it tells outliers")
    coefficients, vectors = (np.array(_reals(b, name), np.float32) for name in ("coefficients", "support_vectors"))
    if supports := b.integer("n_supports"):
        if len(coefficients) != supports or len(vectors) % supports:
            raise b.refused(f"it has {len(coefficients)} coefficients for {supports} support vectors")
        coefficients = coefficients @ vectors.reshape(supports, -1)
    b.result(0, _product(b, coefficients.tolist(), _reals(b, "rho")[:1], 1))


def scaler(b: Body) -> None:
    """(X - offset) * scale, per feature or the same for all."""
    x, offset, scale = _floats(b, b.needed(0)), _reals(b, "offset"), _reals(b, "scale")
    _check_features(b, len(offset), "offsets")
    if len(scale) != len(offset):
        raise b.refused(f"it has {len(offset)} offsets and {len(scale)} scales")
    b.result(0, b.put("Mul", b.put("Sub", x, b.constant(offset)), b.constant(scale)))


def normalizer(b: Body) -> None:
    """Every row over its largest element, or its norm; rows of norm 0 stay."""
    x, kind = _floats(b, b.needed(0)), _word(b, "norm", "MAX")
    if kind not in NORMS:
        raise b.refused(f"its norm is {kind}")
    if b.rank(b.needed(0)) > ROWS:
        raise b.refused("its input has more dimensions than rows and features")
    size = NORMS[kind](b, x)
    size = b.put("Where", b.put("Equal", size, b.constant(0.0)), b.constant(1.0), size)
    b.result(0, b.put("Div", x, size))


def _sum(b: Body, x: ir.Value) -> ir.Value:
    return b.put("ReduceSum", x, b.integers(-1), keepdims=1)


NORMS: dict[str, Callable[[Body, ir.Value], ir.Value]] = {
    "MAX": lambda b, x: b.highest(x),
    "L1": lambda b, x: _sum(b, b.put("Abs", x)),
    "L2": lambda b, x: b.put("Sqrt", _sum(b, b.put("Mul", x, x))),
}


def imputer(b: Body) -> None:
    """Elements of one value, NaN among them, replaced by those given per feature or for all."""
    x = b.needed(0)
    values: NDArray[Any]
    if x.dtype == ir.DataType.FLOAT:
        values, lost = np.array(_reals(b, "imputed_value_floats"), np.float32), b.real("replaced_value_float", 0.0)
    elif x.dtype == ir.DataType.INT64:
        values, lost = np.array(_ints(b, "imputed_value_int64s"), np.int64), b.integer("replaced_value_int64")
    else:
        raise b.refused("its input is neither float32 nor int64")
    _check_features(b, len(values), "values")
    where = b.put("IsNaN", x) if np.isnan(lost) else b.put("Equal", x, b.constant(lost, values.dtype))
    b.result(0, b.put("Where", where, b.constant(values, values.dtype), x))


def binarizer(b: Body) -> None:
    """1 where an element is larger than the threshold, else 0."""
    x = b.needed(0)
    if x.dtype != ir.DataType.FLOAT:
        raise b.refused("its input is not float32")
    larger = b.put("Greater", x, b.constant(b.real("threshold", 0.0)))
    b.result(0, b.put("Cast", larger, to=int(ir.DataType.FLOAT)))


def array_feature_extractor(b: Body) -> None:
    """The features of the given indices; of a vector, as a row."""
    x, indices = b.needed(0), b.reshape(b.needed(1), -1)
    if x.dtype == ir.DataType.STRING:
        raise b.refused("its input holds strings")
    b.result(0, b.put("Gather", _rows(b) if b.rank(x) < ROWS else x, indices, axis=-1))


WRITERS: dict[str, Callable[[Body], None]] = {
    "LinearRegressor": linear_regressor, "LinearClassifier": linear_classifier, "SVMRegressor": svm_regressor,
    "Scaler": scaler, "Normalizer": normalizer, "Imputer": imputer, "Binarizer": binarizer,
    "ArrayFeatureExtractor": array_feature_extractor,
}
"""By operator of ai.onnx.ml."""
