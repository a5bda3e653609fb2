"""Whole graphs: products as matrices and vectors, the host's part, formats, artifacts and refusals."""

import numpy as np
import pytest
from onnx import helper

from sparsec.backends.accelerators.eie import program
from sparsec.backends.accelerators.eie.accelerator import ACCELERATORS, Accelerator
from sparsec.backends.accelerators.eie.activity import Activity
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.inference import infer
from sparsec.backends.accelerators.eie.network import compile_network, run, run_float
from sparsec.backends.accelerators.eie.segments import split
from sparsec.backends.accelerators.eie.simulate import simulate, sweep
from sparsec.errors import InputError, SimulationError, UnsupportedOperatorError, UsageError
from sparsec.graph.compare import random_feeds, relative_error
from sparsec.graph.evaluate import evaluate
from tests.support.eie import planned, sparse_weight

ARCH, EIE = Architecture(pes=8), ACCELERATORS["eie"]
RNG = np.random.default_rng(3)
STATE = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    RNG.bit_generator.state = STATE


def conv(x, w, **attributes):
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", **attributes)
    return planned([node], x, w=sparse_weight(RNG, w), b=sparse_weight(RNG, w[:1]))


def linear(x, w, *, left=False, activation="Relu"):
    product = helper.make_node("MatMul", ["w", "x"] if left else ["x", "w"], ["p"], "fc")
    return planned([product, helper.make_node(activation, ["p"], ["y"])], x, w=sparse_weight(RNG, w))


def gemm(x, w, b):
    return planned([helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1)], x, w=w, b=b)


def residual():
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["p"], "fc", transB=1),
             helper.make_node("Add", ["p", "x"], ["s"]), helper.make_node("Sigmoid", ["s"], ["y"])]
    return planned(nodes, (3, 12), w=sparse_weight(RNG, (12, 12)), b=sparse_weight(RNG, (12,)))


GRAPHS = {
    "convolution": lambda: conv((2, 3, 9, 8), (20, 3, 3, 3), strides=[2, 1], pads=[1, 0, 1, 2]),
    "1x1": lambda: conv((1, 16, 5, 5), (24, 16, 1, 1)),
    "groups": lambda: conv((1, 6, 7, 7), (9, 2, 3, 3), group=3, dilations=[2, 2]),
    "depthwise": lambda: conv((1, 5, 6, 6), (5, 1, 3, 3), group=5, pads=[1, 1, 1, 1]),
    "1-d": lambda: conv((2, 4, 20), (7, 4, 5)),
    "tokens": lambda: linear((2, 5, 30), (30, 17)),
    "weight on the left": lambda: linear((2, 30, 4), (17, 30), left=True),
    "vector": lambda: linear((30,), (30, 17)),
    "activation of the host": lambda: linear((1, 30), (30, 17), activation="Tanh"),
    "residual": residual,
}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_outputs_are_the_graphs(graph):
    model = graph()
    feeds = random_feeds(model)
    expected = evaluate(model, feeds)[0]
    network = compile_network(model, feeds, ARCH)
    assert len(network.layers) == 1
    assert relative_error(run_float(network, feeds)["y"], expected) < 0.02  # biases share the weights' codebook
    assert relative_error(run(network, feeds).outputs["y"], run_float(network, feeds)["y"]) < 2e-3


@pytest.mark.parametrize("graph", [GRAPHS["tokens"], GRAPHS["weight on the left"], GRAPHS["vector"]])
def test_weights_that_fit_the_codebook_are_exact(graph):
    model = graph()
    feeds = random_feeds(model)
    network = compile_network(model, feeds, ARCH, codebook="keep")
    assert relative_error(run_float(network, feeds)["y"], evaluate(model, feeds)[0]) < 1e-6


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_an_artifact_holds_the_same_network(graph):
    model = graph()
    feeds = random_feeds(model)
    network = compile_network(model, feeds, ARCH)
    packed = program.pack(network, ARCH)
    unpacked, arch = program.unpack(packed.constants)
    assert arch == ARCH
    assert packed.inputs[0].shape == feeds["x"].shape
    first, second = run(network, feeds), run(unpacked, feeds)
    assert np.array_equal(first.outputs["y"], second.outputs["y"])
    assert simulate(network.layers, first.active, EIE, ARCH) == simulate(unpacked.layers, second.active, EIE, ARCH)


