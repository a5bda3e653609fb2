"""Every operator takes every type that ONNX allows it, as onnxruntime or else ONNX's reference computes it."""

import pytest
from onnx import defs

from sparsec.errors import UnsupportedOperatorError
from tests.numbers.recipes import model, versions
from tests.numbers.references import random_feeds, run_onnx, run_ort, run_ours, same

TYPES = ("double", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")

ELSE = {
    "Cast": "its graph gives the types of outputs", "GridSample": "its grid stays float",
    "Upsample": "onnxruntime and ONNX round integers each in its own way",
    "ReduceLogSumExp-int32": "onnxruntime rounds every term", "ReduceLogSumExp-int64": "onnxruntime rounds every term",
    "ReduceSumSquare-uint32": "onnxruntime has no kernel, and ONNX's reference answers another type"}


def cases():
    """(opset, graph of another type than float) of the newest version of every operator."""
    newest = {operator: (opset, text) for operator, opset, text in versions() if "= {" not in text}
    for operator, (opset, text) in newest.items():
        schema = defs.get_schema(operator, opset)
        constraints = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
        allowed = constraints.get(schema.inputs[0].type_str, ()) if schema.inputs else ()
        for name in TYPES:
            if f"tensor({name})" in allowed and not {operator, f"{operator}-{name}"} & {*ELSE}:
                yield pytest.param(opset, text.replace("float", name), id=f"{operator}-{name}")


@pytest.mark.sampled(0.15)
@pytest.mark.parametrize(("opset", "text"), cases())
def test_an_operator_of_a_type(opset, text):
    proto = model(opset, text)
    feeds = random_feeds(proto)
    expected = [each for each in (run_ort(proto, feeds), run_onnx(proto, feeds)) if each is not None]
    if not expected:
        pytest.skip("no reference computes it")
    actual = run_ours(proto, feeds)
    assert any(all(same(a, b, zero_signs=False).all() for a, b in zip(actual, each, strict=True)) for each in expected)


def test_what_nothing_implements_is_refused_by_name():
    graph = "(float[1,1,4,4] x, float[1,5] rois) => (float[1,1,2,2] y) { y = MaxRoiPool<pooled_shape=[2,2]>(x, rois) }"
    with pytest.raises(UnsupportedOperatorError, match=r"node 'y': MaxRoiPool .* no implementation of this operator"):
        run_ours(model(22, graph), {})


@pytest.mark.parametrize("drawn", ["RandomNormalLike(x)", "RandomUniform<shape=[2,3]>()", "Bernoulli(x)"])
@pytest.mark.parametrize("rows", [2, "n"])
def test_random_numbers_are_refused_by_name(drawn, rows):
    graph = f"(float[{rows},3] x) => (float[{rows},3] y) {{ noise = {drawn} y = Add(x, noise) }}"
    with pytest.raises(UnsupportedOperatorError, match="random numbers are drawn by 'noise'"):
        run_ours(model(22, graph), {})
