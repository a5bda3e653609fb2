"""Columns of zeros among activations are skipped where a large weight meets one row behind ReLU."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

import sparsec
from sparsec.backends.cpu.calls import call
from sparsec.cli import app
from sparsec.kernels.cpu.rows import gemv_skipping
from sparsec.kernels.cpu.rows.layer import RowProduct
from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.target import resolve
from tests.support.targets import TARGETS, compiled, isa

INPUTS = 600  # of so many outputs that the weight is larger than the caches that it would have to leave


def outputs(target):
    return gemv_skipping.LEAST_CACHES * resolve(target).l2_bytes // (4 * INPUTS) + 21


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("target", TARGETS)
def test_every_share_of_zeros_gives_the_product(target, threads):
    rng, machine, features = np.random.default_rng(0), resolve(target), isa(target, threads)
    weight = rng.standard_normal((outputs(target), INPUTS), np.float32)
    bias, residual = (rng.standard_normal(len(weight), np.float32) for _ in range(2))
    layer = RowProduct(weight, bias, Matvec(*weight.shape, 1, "relu", residual=True), zeros=0.5)
    option, *_ = gemv_skipping.FAMILY.offers(layer, machine, features, "fp32")
    kernel = call(layer, option, features)
    run = compiled(kernel.kernel, target)
    for share in (0.0, 0.7, 0.999, 1.0):
        x = rng.standard_normal(INPUTS).astype(np.float32) * (rng.random(INPUTS) >= share)
        y = run(*kernel.constants, x, residual, out=len(weight))
        np.testing.assert_allclose(y, np.maximum(weight @ x + bias + residual, 0), rtol=0, atol=1e-4)


def test_nan_among_activations_is_no_zero():
    weight = np.ones((outputs("cpu"), INPUTS), np.float32)
    layer = RowProduct(weight, np.zeros(len(weight), np.float32), Matvec(*weight.shape), zeros=0.5)
    option, *_ = gemv_skipping.FAMILY.offers(layer, resolve("cpu"), isa("cpu"), "fp32")
    kernel = call(layer, option, isa("cpu"))
    x = np.zeros(INPUTS, np.float32)
    x[77] = np.nan
    assert np.isnan(compiled(kernel.kernel, "cpu")(*kernel.constants, x, out=len(weight))).all()


def network(activation):
    """Two layers with an activation between them; the second weight is large."""
    rng = np.random.default_rng(0)
    shapes = {"a": (8, INPUTS), "b": (INPUTS, outputs("cpu"))}
    tensors = [numpy_helper.from_array(rng.standard_normal(shape, np.float32), name) for name, shape in shapes.items()]
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"], "first"), helper.make_node(activation, ["h"], ["r"]),
             helper.make_node("MatMul", ["r", "b"], ["y"], "second")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [1, 8])],
                              [helper.make_tensor_value_info("y", 1, [1, outputs("cpu")])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("activation", "strict", "expected"), [
    ("Relu", False, "gemv/f32-skipping"), ("Tanh", False, "gemv/f32"), ("Relu", True, "gemv/f32")])
def test_layers_behind_relu_skip(activation, strict, expected):
    artifact = sparsec.compile(network(activation), tune="off", strict_ieee=strict)
    assert artifact.report["layers"][-1]["kernel"] == expected


def test_the_share_of_zeros_is_told(tmp_path):
    onnx.save(network("Relu"), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((1, 8), np.float32))
    for command in (["explain"], ["bench", "--profile"]):
        model, feeds, told = (str(tmp_path / name) for name in ("m.onnx", "x.npz", "f.json"))
        done = CliRunner().invoke(app, [*command, model, "--input", feeds, "--json", told])
        assert done.exit_code == 0, done.output
        assert "input zeros" in done.output
        layers = {each["layer"]: each for each in json.loads(Path(told).read_text())["layers"]}
        assert layers["first"]["zeros"] == 0
        assert 0.3 < layers["second"]["zeros"] < 0.7
