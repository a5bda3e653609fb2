"""A program that makes many calls is entered by functions of a few hundred calls each, and computes the same."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import vm_build

import sparsec
from sparsec.backends.cpu import direct, entry
from sparsec.backends.cpu.build import prepared
from sparsec.backends.cpu.lower import lower
from sparsec.backends.program import CALL
from sparsec.compiler.pipeline import run_passes
from sparsec.graph import reader
from sparsec.graph.compare import run_onnxruntime
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.texts import model

DEEP = 70


def deep(layers):
    steps = " ".join(f"s{k} = Softmax({'x' if not k else f't{k - 1}'}) t{k} = Transpose<perm=[1,0]>(s{k})"
                     for k in range(layers))
    return model(f"g (float[3,4] x) => (float[{'4,3' if layers % 2 else '3,4'}] y) {{ {steps} "
                 f"y = Identity(t{layers - 1}) }}")


def program(layers, prefix, *passes):
    """The functions by which a network is entered."""
    graph = reader.load(deep(layers))
    run_passes(graph, Context(resolve("cpu")))
    with prepared(lower(graph, resolve("cpu")), *passes) as (module, _):
        whole = entry.in_parts(vm_build._vmcodegen(relax.ExecBuilder(), module, "compiled"))
    return [function for name, function in whole.functions.items() if name.name_hint.startswith(prefix)]


def test_long_entries_are_divided_and_short_ones_are_not():
    assert len(program(2, entry.PREFIX)) == 1
    parts = program(DEEP, entry.PREFIX)
    assert len(parts) > 2
    assert all(len(each.body.seq) <= entry.CALLS for each in parts)


@pytest.mark.parametrize("more", [0, 1, 2])
def test_any_number_of_calls_is_divided(more):
    count = entry.CALLS + more
    calls = tirx.SeqStmt([tirx.Evaluate(tirx.call_cpacked(f"kernel{number}")) for number in range(count)])
    function = tirx.PrimFunc([], calls).with_attr("global_symbol", f"{entry.PREFIX}main")
    parts = entry.in_parts(tvm.IRModule({f"{entry.PREFIX}main": function})).functions.values()
    assert len(parts) == (1 if not more else 3)


def test_long_programs_without_the_virtual_machine_are_divided_too():
    assert len(program(2, CALL, direct.direct([]))) == 1
    assert len(program(DEEP, CALL, direct.direct([]))) == 1 + -(-2 * DEEP // direct.CALLS)


def test_divided_entries_compute_the_same():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    found = sparsec.InferenceSession(sparsec.compile(deep(DEEP), tune="off")).run(None, {"x": x})
    np.testing.assert_allclose(found[0], run_onnxruntime(deep(DEEP), {"x": x})[0], rtol=1e-5)
