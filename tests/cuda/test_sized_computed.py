"""What lies between stages of rows at run-time sizes is computed on the GPU: emulated kernels beside onnxruntime."""

import numpy as np
import onnx
import onnxruntime
import pytest

from sparsec.backends.cuda.computed import kernels_of
from sparsec.cost.precisions import HALF_PRECISIONS
from sparsec.errors import InputError
from sparsec.kernels.cuda import sized_reduce
from tests.support.cuda import networks
from tests.support.cuda.emulator import emulate
from tests.support.cuda.sized import Compiled

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
FLOAT, INT, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
SIZES = ((1, 1), (2, 7), (3, 70))


def modelled(g, made, types=(), more=()):
    """The network, its outputs by rank and its inputs beside x."""
    model = g.model({"x": (FLOAT, ["batch", "tokens", 16]), **dict(more)},
                    {name: [None] * rank for name, rank in made.items()})
    for value in model.graph.output:
        value.type.tensor_type.elem_type = dict(types).get(value.name, FLOAT)
    return model


def on_processor(compiled):
    """How many steps the processor takes again in every call."""
    return sum("step_of" in getattr(item, "__qualname__", "") for tape in compiled.runner.tapes.values()
               for item in (*tape.items, *tape.behind))


def check(g, made, sizes=SIZES, error=HALF_PRECISIONS["fp16"], types=(), given=np.array, left=0):
    """Compile for any batch and number of tokens; all but what is `left` runs on the GPU, as onnxruntime has it."""
    model = modelled(g, made, types)
    compiled, session = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    assert len(compiled.artifact.report["outside"]) == left
    for batch, tokens in sizes:
        for seed in range(2):  # the second call replays what the first has recorded
            x = np.random.default_rng(seed).standard_normal((batch, tokens, 16))
            feeds = {"x": given(x).astype(np.float32)}
            for name, own, other in zip(made, compiled(feeds), session.run(list(made), feeds), strict=True):
                assert (own.dtype, own.shape) == (other.dtype, other.shape), name
                if own.dtype != np.float32:
                    assert np.array_equal(own, other), name
                else:
                    assert np.abs(own - other).max(initial=0) <= error * max(1, np.abs(other).max(initial=0)), name
    assert on_processor(compiled) == left * len(sizes)
    assert compiled.runner._lane.recorded <= (left + 1) * len(sizes) + 1  # one graph each
    return compiled


def linear(g, width=12):
    """A layer's output (batch, tokens, width), which the GPU has."""
    return g.linear("x", width, 16)


def quarters(x):
    """Numbers that half precision has, so that what is compared is exact and some are equal."""
    return np.round(4 * x) / 4


class Quarters(networks.Graph):
    """Layers of weights that are whole numbers."""

    def random(self, *shape):
        return np.round(2 * super().random(*shape))

    def linear(self, x, outputs, inputs, name=None):
        weight, bias = (self.constant(self.random(*shape)) for shape in ((inputs, outputs), (outputs,)))
        return self("Add", self("MatMul", x, weight), bias, name=name)


@pytest.mark.parametrize("axes", [None, []])
def test_reductions_over_no_axes_change_elements_alone(axes):
    g, made = networks.Graph(), {}
    x = g("Sigmoid", linear(g))
    for index, kind in enumerate(sized_reduce.KINDS):
        given = "" if axes is None else g.constant(np.array(axes, np.int64))
        made[g(kind, x, given, keepdims=index % 2, noop_with_empty_axes=1, name=kind)] = 3
    check(g, made)


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
    g, made, types = Quarters(), {}, {}
    x = linear(g)
    mean = g("ReduceMean", x, g.constant(np.array([1])), keepdims=1)
    for operator in ("Add", "Sub", "Mul", "Max", "Min", "PRelu"):
        made[g(operator, x, mean, name=operator)] = 3
    g("Div", mean, g("Exp", g("Sigmoid", x)), name="Div")
    g("Pow", g("Abs", mean), g("Sigmoid", x), name="Pow")
    for operator in ("Greater", "LessOrEqual"):
        types[g(operator, x, mean, name=operator)] = BOOL
    g("Where", "Greater", x, mean, name="Where")
    both = g("And", "Greater", g("Not", "LessOrEqual"), name="And")
    check(g, {**made, "Div": 3, "Pow": 3, **dict.fromkeys(types, 3), "Where": 3, both: 3}, given=quarters,
          types={**types, both: BOOL})


