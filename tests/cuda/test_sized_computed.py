"""What lies between stages of rows at run-time sizes is computed on the GPU: emulated kernels beside onnxruntime."""

import numpy as np
import onnx
import onnxruntime
import pytest

from sparsec.backends.cuda.computed import kernels_of
from sparsec.cost.precisions import HALF_PRECISIONS
from sparsec.kernels.cuda import sized_reduce
from tests.support.cuda import networks
from tests.support.cuda.emulator import emulate
from tests.support.cuda.sized import Compiled

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
FLOAT, INT, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
SIZES = ((1, 1), (2, 7), (3, 70))


def check(g, made, sizes=SIZES, error=HALF_PRECISIONS["fp16"], types=()):
    """Compile for any batch and number of tokens; everything runs on the GPU and agrees with onnxruntime."""
    model = g.model({"x": (FLOAT, ["batch", "tokens", 16])}, {name: [None] * rank for name, rank in made.items()})
    for value in model.graph.output:
        value.type.tensor_type.elem_type = dict(types).get(value.name, FLOAT)
    compiled, session = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    assert not compiled.artifact.report["outside"]
    for batch, tokens in sizes:
        for seed in range(2):  # the second call replays what the first has recorded
            feeds = {"x": np.random.default_rng(seed).standard_normal((batch, tokens, 16)).astype(np.float32)}
            for name, own, other in zip(made, compiled(feeds), session.run(list(made), feeds), strict=True):
                assert (own.dtype, own.shape) == (other.dtype, other.shape), name
                if own.dtype != np.float32:
                    assert (own == other).mean() > 0.95, name  # near ties are rounded otherwise
                else:
                    assert np.abs(own - other).max(initial=0) <= error * max(1, np.abs(other).max(initial=0)), name
    assert compiled.runner._lane.recorded <= len(sizes) + 1  # one graph each
    return compiled


def linear(g, width=12):
    """A layer's output (batch, tokens, width), which the GPU has."""
    return g.linear("x", width, 16)


@pytest.mark.parametrize("axes", [[1], [0, 1], [0, 2], [0], [1, 2]])
def test_reductions_take_any_axes(axes):
    g, made = networks.Graph(), {}
    x = g("Sigmoid", linear(g))
    for index, kind in enumerate(sized_reduce.KINDS):
        name = g(kind, x, g.constant(np.array(axes)), keepdims=index % 2, name=kind)
        made[name] = 3 if index % 2 else 3 - len(axes)
    check(g, made)


def test_few_results_of_many_elements_are_shared_by_blocks():
    g = networks.Graph()
    g("ReduceMean", linear(g), g.constant(np.array([1])), keepdims=0, name="mean")
    compiled = check(g, {"mean": 2}, ((1, 3000),))
    assert "ReduceMean_float32_float32" in compiled.program._kernels.lowered  # of what blocks have left


def test_operands_are_spread_over_each_other():
    g, made, types = networks.Graph(), {}, {}
    x = linear(g)
    mean = g("ReduceMean", x, g.constant(np.array([1])), keepdims=1)
    for operator in ("Add", "Sub", "Mul", "Max", "Min", "PRelu"):
        made[g(operator, x, mean, name=operator)] = 3
    g("Div", mean, g("Exp", x), name="Div")
    g("Pow", g("Abs", mean), g("Sigmoid", x), name="Pow")
    for operator in ("Greater", "LessOrEqual"):
        types[g(operator, x, mean, name=operator)] = BOOL
    g("Where", "Greater", x, mean, name="Where")
    both = g("And", "Greater", g("Not", "LessOrEqual"), name="And")
    check(g, {**made, "Div": 3, "Pow": 3, **dict.fromkeys(types, 3), "Where": 3, both: 3}, types={**types, both: BOOL})


def test_softmax_orders_and_choices_along_the_tokens():
    g = networks.Graph()
    x = linear(g)
    g("Softmax", x, axis=1, name="shares")
    g("LogSoftmax", x, axis=1, name="logs")
    g("ArgMax", x, axis=1, keepdims=0, name="last", select_last_index=1)
    g("ArgMin", x, axis=1, name="least")
    g("Gather", x, g.constant(np.array([0, -1, 0])), axis=1, name="some")
    g("GatherElements", x, "least", axis=1, name="smallest")
    g("Expand", g("ReduceMax", x, g.constant(np.array([1]))), g("Shape", x), name="wide")
    check(g, {"shares": 3, "logs": 3, "last": 2, "least": 3, "some": 3, "smallest": 3, "wide": 3},
          types={"last": INT, "least": INT})


@pytest.mark.parametrize("largest", [0, 1])
def test_the_first_of_all_tokens(largest):
    g = networks.Graph()
    g.nodes.append(onnx.helper.make_node("TopK", [linear(g), g.constant(np.array([3]))], ["top", "places"], axis=1,
                                         largest=largest))
    check(g, {"top": 3, "places": 3}, ((1, 3), (2, 40)), types={"places": INT})


def test_products_of_computed_matrices():
    g = networks.Graph()
    x = linear(g, 20)
    scores = g("MatMul", x, g("Transpose", x, perm=[0, 2, 1]), name="scores")
    g("MatMul", g("Softmax", scores, axis=-1), x, name="mixed")
    check(g, {"scores": 3, "mixed": 3}, ((1, 1), (2, 7), (2, 70)))


def test_norms_and_activations_of_what_lies_between_are_compiled():
    g = networks.Graph()
    x = linear(g, 32)
    y = g.norm(g("Mul", x, g("ReduceMean", x, g.constant(np.array([1])))), 32)
    g("HardSwish", y, name="y")
    check(g, {"y": 3})


def test_nan_is_the_largest_and_the_least_of_all():
    g = networks.Graph()
    x = g("Add", linear(g, 16), "x", name="sums")
    g("ReduceMin", x, g.constant(np.array([1])), name="least")
    g("Max", x, g("ReduceMax", x, g.constant(np.array([0]))), name="largest")
    model = g.model({"x": (FLOAT, ["batch", "tokens", 16])}, dict.fromkeys(("sums", "least", "largest"), [None] * 3))
    compiled = Compiled(model, "cuda-sm80")
    for bad in (np.nan, np.inf, -np.inf):
        x = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
        x[1, 3, 2] = bad
        sums, least, largest = compiled({"x": x})
        assert np.array_equal(least, sums.min(1, keepdims=True), equal_nan=True)
        assert np.array_equal(largest, np.maximum(sums, sums.max(0, keepdims=True)), equal_nan=True)


@pytest.mark.parametrize(("operator", "given", "made"), [
    ("ReduceSum", ["int64"], "int64"), ("Add", ["float32", "int64"], "float32"), ("Max", ["float32"], "float32"),
    ("And", ["float32", "bool"], "bool"), ("Gather", ["float32"] * 2, "float32"), ("Mod", ["int64"] * 2, "int64")])
def test_element_types_without_a_kernel_say_so(operator, given, made):
    assert f"there is no kernel of '{operator}' of {given[0]}" in kernels_of(operator, given, made)
