"""Every combination of Resize's attributes gives what ONNX's reference or onnxruntime computes.

`SPARSEC_FUZZ_EXAMPLES` tries all of them; otherwise a fixed sample is.
"""

import itertools
import os

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.numbers.references import run_onnx, run_ort, run_ours, same

COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
               "tf_crop_and_resize")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = ((2.0, 1.5), (2.25, 0.6), (0.5, 3.0), (1.0, 0.25))
SIZES = ((8, 7), (9, 3), (2, 15), (1, 5))
IMAGE = (1, 2, 4, 5)
EVERY = bool(os.environ.get("SPARSEC_FUZZ_EXAMPLES"))


def combinations():
    """(attributes, scales or sizes) of all combinations that ONNX allows."""
    for mode, coordinates, pair in itertools.product(("nearest", "linear", "cubic"), COORDINATES, (*SCALES, *SIZES)):
        extras = {"nearest": [{"nearest_mode": each} for each in NEAREST],
                  "linear": [{"antialias": each} for each in (0, 1)],
                  "cubic": [{"cubic_coeff_a": a, "exclude_outside": e, "antialias": n}
                            for a, e, n in itertools.product((-0.75, -0.5), (0, 1), (0, 1))]}[mode]
        policies = ("stretch",) if isinstance(pair[0], float) else ("stretch", "not_larger", "not_smaller")
        for extra, policy, axes in itertools.product(extras, policies, (None, [2, 3], [3, 2])):
            if not (coordinates == "tf_crop_and_resize" and extra.get("antialias")) and (policy == "stretch" or axes):
                yield {"mode": mode, "coordinate_transformation_mode": coordinates, **extra,
                       "keep_aspect_ratio_policy": policy, **({} if axes is None else {"axes": axes})}, pair


def resize(name, attributes, pair):
    """The node and the constants that it reads."""
    pair = pair if attributes.get("axes") != [3, 2] else pair[::-1]
    scaled, whole = isinstance(pair[0], float), "axes" not in attributes
    values = np.array([*IMAGE[:2], *pair] if whole and not scaled else [1, 1, *pair] if whole else pair,
                      np.float32 if scaled else np.int64)
    crop = attributes["coordinate_transformation_mode"] == "tf_crop_and_resize"
    region = np.float32([0, 0, 0.13, -0.21, 1, 1, 0.83, 1.29] if whole else [0.13, -0.21, 0.83, 1.29])
    inputs = ["x", f"{name}_r" if crop else "", *([f"{name}_v"] if scaled else ["", f"{name}_v"])]
    constants = [numpy_helper.from_array(values, f"{name}_v"),
                 *([numpy_helper.from_array(region, f"{name}_r")] if crop else [])]
    kept = {key: value for key, value in attributes.items() if key != "keep_aspect_ratio_policy" or not scaled}
    return helper.make_node("Resize", inputs, [name], **kept), constants


def model(nodes, constants):
    """A model of Resize nodes of one image."""
    outputs = [helper.make_tensor_value_info(node.output[0], 1, [None] * 4) for node in nodes]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, IMAGE)], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


ALL = list(combinations())
CHUNK = 40
CHOSEN = ALL if EVERY else [ALL[i] for i in np.random.default_rng(0).choice(len(ALL), 2 * CHUNK, replace=False)]


@pytest.mark.parametrize("start", range(0, len(CHOSEN), CHUNK))
def test_resize(start):
    x = np.random.default_rng(1).standard_normal(IMAGE).astype(np.float32)
    cases = [(attributes, pair, *resize(f"y{i}", attributes, pair))
             for i, (attributes, pair) in enumerate(CHOSEN[start:start + CHUNK])]
    expected = [[run(model([node], constants), {"x": x}) for run in (run_onnx, run_ort)]
                for _, _, node, constants in cases]
    known = [i for i, each in enumerate(expected) if any(result is not None for result in each)]
    whole = model([cases[i][2] for i in known], [constant for i in known for constant in cases[i][3]])
    results = run_ours(whole, {"x": x})
    wrong = [cases[i][:2] for i, result in zip(known, results, strict=True) if not any(
        each is not None and same(result, each[0], zero_signs=False, tolerance=1e-5).all() for each in expected[i])]
    assert not wrong
    assert len(known) > CHUNK / 2