def test_operators_in_a_row_are_one_kernel():
    g = networks.Graph()
    x = linear(g)
    low = g("ReduceMin", x, g.constant(np.array([1])), keepdims=1)
    shifted = g("Div", g("Sub", x, low), g.constant(np.arange(1, 13, dtype=np.float32)))
    gated = g("Mul", g("Sigmoid", shifted), g("Clip", shifted, "", g.constant(np.float32(0.5))))
    g("Where", g("Not", g("Greater", low, gated)), gated, g("Neg", low), name="chosen")
    g("Add", g("Tanh", low), g.constant(np.ones((1, 1, 1, 1, 1, 2, 1), np.float32)), name="many")
    compiled = check(g, {"chosen": 3, "many": 7})
    chains = [step["computed"][0][0] for step in compiled.program.steps if step["op"] == "chain"]
    assert chains == ["Chain_x_x_Sub_x_Div", "Chain_x_Sigmoid_x_x_Min_Mul", "Chain_x_x_Greater_Not_x_x_Neg_Where",
                      "Chain_x_Tanh_x_Add"]
    assert not any(step["op"] in ("Sub", "Sigmoid", "Tanh", "Greater") for step in compiled.program.steps)


def test_a_gelu_along_the_tokens_is_one_kernel():
    g = networks.Graph()
    x = g("Add", linear(g), g("ReduceMean", linear(g), g.constant(np.array([1]))))
    inner = g("Erf", g("Div", x, g.constant(np.float32(2 ** 0.5))))
    g("Mul", g("Mul", x, g("Add", inner, g.constant(np.float32(1)))), g.constant(np.float32(0.5)), name="gelu")
    compiled = check(g, {"gelu": 3}, ((1, 1), (2, 7)))
    assert [step["computed"][0][0] for step in compiled.program.steps if step["op"] == "chain"] == [
        "Chain_x_x_x_Div_Erf_x_Add_Mul_x_Mul"]


def test_a_tanh_may_follow_another_operator():
    g = networks.Graph()
    x, mean = linear(g), g("ReduceMean", linear(g), g.constant(np.array([1])))
    g("Mul", g("Tanh", g("Add", x, mean)), g("Sigmoid", g("Sub", x, mean)), name="gated")
    x, (half, one, cubic, root) = g("Sub", x, mean), (g.constant(np.float32(n)) for n in (0.5, 1, 0.044715, 0.7978846))
    inner = g("Mul", root, g("Add", x, g("Mul", cubic, g("Mul", x, g("Mul", x, x)))))
    g("Mul", g("Mul", x, half), g("Add", g("Tanh", inner), one), name="gelu")
    compiled = check(g, {"gated": 3, "gelu": 3}, ((1, 1), (2, 7)))
    assert "Chain_x_x_Add_Tanh_x_Sigmoid_Mul" in {
        step["computed"][0][0] for step in compiled.program.steps if step["op"] == "chain"}


def test_whole_numbers_below_and_above_and_those_of_booleans():
    g = Quarters()
    x = linear(g)
    low = g("Sub", x, g("ReduceMin", x, g.constant(np.array([1]))))
    g("Add", g("Mul", g("Floor", low), g("Ceil", low)), g("Cast", g("Greater", low, x), to=FLOAT), name="y")
    check(g, {"y": 3}, given=quarters)


