"""Every operator means in every opset what that opset says, as onnxruntime or else ONNX's reference computes it."""

import pytest

from tests.numbers.recipes import model, versions
from tests.numbers.references import random_feeds, run_onnx, run_ort, run_ours, same

VERSIONS = list(versions())
UNKNOWN = {("GlobalLpPool", 22)}  # that neither reference computes
CHANGED = {  # operators whose meaning or attributes changed with a version, beside their types
    "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "Clip", "Constant", "Dropout", "Flatten",
    "GridSample", "GroupNormalization", "Hardmax", "LogSoftmax", "LpPool", "MaxPool", "Mod", "Pad", "QuantizeLinear",
    "ReduceMax", "ReduceMean", "ReduceSum", "Resize", "ScatterElements", "Slice", "Softmax", "Split", "Squeeze", "TopK",
    "Unsqueeze", "Upsample"}


def agrees(operator, opset, text):
    """Whether the compiled model computes what a reference does; onnxruntime's word counts where both have one."""
    proto = model(opset, text)
    feeds = random_feeds(proto)
    expected = [each for each in (run_ort(proto, feeds), run_onnx(proto, feeds)) if each is not None]
    assert expected, f"no reference computes {operator} of opset {opset}"
    actual = run_ours(proto, feeds)
    return any(all(same(a, b, zero_signs=False).all() for a, b in zip(actual, each, strict=True)) for each in expected)


@pytest.mark.parametrize(("operator", "opset", "text"), [
    pytest.param(*each, id=f"{each[0]}-{each[1]}") for each in VERSIONS
    if each[0] in CHANGED and each[:2] not in UNKNOWN])
def test_an_operator_of_an_opset(operator, opset, text):
    assert agrees(operator, opset, text)


def test_every_operator_that_changed_has_a_recipe():
    assert {operator for operator, _, _ in VERSIONS} >= CHANGED
