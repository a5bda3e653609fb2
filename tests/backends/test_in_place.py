"""Convolutions that overwrite their residual: those that nobody reads it after, and with the right numbers."""

import pytest

import sparsec
from sparsec.backends.cpu import reformat
from sparsec.backends.cpu.in_place import may_overwrite
from sparsec.backends.relax.weights import residual
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.prepare import prepare
from sparsec.graph.layout import LAYOUT, PLAIN
from sparsec.graph.nodes import operator_of
from tests.support.texts import model

WEIGHTS = "float[8,8,1,1] w, float[8,8,1,1] v"
CHAINS = {  # nodes behind c = Conv(a), a = Conv(x) -> whether those with a residual may overwrite it
    "read before": ("d = Conv(c, v) y = Add(d, a)", [True]),
    "read twice by the layer": ("d = Conv(a, v) y = Add(d, a)", [False]),
    "read later": ("d = Conv(c, v) s = Add(d, a) e = Conv(s, v) y = Add(e, a)", [False, True]),
    "read by another operator": ("p = AveragePool<kernel_shape=[1,1]>(a) d = Conv(p, v) y = Add(d, a)", [False]),
}


def network(nodes, outputs="y"):
    return model(f"g (float[1,8,14,14] x) => (float[1,m,14,14] {outputs}) <{WEIGHTS}> "
                 f"{{ a = Conv(x, w) c = Conv(a, v) {nodes} }}")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("chain", CHAINS)
def test_only_the_last_reader_overwrites_its_residual(chain, threads):
    nodes, expected = CHAINS[chain]
    options = CompileOptions(tune="off", threads=threads)
    graph = prepare(network(nodes), options, divided=True, announce=lambda *_: None).graph
    adding = [node for node in graph.graph if operator_of(node) == "sparsec::Conv" and residual(node) is not None]
    assert list(map(may_overwrite, adding)) == expected
    assert sparsec.compile(network(nodes), tune="off", threads=threads).report["verification"]["inputs"] > 0


def test_outputs_of_the_graph_are_not_overwritten():
    nodes = "d = Conv(c, v) y = Add(d, a)"
    artifact = sparsec.compile(network(nodes, "y, float[1,8,14,14] a"), tune="off")
    assert artifact.report["verification"]["inputs"] > 0


VIEWED = {  # nodes around a convolution of 28 x 28 pixels, which lie as ONNX has them -> whether its copies are needed
    "one reader each": ("a = Conv(x, w) y = Softmax(a)", [True, True]),
    "an output": ("y = Conv(x, w)", [True, False]),
    "read twice": ("a = Conv(x, w) b = Softmax(a) c = Conv(a, v) y = Add(b, c)", [True, False]),
    "a residual": ("a = Conv(x, w) b = Add(a, x) y = Softmax(b)", [False, True]),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", VIEWED)
def test_images_that_lie_as_onnx_has_them_are_not_copied_unless_somebody_may_write_over_them(case, threads):
    nodes, expected = VIEWED[case]
    proto = model(f"g (float[1,8,28,28] x) => (float[1,8,28,28] y) <{WEIGHTS}> {{ {nodes} }}")
    options = CompileOptions(tune="off", threads=threads)
    graph = prepare(proto, options, divided=True, announce=lambda *_: None).graph
    copies = [node for node in graph.graph if node.op_type == "Reformat"]
    found = [reformat.is_view(node, *(LAYOUT.get(each[0]) or PLAIN for each in (node.inputs, node.outputs)))
             for node in copies]
    assert found[:2] == expected
    assert sparsec.compile(proto, tune="off", threads=threads).report["verification"]["inputs"] > 0
