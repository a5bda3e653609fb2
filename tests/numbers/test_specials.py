"""NaN, infinities, signed zeros and denormals through every operator, as onnxruntime and ONNX's reference have them.

Where those two differ, ours is what one of them says; DIFFERENCES lists the operators of which that is so, and why.
"""

import numpy as np
import pytest
from onnx import helper, numpy_helper, shape_inference

from sparsec.target import machine_features, resolve
from tests.numbers.references import run_onnx, run_ort, run_ours, same

SPECIALS = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 1.2e-38, 0.5, -0.5, 2.5, -7.0, 100.0,
            -100.0)
HALF = {1e-40: 6e-8, -1e-40: -6e-8, 3e38: 6e4, -3e38: -6e4, 1.2e-38: 6.2e-5}
TARGETS = [name for name in ("cpu", "cpu-avx2", "cpu-generic") if resolve(name).features <= machine_features()]
DIFFERENCES = {  # where onnxruntime and the reference disagree
    "Celu": "of -0", "Relu": "of -0", "Selu": "of -0", "Where": "onnxruntime adds what it selects from: -0 becomes 0",
    "Sign": "onnxruntime's of NaN in float16",
    "PRelu": "the reference multiplies slopes of all elements: 0 * inf", "Sum": "of -0",
    "ReduceMax": "onnxruntime's depends on where a NaN is", "ReduceMin": "as ReduceMax",
    "ArgMax": "as ReduceMax", "ArgMin": "as ReduceMax", "Hardmax": "as ReduceMax",
    "ReduceSum": "infinities of both signs", "ReduceMean": "infinities of both signs",
    "ReduceLogSumExp": "the reference subtracts an infinite maximum", "LogSoftmax": "as ReduceLogSumExp",
    "AveragePool": "the reference divides by other counts",
    "LayerNormalization": "onnxruntime's variance of infinities",
    "InstanceNormalization": "the reference's variance of infinities",
}
UNSETTLED = {  # where ours keeps NaN and -infinity and neither of them does
    "MaxPool": "both take or leave a NaN by its place in the window",
    "GlobalMaxPool": "onnxruntime does so, and the reference's has another shape"}
SIGNLESS = ("Max", "Min")  # of zeros of both signs either is the maximum
UNARY = ("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp",
         "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg",
         "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign",
         "Sqrt", "Tan", "Tanh", "ThresholdedRelu")
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Pow", "PRelu", "Mod", "Equal", "Greater", "Less",
          "GreaterOrEqual", "LessOrEqual")
REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
              "ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin", "Softmax", "LogSoftmax", "Hardmax", "TopK",
              "GlobalMaxPool", "GlobalAveragePool", "AveragePool", "MaxPool", "LayerNormalization",
              "InstanceNormalization", "RMSNormalization")


def model(nodes, feeds, outputs, constants=(), opset=20):
    """A model of nodes, its outputs inferred."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                     for k, v in feeds.items()], [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return shape_inference.infer_shapes(proto, data_prop=True)


def specials(dtype=np.float32):
    """The special values twice, so that whole vectors and tails meet them."""
    values = [HALF.get(v, v) for v in SPECIALS] if dtype == np.float16 else SPECIALS
    return np.resize(np.array(values, dtype), 2 * len(values) + 5)


def pairs():
    return (grid.ravel() for grid in np.meshgrid(np.float32(SPECIALS), np.float32(SPECIALS), indexing="ij"))


def check(nodes, feeds, constants=(), opset=20, target="cpu", **options):
    """Compile all nodes as one model; each one's outputs are what a reference computes of it alone."""
    names = [name for node in nodes for name in node.output]
    results = dict(zip(names, run_ours(model(nodes, feeds, names, constants, opset), feeds, target, **options),
                       strict=True))
    wrong = []
    for node in nodes:
        read = {name: array for name, array in feeds.items() if name in node.input}
        used = {name: array for name, array in dict(constants).items() if name in node.input}
        alone = model([node], read, node.output, used, opset)
        expected = [each for each in (run_onnx(alone, read), run_ort(alone, read)) if each is not None]
        assert expected, node.op_type
        for position, name in enumerate(node.output):
            values = [each[position] for each in expected if each[position].shape == results[name].shape]
            hits = [same(results[name], each, zero_signs=node.op_type not in SIGNLESS) for each in values]
            assert hits, name
            if node.op_type not in DIFFERENCES and node.op_type not in UNSETTLED and not np.all(hits):
                wrong.append((name, "differs from a reference"))
            if not np.any(hits, axis=0).all() and not _unsettled(node, results[name], hits):
                wrong.append((name, results[name][~np.any(hits, axis=0)][:5],
                              [each[~np.any(hits, axis=0)][:5] for each in values]))
    assert not wrong


def _unsettled(node, result, hits):
    return node.op_type in UNSETTLED and not np.isfinite(result[~np.any(hits, axis=0)]).any()


@pytest.mark.parametrize("target", TARGETS)
def test_unary_operators(target):
    check([helper.make_node(op, ["x"], [op]) for op in UNARY], {"x": specials()}, target=target)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_unary_operators_of_other_types(dtype):
    known = [op for op in UNARY if op not in ("Celu", "Acos", "Asin", "Acosh", "Asinh", "Tan", "Sinh", "Cosh", "Mish")]
    check([helper.make_node(op, ["x"], [op]) for op in known], {"x": specials(dtype)})


