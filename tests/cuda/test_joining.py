"""Projections that one attention reads are one product, and what is around products is few kernels."""

from types import SimpleNamespace

import numpy as np
import pytest

from sparsec.backends.cuda import joining
from sparsec.backends.cuda.lower import lower
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.pipeline import run_passes
from sparsec.compiler.planning import plan
from sparsec.compiler.prepare import prepare
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from sparsec.kernels.cuda.arrange import project
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.cuda import networks, walk
from tests.support.cuda.emulator import emulate

needs_compiler = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
TARGET = resolve("cuda-sm80")
MASK = np.array([[1] * 12 + [0] * 4])
IDS = np.arange(16).reshape(1, 16) * 3


def pruned(sparse):
    """Makes the weights 2:4 whose turn is among `sparse`."""
    turns = iter(range(100))
    return lambda matrix: project(matrix) if next(turns) in sparse else matrix


@needs_compiler
@pytest.mark.parametrize("sparse", [range(100), (1, 2)], ids=["all sparse", "two sparse"])
def test_projections_are_one_product(sparse):
    model = networks.transformer(prune=pruned(sparse))
    prepared = prepare(model, CompileOptions(TARGET.name))
    plan(prepared.graph, prepared.job, prepared.backend)
    lowered = lower(prepared.graph, TARGET, "fp16")
    names = walk.kernels(lowered)
    assert len([name for name in names if "product" in name]) == 5  # projections, output, up, down, head
    assert len(names) <= 11  # attention, two norms, the embedding and the mask
    (y,) = walk.run(lowered, {"ids": IDS, "mask": MASK})
    (expected,) = evaluate(load(model), {"ids": IDS, "mask": MASK})
    np.testing.assert_allclose(y, expected, atol=2e-2 * np.abs(expected).max())


@pytest.mark.parametrize(("rows", "products"), [((64,), 3), ((64, 128), 2), ((192,), 1)])
def test_what_is_joined_is_predicted_to_be_fastest(rows, products, monkeypatch):
    """`rows` are those of the products that take no time; two of the three weights are 2:4."""
    graph = load(networks.transformer(prune=pruned((1, 2))))
    run_passes(graph, Context(TARGET))

    def priced(_name, options, **_more):
        form = "nm 2:4" if any(option.name == "nm 2:4" for option in options) else "dense"
        seconds = 1 if options[0].params.m in rows else 10
        return SimpleNamespace(winner=SimpleNamespace(predicted_s=seconds, option=SimpleNamespace(name=form)))

    monkeypatch.setattr(joining, "choose", priced)
    joining.join(graph, TARGET, "fp16", machine=None)
    (attention,) = (node for node in graph.graph if node.op_type == "Attention")
    sources = {value.producer().inputs[0] if value.producer().op_type == "Slice" else value
               for value in attention.inputs[:3]}
    assert len(sources) == products
