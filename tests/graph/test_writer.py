"""Saved graphs read back the same, with large weights in a file beside the model."""

import numpy as np
import pytest

from sparsec.graph import writer
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from tests.support.texts import model


@pytest.mark.parametrize(("limit", "files"), [(1 << 30, ["m.onnx"]), (0, ["m.onnx", "m.onnx.data"])])
def test_saved_graphs_read_back(tmp_path, monkeypatch, limit, files):
    monkeypatch.setattr(writer, "INLINE_LIMIT", limit)
    graph = load(model("g (float[2,40] x) => (float[2,30] y) <float[30,40] w> { y = sparsec.MatMul(x, w) }"))
    writer.save(graph, tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    feeds = {"x": np.ones((2, 40), np.float32)}
    np.testing.assert_array_equal(evaluate(load(tmp_path / "m.onnx"), feeds)[0], evaluate(graph, feeds)[0])