@pytest.mark.parametrize("target", TARGETS[:1] + TARGETS[2:])
def test_binary_operators(target):
    a, b = pairs()
    nodes = [helper.make_node(op, ["a", "b"], [op], **({"fmod": 1} if op == "Mod" else {})) for op in BINARY]
    nodes += [helper.make_node("Where", ["c", "a", "b"], ["Where"]), helper.make_node("Max", ["a", "b", "d"], ["Max3"]),
              helper.make_node("Min", ["a"], ["Min1"])]
    check(nodes, {"a": a, "b": b, "c": np.arange(a.size) % 2 == 0, "d": np.roll(a, 5)}, target=target)


def test_a_constant_zero_multiplies_what_it_meets():
    feeds = {"x": specials()}
    nodes = [helper.make_node(op, ["x", "zero"], [op]) for op in ("Mul", "Div", "Max", "Pow")]
    check([*nodes, helper.make_node("Div", ["zero", "x"], ["by"])], feeds, {"zero": np.float32(0)})


CHAINS = {  # what an algebra of real numbers would simplify
    "(a + b) - b": [("Add", "a", "b"), ("Sub", "0", "b")], "not a < b": [("Less", "a", "b"), ("Not", "0")],
    "not a = b": [("Equal", "a", "b"), ("Not", "0")], "not a >= b": [("GreaterOrEqual", "a", "b"), ("Not", "0")],
    "a = a": [("Equal", "a", "a")], "a - a": [("Sub", "a", "a")], "a / a": [("Div", "a", "a")],
    "(a b) / b": [("Mul", "a", "b"), ("Div", "0", "b")],
    "not (a < b or a > b)": [("Less", "a", "b"), ("Greater", "a", "b"), ("Or", "0", "1"), ("Not", "2")],
    "relu(relu(a) + b)": [("Relu", "a"), ("Add", "0", "b"), ("Relu", "1")],
    "max(min(a, b), b)": [("Min", "a", "b"), ("Max", "0", "b")],
}


@pytest.mark.parametrize("name", CHAINS)
def test_fused_chains_are_those_of_floats(name):
    a, b = pairs()
    nodes = [helper.make_node(op, inputs, [str(i)]) for i, (op, *inputs) in enumerate(CHAINS[name])]
    proto = model(nodes, {"a": a, "b": b}, [str(len(nodes) - 1)])
    result = run_ours(proto, {"a": a, "b": b})[0]
    assert same(result, run_onnx(proto, {"a": a, "b": b})[0], zero_signs=False).all()


def rows(length=41):
    """A special value at every kind of place of a row, rows of one value, and rows with two."""
    rng, found = np.random.default_rng(0), []
    for value in SPECIALS[:8]:
        for place in (0, 1, 15, 16, 31, length - 1):
            row = rng.standard_normal(length).astype(np.float32)
            row[place] = value
            found.append(row)
    found += [np.full(length, value, np.float32) for value in (np.nan, np.inf, -np.inf, 0.0, -0.0)]
    for values in ((np.inf, -np.inf), (np.nan, -np.inf), (np.inf, np.nan)):
        row = rng.standard_normal(length).astype(np.float32)
        row[[3, 20]] = values
        found.append(row)
    return np.stack(found)


def reduction(op, x):
    """The node of a reduction of the rows, and what it reads beside x."""
    window = {"kernel_shape": [3], "strides": [2]}
    attributes = {"AveragePool": window, "MaxPool": window,
                  "ArgMax": {"axis": -1}, "ArgMin": {"axis": -1}, "Softmax": {"axis": -1}, "LogSoftmax": {"axis": -1},
                  "Hardmax": {"axis": -1}}.get(op, {})
    more = {"TopK": ["k"], "LayerNormalization": ["g", "z"], "RMSNormalization": ["g"],
            "InstanceNormalization": ["one", "nil"]}.get(op, ["axis"] if op.startswith("Reduce") else [])
    return helper.make_node(op, [x, *more], [op, f"{op}.places"] if op == "TopK" else [op], **attributes)


CONSTANTS = {"axis": np.array([-1]), "k": np.array([5]), "g": np.ones(41, np.float32), "z": np.zeros(41, np.float32),
             "one": np.ones(1, np.float32), "nil": np.zeros(1, np.float32)}


@pytest.mark.parametrize("target", TARGETS)
def test_reductions(target):
    x = rows()[:, None]
    nodes = [reduction(op, "x") for op in REDUCTIONS if op != "RMSNormalization"]
    used = {name for node in nodes for name in node.input}
    check(nodes, {"x": x}, {k: v for k, v in CONSTANTS.items() if k in used}, target=target)


FUSED = ("Relu", "Clip", "LeakyRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Gelu")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("product", ["MatMul", "Conv", "row"])
def test_activations_behind_products(product, target):
    """A product by the identity, so that the special values reach the activation."""
    count = len(SPECIALS)
    x = np.float32(SPECIALS)
    if product == "Conv":
        x, shape = x.reshape(1, 1, 4, 4), (1, 1, 4, 4)
        weight = np.ones((1, 1, 1, 1), np.float32)
    else:
        x = x[:, None] if product == "MatMul" else np.float32([[2.5]])
        shape, weight = (count, 1), np.ones((1, 1), np.float32)
    for op in FUSED:
        bounds = ["low", "high"] if op == "Clip" else []
        nodes = [helper.make_node("Conv" if product == "Conv" else "MatMul", ["x", "w"], ["p"]),
                 helper.make_node(op, ["p", *bounds], ["y"])]
        constants = {"w": weight, **({"low": np.float32(-0.4), "high": np.float32(2)} if bounds else {})}
        proto = model(nodes, {"x": x}, ["y"], constants)
        result = run_ours(proto, {"x": x}, target, strict_ieee=True)[0]
        expected = [run(proto, {"x": x})[0] for run in (run_onnx, run_ort)]
        assert np.any([same(result, each, zero_signs=False) for each in expected], axis=0).all(), (op, shape)