def test_powers_are_those_of_C():  # noqa: N802 - the language's name
    g = networks.Graph()
    x = g("Add", linear(g, 16), "x")
    g("Pow", x, g("ReduceMax", g("Mul", x, g.constant(np.float32(0))), g.constant(np.array([1]))), name="ones")
    g("Pow", g("Log", g("Mul", g("ReduceMax", x, g.constant(np.array([1]))), g.constant(np.float32(0)))),
      g.constant(np.float32(0.5)), name="roots")
    compiled = Compiled(modelled(g, {"ones": 3, "roots": 3}), "cuda-sm80")
    ones, roots = compiled({"x": np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)})
    assert np.all(ones == 1)
    assert np.all(roots == np.inf)  # of -inf


def test_products_of_large_halves_do_not_overflow():
    g = networks.Graph()
    x = linear(g)
    last = g("Slice", x, *(g.constant(np.array([each])) for each in (-1, 2 ** 31 - 1, 1)))
    g("ReduceMean", g("Mul", x, last), g.constant(np.array([1])), name="products")
    check(g, {"products": 3}, ((2, 7),), given=lambda x: 300 * x)


def test_softmax_orders_and_choices_along_the_tokens():
    g = Quarters()
    x = linear(g)
    g("Softmax", x, axis=1, name="shares")
    g("LogSoftmax", x, axis=1, name="logs")
    g("ArgMax", x, axis=1, keepdims=0, name="last", select_last_index=1)
    g("ArgMin", x, axis=1, name="least")
    g("Gather", x, g.constant(np.array([0, -1, 0])), axis=1, name="some")
    g("GatherElements", x, "least", axis=1, name="smallest")
    g("Expand", g("ReduceMax", x, g.constant(np.array([1]))), g("Shape", x), name="wide")
    check(g, {"shares": 3, "logs": 3, "last": 2, "least": 3, "some": 3, "smallest": 3, "wide": 3},
          given=quarters, types={"last": INT, "least": INT})


@pytest.mark.parametrize("largest", [0, 1])
def test_the_first_of_all_tokens(largest):
    g = Quarters()
    g.nodes.append(onnx.helper.make_node("TopK", [linear(g), g.constant(np.array([3]))], ["top", "places"], axis=1,
                                         largest=largest))
    check(g, {"top": 3, "places": 3}, ((1, 3), (2, 40)), given=quarters, types={"places": INT})


def ones_of(g, x, axis):
    """Indices of zeros that the GPU computes, of the shape of x with one element along an axis."""
    return g("Mul", g("ArgMax", x, axis=axis), g.constant(np.int64(0)))


def test_choices_among_an_output_of_the_model():
    g = networks.Graph()
    g("Gather", linear(g), g.constant(np.array([0, -1, 0])), axis=1, name="some")
    g("Gather", "some", g.constant(np.array([2, 1])), axis=1, name="again")
    check(g, {"some": 3, "again": 3})


def test_tables_are_sent_once_for_all_sizes():
    g = Quarters()
    table = g.constant(np.arange(96, dtype=np.float32).reshape(8, 12))
    g("Gather", table, g("ArgMax", linear(g), axis=2, keepdims=0), axis=1, name="columns")
    compiled = check(g, {"columns": 3}, given=quarters)
    assert len(compiled.runner._plan.kernels.resident) == 1
    for tape in compiled.runner.tapes.values():
        assert sum("_sending" in item.__qualname__ for item in tape.items) == 1  # x


def test_constants_between_layers_are_sent_once():
    g = Quarters()
    x, rows = linear(g), g.constant(np.array([0, -1, 0]))
    table = g.constant(np.round(4 * np.random.default_rng(1).random((1, 40, 12))).astype(np.float32) / 4)
    g("GatherElements", table, g("ArgMax", x, axis=1), axis=1, name="each")
    g("Gather", x, rows, axis=1, name="some")
    first = g("Slice", x, *(g.constant(np.array([each])) for each in (0, 1, 1)))
    g("MatMul", first, g("Transpose", table, perm=[0, 2, 1]), name="product")
    g("Concat", x, g.constant(np.ones((1, 1, 12), np.float32)), axis=1, name="longer")
    compiled = check(g, {"each": 3, "some": 3, "product": 3}, ((1, 2), (1, 7)), given=quarters)
    for tape in compiled.runner.tapes.values():
        assert sum("_sending" in item.__qualname__ for item in tape.items) == 1  # x


