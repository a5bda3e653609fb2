"""Models run by sparsec, by onnxruntime and by ONNX's reference implementation, and how their numbers compare."""

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator

import sparsec
from sparsec.graph import ort

TOLERANCES = {"float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-5}


def run_ours(model, feeds, target="cpu", **options):
    """The outputs of the compiled model."""
    artifact = sparsec.compile(model, target, tune="off", verify=False, **options)
    return sparsec.InferenceSession(artifact).run(None, feeds)


def run_onnx(model, feeds):
    """The outputs of ONNX's reference implementation, or None where it fails."""
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(each) for each in ReferenceEvaluator(model).run(None, feeds)]
    except Exception:  # noqa: BLE001 - it fails with any type
        return None


def run_ort(model, feeds):
    """The outputs of onnxruntime, or None where it has no kernel."""
    try:
        return ort.session(model).run(None, feeds)
    except Exception:  # noqa: BLE001 - onnxruntime's errors have no public base
        return None


def same(a, b, *, zero_signs=True, tolerance=None):
    """Where two arrays have the same numbers: NaN, infinities and the signs of zeros exactly, others nearly."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return np.zeros(a.shape, bool)
    if a.dtype.kind in "biu":
        return a == b
    tolerance, x, y = tolerance or TOLERANCES.get(a.dtype.name, 2e-6), a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        close = np.isclose(x, y, rtol=tolerance, atol=tolerance / 2, equal_nan=True)
    return close & ~((x == 0) & (y == 0) & (np.signbit(x) != np.signbit(y))) if zero_signs else close


def random_feeds(model, seed=0):
    """Normal floats, integers of 0 and 1."""
    rng = np.random.default_rng(seed)
    feeds = {}
    constants = {each.name for each in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in constants:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            dtype = onnx_dtype(value)
            array = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
            feeds[value.name] = np.asarray(array, dtype)
    return feeds


def onnx_dtype(value):
    """numpy's type of a value."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
