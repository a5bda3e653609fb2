"""Quantised layers in their layouts: every option of every target gives the reference's codes."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from sparsec.backends.cpu.planning import layer_options
from sparsec.cost.plan import CHOICE, choose
from sparsec.graph.evaluate import evaluate
from sparsec.graph.layout import Plain, layout_of
from sparsec.graph.reader import load
from sparsec.passes import layout
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.integers import Maker, codes
from tests.support.targets import TARGETS
from tests.support.vm import compile_and_run


def model_of(nodes, maker, constants):
    inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
              for name, array in maker.feeds.items()]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    output = helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph(nodes, "g", inputs, [output], initializers)
    return load(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20),
                                                                       helper.make_opsetid("sparsec", 1)]))


def product(operator, seed, shape, weight_shape, y_shape, *, y_type=None, **attributes):
    """A model of one product of codes with a sparse weight, and its inputs."""
    m = Maker(seed)
    m.activation("x", shape)
    outputs = weight_shape[0]
    zero = m.pick(None, codes(m.r, outputs, np.int8))
    zeros = np.int8(0) if zero is None else zero.reshape(-1, *[1] * (len(weight_shape) - 1))
    m.constant("w", np.where(m.r.random(weight_shape) < 0.3, codes(m.r, weight_shape, np.int8), zeros))
    m.constant("w_scale", m.r.uniform(0.001, 0.01, outputs).astype(np.float32))
    m.constant("w_zero_point", zero)
    m.constant("b", m.pick(None, m.r.integers(-20000, 20000, outputs).astype(np.int32)))
    spread = np.sqrt(np.prod(weight_shape[1:]) / 3)
    y_type = m.result(spread, y_type=y_type)
    m.epilogue(y_shape, spread, y_type) if len(y_shape) < 4 or y_type != "float32" else None
    m.attributes |= attributes
    node = helper.make_node(operator, m.inputs, ["y"], "layer", domain="sparsec", **m.attributes)
    return model_of([node], m, m.constants), m.feeds


CONVOLUTIONS = {
    "small": ((1, 70, 3, 4), (70, 70, 3, 3), (1, 70, 3, 4), {"pads": [1, 1, 1, 1]}),
    "small strided": ((2, 40, 5, 4), (8, 40, 3, 3), (2, 8, 3, 2), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "pointwise": ((1, 6, 9, 7), (8, 6, 1, 1), (1, 8, 9, 7), {}),
    "padded": ((2, 5, 9, 11), (12, 5, 3, 3), (2, 12, 9, 11), {"pads": [1, 1, 1, 1]}),
    "strided": ((2, 5, 10, 11), (12, 5, 3, 3), (2, 12, 5, 6), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "thinned": ((1, 6, 9, 10), (8, 6, 1, 1), (1, 8, 5, 5), {"strides": [2, 2]}),
    "grouped": ((1, 6, 8, 8), (8, 3, 3, 3), (1, 8, 6, 6), {"group": 2}),
    "depthwise": ((2, 6, 9, 8), (6, 1, 3, 3), (2, 6, 9, 8), {"group": 6, "pads": [1, 1, 1, 1]}),
    "depthwise strided": ((1, 6, 9, 8), (6, 1, 3, 3), (1, 6, 5, 4),
                          {"group": 6, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "sequence": ((2, 4, 40), (8, 4, 3), (2, 8, 40), {"pads": [1, 1]}),
}


def check(model, feeds, target, seed, few=2):
    """Kernel families in turn, from one that the seed decides on, each with some tiling, give the reference's codes."""
    expected, = evaluate(model, feeds)
    layout.run(model, Context(target=target))
    layers = [node for node in model.graph if layer_options(node, target, 1)]
    options = {node: layer_options(node, target, 1) for node in layers}
    rng = np.random.default_rng(seed)
    for run in range(seed * few, (seed + 1) * few if layers else seed * few + 1):
        for node in layers:
            families = sorted({option.kernel for option in options[node]})
            offers = [option for option in options[node] if option.kernel == families[run % len(families)]]
            CHOICE.set(node, choose(node.name, [offers[rng.integers(len(offers))]]))
        actual, = compile_and_run(model, feeds, target.name)
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        if expected.dtype == np.float32:
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize("target", [*TARGETS, "cpu"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_of_codes_equal_their_reference(kind, seed, target):
    shape, weight, y, attributes = CONVOLUTIONS[kind]
    model, feeds = product("QConv", seed, shape, weight, y, y_type=("uint8", "int8")[seed % 2], **attributes)
    check(model, feeds, resolve(target), seed)
    assert any(not isinstance(layout_of(value), Plain) for node in model.graph for value in node.outputs)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(4))
def test_linear_layers_of_codes_equal_their_reference(seed, target):
    model, feeds = product("QMatMul", seed, (70, 20), (12, 20), (70, 12))
    check(model, feeds, resolve(target), seed)


@pytest.mark.parametrize("target", [*TARGETS, "cpu"])
@pytest.mark.parametrize("seed", range(4))
def test_few_rows_of_codes_equal_their_reference(seed, target):
    model, feeds = product("QMatMul", seed, (1 + seed % 3, 150), (77, 150), (1 + seed % 3, 77))
    check(model, feeds, resolve(target), seed)


SINGLES = {
    "gates": ((1, 6, 9, 7), (8, 6, 1, 1), (1, 8, 1, 1)),
    "channels": ((1, 6, 9, 7), (8, 6, 1, 1), (8, 1, 1)),
    "one": ((1, 6, 9, 7), (8, 6, 1, 1), (1,)),
    "features": ((70, 20), (12, 20), (12,)),
    "images": ((2, 6, 9, 7), (8, 6, 1, 1), (2, 8, 1, 1)),  # in ONNX's operators
    "columns": ((1, 6, 9, 7), (8, 6, 1, 1), (7,)),
}


@pytest.mark.sampled(0.4)
@pytest.mark.parametrize("target", [*TARGETS, "cpu"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", SINGLES)
def test_a_code_for_each_channel_joins_codes_in_their_layout(kind, seed, target):
    shape, weight, single = SINGLES[kind]
    m = Maker(seed)
    operator = "QMatMul" if len(shape) == 2 else "QConv"
    m.activation("x", shape)
    m.constant("w", codes(m.r, weight, np.int8))
    m.constant("w_scale", m.r.uniform(0.001, 0.01, weight[0]).astype(np.float32))
    m.result(4)
    layer = helper.make_node(operator, m.inputs, ["made"], "layer", domain="sparsec", **m.attributes)
    made = {name: m.attributes[f"y_{name}"] for name in ("scale", "zero_point")}
    m.attributes, m.inputs = {}, []
    first, second = m.pick("ab", "ba")
    m.activation(second, single)
    m.result(1)
    m.attributes |= {f"{first}_{name}": value for name, value in made.items()}
    names = {first: "made", second: second}
    binary = helper.make_node("QBinary", [names["a"], names["b"]], ["y"], "binary", domain="sparsec",
                              function=("add", "sub", "mul")[m.r.integers(3)], **m.attributes)
    model, is_own = model_of([layer, binary], m, m.constants), kind not in ("images", "columns")
    check(model, m.feeds, resolve(target), seed)
    assert isinstance(layout_of(next(n for n in model.graph if n.name == "binary").outputs[0]), Plain) is not is_own