@pytest.mark.parametrize(("largest", "activation"), [(0.5, 1), (1.2, 2), (3.0, 8)])
def test_a_bias_larger_than_the_weights_has_a_larger_activation(largest, activation):
    weight, bias = sparse_weight(RNG, (12, 20)), np.linspace(-largest, largest, 12, dtype=np.float32)
    model = gemm((1, 20), weight, bias)
    feeds = {"x": np.zeros((1, 20), np.float32)}
    network = compile_network(model, feeds, ARCH)
    assert network.layers["fc"].bias == activation
    assert np.abs(run(network, feeds).outputs["y"] - bias).max() < activation * 0.06  # half a step of the weights


def test_what_the_accelerator_lacks_runs_on_the_host_and_is_listed():
    pool = helper.make_node("MaxPool", ["c"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv"), pool, helper.make_node("Flatten", ["p"], ["f"]),
             helper.make_node("MatMul", ["f", "v"], ["l"], "fc"), helper.make_node("Softmax", ["l"], ["y"], "softmax")]
    model = planned(nodes, (1, 3, 9, 9), w=sparse_weight(RNG, (8, 3, 2, 2)), v=sparse_weight(RNG, (128, 10)))
    feeds = random_feeds(model)
    inference = infer(compile_network(model, feeds, ARCH), feeds, EIE, ARCH, {"y": evaluate(model, feeds)[0]})
    assert [layer.kind for layer in inference.layers] == ["convolution by position", "fully connected"]
    assert [layer.vectors for layer in inference.layers] == [64, 1]
    assert {node.op_type for node in inference.host} >= {"MaxPool", "Softmax"}
    products = 2 * (64 * 8 * 12 + 128 * 10)
    assert inference.host_flops == pytest.approx((8 * 16 * 4 + 10) / (8 * 16 * 4 + 10 + products))
    assert inference.accuracy[0].same_class == 1
    assert inference.total.activity.cycles == sum(layer.activity.cycles for layer in inference.layers)


def test_activations_decide_the_time():
    model = GRAPHS["tokens"]()
    feeds = random_feeds(model)
    network = compile_network(model, feeds, ARCH)
    dense, half, none = ({"x": feeds["x"] * (np.arange(30) >= cut)} for cut in (0, 15, 30))
    cycles = [infer(network, each, EIE, ARCH).total.activity.cycles for each in (dense, half, none)]
    assert cycles[0] > cycles[1] > cycles[2]
    transfers = infer(network, none, EIE, ARCH).total.activity.transfer
    assert cycles[2] == 10 * 5 + transfers  # ten tokens through an empty pipeline


def test_sweeps_vary_one_parameter_and_keep_the_capacity():
    model = GRAPHS["1x1"]()
    feeds = random_feeds(model)
    network = compile_network(model, feeds, ARCH)
    active = run(network, feeds).active
    results = sweep(network.layers, active, EIE, ARCH, "pes", [1, 4, 16])
    assert [layers[0].arch.batch for layers in results.values()] == [ARCH.batch] * 3
    times = [layers[0].time_us for layers in results.values()]
    assert times == sorted(times, reverse=True)
    assert len({layers[0].activity.macs for layers in results.values()}) == 1


def test_another_accelerator_is_another_entry():
    def ideal(segments, active, arch):
        macs = sum(int(active[:, slice(*s.columns)].sum(axis=0) @ s.stored.counts.sum(axis=1)) for s in segments)
        return Activity(runs=len(active), macs=macs, cycles=-(-macs // arch.pes))

    accelerator = Accelerator(split, ideal, {"by power": EIE.energies["by power"]}, EIE.power_mw, EIE.area_mm2)
    model = GRAPHS["tokens"]()
    feeds = random_feeds(model)
    network = compile_network(model, feeds, ARCH)
    bound = infer(network, feeds, accelerator, ARCH).total
    real = infer(network, feeds, EIE, ARCH).total
    assert bound.activity.macs == real.activity.macs
    assert bound.activity.cycles < real.activity.cycles


@pytest.mark.parametrize(("parameters", "message"), [
    ({"pes": 0}, "pes is 0; it must be positive"), ({"fifo": -1}, "fifo is -1"), ({"codebook_bits": 9}, "at most 8"),
    ({"weight_read_bits": 4}, "an entry has 8 bits")])
def test_impossible_configurations_are_refused(parameters, message):
    with pytest.raises(UsageError, match=message):
        Architecture(**parameters)


def test_a_codebook_larger_than_the_index_is_refused():
    model = GRAPHS["tokens"]()
    with pytest.raises(SimulationError, match=r"layer 'fc'.* distinct non-zero values.*--codebook-bits"):
        compile_network(model, random_feeds(model), Architecture(codebook_bits=3), codebook="keep")
    with pytest.raises(UsageError, match="choose from cluster, keep"):
        compile_network(model, random_feeds(model), ARCH, codebook="none")


def test_a_layer_too_large_even_in_segments_is_refused():
    model = GRAPHS["tokens"]()
    network = compile_network(model, random_feeds(model), ARCH)
    tiny = Architecture(pes=1, weight_sram_bytes=2, weight_read_bits=16)
    with pytest.raises(SimulationError, match=r"layer 'fc': column \d+ alone has \d+ entries in a PE, which holds 2"):
        simulate(network.layers, {"fc": np.ones((1, 30), np.bool_)}, EIE, tiny)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused(value):
    model = GRAPHS["tokens"]()
    feeds = random_feeds(model)
    network = compile_network(model, feeds, ARCH)
    feeds["x"][0, 0, 0] = value
    with pytest.raises(SimulationError, match="layer 'fc' is given NaN or infinite activations"):
        run(network, feeds)


def test_weights_that_are_not_finite_and_wrong_inputs_are_refused():
    weight = sparse_weight(RNG, (17, 30))
    weight[3, 3] = np.nan
    model = gemm((1, 30), weight, np.ones(17, np.float32))
    with pytest.raises(SimulationError, match=r"layer 'fc'.*NaN"):
        compile_network(model, random_feeds(model), ARCH)
    bias = np.array([*[1] * 16, np.inf], np.float32)
    with pytest.raises(SimulationError, match=r"layer 'fc': its bias"):
        compile_network(gemm((1, 30), np.ones((17, 30), np.float32), bias), {"x": np.zeros((1, 30), np.float32)}, ARCH)
    model = GRAPHS["vector"]()
    with pytest.raises(InputError, match="no input 'x'"):
        compile_network(model, {"z": np.zeros(30, np.float32)}, ARCH)
    with pytest.raises(InputError, match=r"float32 of shape \(31,\); the model takes float32 of \(30,\)"):
        compile_network(model, {"x": np.zeros(31, np.float32)}, ARCH)
    with pytest.raises(InputError, match="float64"):
        compile_network(model, {"x": np.zeros(30)}, ARCH)


def test_an_operator_nobody_has_is_named():
    model = planned([helper.make_node("Erf", ["x"], ["y"], "erf")], (2,))
    model.graph[0].op_type = "StringNormalizer"
    with pytest.raises(UnsupportedOperatorError, match=r"'erf' \(StringNormalizer\) runs neither"):
        compile_network(model, random_feeds(model), ARCH)
