"""Every quantised and half-precision form of a pruned LeNet compiles as it is and finds onnxruntime's classes."""

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

BENCH = Path(__file__).parents[2] / "bench"
SIZES = (784, 300, 100, 10)


def script(name):
    """A script of the benchmarks as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    """LeNet-300-100 of random weights, 95 % of them zeros."""
    r, nodes, constants, x = np.random.default_rng(0), [], [], "input"
    for index, (inputs, outputs) in enumerate(itertools.pairwise(SIZES)):
        weight = r.standard_normal((outputs, inputs)) * (r.random((outputs, inputs)) < 0.05)
        constants += [numpy_helper.from_array(weight.astype(np.float32), f"w{index}"),
                      numpy_helper.from_array(r.standard_normal(outputs).astype(np.float32), f"b{index}")]
        nodes.append(helper.make_node("Gemm", [x, f"w{index}", f"b{index}"], [f"g{index}"], f"{index}/Gemm", transB=1))
        nodes.append(helper.make_node("Relu", [f"g{index}"], [x := f"x{index}"], f"{index}/Relu"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, size))
            for name, size in (("input", SIZES[0]), ("g2", SIZES[-1]))]
    graph = helper.make_graph(nodes[:-1], "g", ends[:1], ends[1:], constants)
    path = tmp_path_factory.mktemp("lenet") / "lenet.onnx"
    save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]), path)
    return path


@pytest.mark.parametrize("form", ["qdq", "qop", "dyn", "f16", "bf16"])
def test_every_form_finds_the_classes(form, lenet):
    make, forms = script("make_quantized"), script("forms")
    assert form in make.FORMS
    target = lenet.with_name(f"lenet-{form}.onnx")
    (make.halve if form in make.HALVES else make.quantize)(form, lenet, target)
    found = forms.compare(target, 100, tune="off")
    assert (found.inputs, found.wrong) == (100, 0)
