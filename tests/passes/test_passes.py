"""Every pass keeps the answers of every small graph and says whether it changed it."""

import numpy as np
import pytest

from sparsec.compiler.pipeline import PASSES
from sparsec.graph.compare import compare, random_feeds, run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from sparsec.graph.verify import check, infer
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.graphs import GRAPHS
from tests.support.texts import outputs

CONTEXT = Context(resolve("cpu-generic"))


def text(graph):
    return [(node.domain, node.op_type, sorted(node.attributes)) for node in graph.graph]


@pytest.mark.parametrize("name", GRAPHS)
def test_every_pass_keeps_the_answers(name):
    proto = GRAPHS[name]
    graph = load(proto)
    feeds = random_feeds(graph)
    expected = run_onnxruntime(proto, feeds)
    for each in PASSES:
        before = text(graph)
        report = each.run(graph, CONTEXT)
        infer(graph, report.name)
        check(graph, report.name)
        assert outputs(proto) == [value.name for value in graph.graph.outputs]
        for difference in compare(outputs(proto), evaluate(graph, feeds), expected):
            assert difference.relative_error < 2e-6, (report.name, difference)
        assert report.modified or before == text(graph), report.name


@pytest.mark.parametrize("each", PASSES, ids=lambda each: each.run.__module__)
def test_every_pass_takes_a_graph_without_nodes_for_it(each):
    graph = load(GRAPHS["input as output"])
    report = each.run(graph, CONTEXT)
    assert not report.modified
    assert not report.notes
    assert np.array_equal(evaluate(graph, {"x": np.float32([-1, 1])})[0], np.float32([-1, 1]))
