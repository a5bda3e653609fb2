"""Random quantised graphs: what the passes make of them computes the file's codes, at most one step apart."""

import numpy as np
import onnx_ir as ir
import pytest

import sparsec
from sparsec.compiler.pipeline import run_passes
from sparsec.graph.compare import run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.operators import DOMAIN
from sparsec.graph.reader import load
from sparsec.graph.steps import compare_steps
from sparsec.passes.context import Context
from sparsec.passes.integers import WIDENED
from sparsec.target import resolve
from tests.support.quantized import FORMS, network
from tests.support.targets import TARGETS

STEP = 1
"""Codes that two evaluations may differ by at an output, where steps of the layers before add up."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(12))
def test_every_tensor_of_codes_is_the_files(seed, form):
    proto, feeds = network(seed, form)
    graph = load(proto)
    run_passes(graph, Context(resolve("cpu-generic"), strict_ieee=True))
    operators = {node.op_type for node in graph.graph}
    assert not operators & {"Conv", "MatMul", "Sigmoid", "Add", "Mul", "QLinearConv"}
    steps = compare_steps(proto, graph, feeds)
    assert steps.tensors
    assert steps.further == {}
    assert steps.one_step <= 0.01 * steps.codes


@pytest.mark.parametrize("target", ["cpu-avx512", "cpu-generic"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(20, 26))
def test_only_inputs_are_quantised_and_only_outputs_are_floats(seed, form, target):
    """No float32 image lies between two quantised layers, and no pass only quantises."""
    proto, _ = network(seed, form)
    graph = load(proto)
    run_passes(graph, Context(resolve(target), strict_ieee=True))
    inner = [node for node in graph.graph if
             (node.op_type == "QuantizeLinear" and not node.inputs[0].is_graph_input())
             or (node.op_type == "DequantizeLinear" and list(node.outputs[0].uses()))]
    assert inner == []
    floats = [node for node in graph.graph for value in node.outputs
              if value.dtype == ir.DataType.FLOAT and not value.is_graph_output() and list(value.uses())]
    assert floats == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(12, 20))
def test_stripping_changes_no_code(seed, form):
    proto, feeds = network(seed, form)
    plain, stripped = load(proto), load(proto)
    run_passes(plain, Context(resolve("cpu-generic"), strict_ieee=True))
    run_passes(stripped, Context(resolve("cpu-generic")))
    for a, b in zip(evaluate(plain, feeds), evaluate(stripped, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("target", ["cpu", *TARGETS])
def test_compiled_graphs_compute_the_files_codes(target, seed, form):
    proto, feeds = network(seed, form)
    artifact = sparsec.compile(proto, target, tune="off")
    actual = sparsec.InferenceSession(artifact).run(None, feeds)
    expected = run_onnxruntime(proto, feeds)
    assert np.abs(actual[1].astype(int) - expected[1].astype(int)).max() <= STEP
    assert artifact.report["verification"]["steps"]["tensors"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("target", "widened"), [("eie", True), ("cuda-sm80", False)])  # GPUs say so of each layer
def test_targets_without_operators_on_codes_compute_on_what_they_stand_for(target, widened, form):
    proto, feeds = network(3, form)
    graph = load(proto)
    reports = run_passes(graph, Context(resolve(target), strict_ieee=True))
    assert {"Conv", "MatMul"} & {node.op_type for node in graph.graph if node.domain == DOMAIN}
    assert any(note.text == WIDENED for report in reports for note in report.notes) == widened
    for actual, expected in zip(evaluate(graph, feeds), run_onnxruntime(proto, feeds), strict=True):
        if expected.dtype.kind in "iu":
            assert np.abs(actual.astype(int) - expected.astype(int)).max() <= STEP