def test_choices_among_what_the_processor_has_turned_around():
    g = networks.Graph()
    x = linear(g)
    turned = g("Slice", x, *(g.constant(np.array([each])) for each in (-1, -2 ** 31, 1, -1)))
    g("GatherElements", turned, ones_of(g, x, 1), axis=1, name="last")
    check(g, {"last": 3}, left=1)


def test_as_many_as_an_input_says():
    g = networks.Graph()
    x = linear(g)
    g.nodes.append(onnx.helper.make_node("TopK", [x, "count"], ["top", "places"], axis=1))
    g("GatherElements", "top", ones_of(g, x, 1), axis=1, name="first")
    model = modelled(g, {"top": 3, "places": 3, "first": 3}, {"places": INT}, {"count": (INT, [1])})
    compiled, session = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    for count in (3, 3, 5, 1):
        feeds = {"x": x, "count": np.array([count])}
        for own, other in zip(compiled(feeds), session.run(None, feeds), strict=True):
            assert own.shape == other.shape
            assert np.abs(own - other).max() <= HALF_PRECISIONS["fp16"] * 4
    assert not on_processor(compiled)
    with pytest.raises(InputError, match="of 5 elements 6 are taken"):
        compiled({"x": x, "count": np.array([6])})


def test_fewer_indices_than_elements_beside_the_axis():
    g = networks.Graph()
    x = linear(g)
    g("GatherElements", x, g.constant(np.zeros((1, 2, 3), np.int64)), axis=1, name="front")
    check(g, {"front": 3}, ((1, 1), (2, 7)))


def test_indices_of_the_processor_lie_inside():
    g = networks.Graph()
    x = linear(g)
    g("Gather", x, "i", axis=1, name="tokens")
    compiled = Compiled(modelled(g, {"tokens": 3}, more={"i": (INT, ["n"])}), "cuda-sm80")
    x = np.random.default_rng(0).standard_normal((1, 3, 16)).astype(np.float32)
    first, last = (compiled({"x": x, "i": np.array(each)})[0] for each in ([0, 2], [2, -3]))
    assert np.array_equal(first, last[:, ::-1])
    for outside in (99, -50, 2 ** 32):
        with pytest.raises(InputError, match="an index lies outside of the 3 elements"):
            compiled({"x": x, "i": np.array([0, outside])})
        assert np.array_equal(compiled({"x": x, "i": np.array([0, 2])})[0], first)


def test_computed_indices_outside_are_the_nearest_inside():
    g = networks.Graph()
    x = linear(g)
    far = g("Add", ones_of(g, x, 1), g.constant(np.int64(2 ** 32)))
    g("GatherElements", x, far, axis=1, name="far")
    g("Slice", x, *(g.constant(np.array([each])) for each in (-1, 2 ** 31 - 1, 1)), name="last")
    compiled = Compiled(modelled(g, {"far": 3, "last": 3}), "cuda-sm80")
    far, last = compiled({"x": np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)})
    assert np.array_equal(far, last)


def test_products_of_computed_matrices():
    g = networks.Graph()
    x = linear(g, 20)
    scores = g("MatMul", x, g("Transpose", x, perm=[0, 2, 1]), name="scores")
    g("MatMul", g("Softmax", scores, axis=-1), x, name="mixed")
    check(g, {"scores": 3, "mixed": 3}, ((1, 1), (2, 7), (2, 70)))


def test_products_of_matrices_and_vectors():
    g = networks.Graph()
    x = linear(g)
    mean, token = (g(kind, x, g.constant(np.array(axes)), keepdims=0)
                   for kind, axes in (("ReduceMean", [0, 1]), ("ReduceMax", [0, 2])))
    g("MatMul", x, mean, name="right")
    g("MatMul", token, x, name="left")
    g("MatMul", mean, mean, name="both")
    check(g, {"right": 2, "left": 2, "both": 0})


def test_more_dimensions_than_kernels_have_are_copied():
    g = networks.Graph()
    x = g("Reshape", linear(g, 24), g.constant(np.array([0, 0, 2, 3, 2, 2])))
    turned = g("Transpose", x, perm=[1, 0, 3, 2, 5, 4])
    mean = g("ReduceMean", turned, g.constant(np.array([1, 3])), name="means")
    g("Mul", turned, g("Sub", turned, mean), name="spread")
    g("Softmax", turned, axis=2, name="shares")
    g("MatMul", turned, g("Transpose", turned, perm=[0, 1, 2, 3, 5, 4]), name="products")
    check(g, {"means": 6, "spread": 6, "shares": 6, "products": 6}, ((1, 1), (2, 7)))


def test_integers_casts_and_bounds():
    g, types = Quarters(), {}
    x = linear(g)
    places = g("ArgMax", x, axis=1)
    three = g.constant(np.int64(3))
    for operator in ("Add", "Sub", "Mul", "Max", "Min"):
        types[g(operator, places, three, name=operator)] = INT
    types[g("Equal", places, g("ArgMin", x, axis=1), name="Equal")] = BOOL
    g("Cast", g("Sub", g("Mul", places, three), three), to=FLOAT, name="floats")
    g("Clip", x, g.constant(np.float32(-0.5)), g.constant(np.float32(0.25)), name="both")
    g("Clip", x, "", g.constant(np.float32(0.25)), name="above")
    g("Clip", g("Transpose", x, perm=[1, 0, 2]), g.constant(np.float32(-0.5)), name="below")
    check(g, {**dict.fromkeys(types, 3), "floats": 3, "both": 3, "above": 3, "below": 3}, given=quarters, types=types)

def test_norms_and_activations_of_what_lies_between_are_compiled():
    g = Quarters()
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


def test_nan_is_what_ArgMax_and_ArgMin_find():  # noqa: N802 - ONNX's names
    g = networks.Graph()
    x = g("Add", linear(g, 16), "x", name="sums")
    found = [g(kind, x, axis=1, select_last_index=late, name=f"{kind}{late}")
             for kind in ("ArgMax", "ArgMin") for late in (0, 1)]
    compiled = Compiled(modelled(g, dict.fromkeys(found, 3), dict.fromkeys(found, INT)), "cuda-sm80")
    x = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    x[0, [1, 3]] = np.nan
    for late, places in zip((0, 1) * 2, compiled({"x": x}), strict=True):
        assert np.all(places[0] == (3 if late else 1))


@pytest.mark.parametrize("largest", [0, 1])
def test_nan_is_larger_than_all_that_TopK_orders(largest):  # noqa: N802 - ONNX's name
    g = networks.Graph()
    x = g("Add", linear(g, 16), "x", name="sums")
    g.nodes.append(onnx.helper.make_node("TopK", [x, g.constant(np.array([5]))], ["top", "places"], axis=1,
                                         largest=largest))
    compiled = Compiled(modelled(g, {"places": 3}, {"places": INT}), "cuda-sm80")
    x = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    x[0, [1, 3]] = np.nan
    (places,) = compiled({"x": x})
    assert np.all(places[0, :2] == [[1], [3]] if largest else places[0, 3:] == [[1], [3]])
    assert np.all(np.sort(places, 1) == np.arange(5)[:, None])


@pytest.mark.parametrize(("operator", "given", "made"), [
    ("ReduceSum", ["int64"], "int64"), ("Add", ["float32", "int64"], "float32"), ("Max", ["float32"], "float32"),
    ("And", ["float32", "bool"], "bool"), ("Gather", ["float32"] * 2, "float32"), ("Mod", ["int64"] * 2, "int64")])
def test_element_types_without_a_kernel_say_so(operator, given, made):
    assert f"there is no kernel of '{operator}' of {given[0]}" in kernels_of(operator, given, made)
