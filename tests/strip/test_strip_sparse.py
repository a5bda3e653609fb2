"""A model with sparse tensors is stripped and pruned into one, no larger than it was, and any model where asked for."""

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sparsec.cli import app
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.graph.sparse import sparsify
from tests.support.texts import model

WEIGHT = np.where(np.random.default_rng(0).random((64, 96)) < 0.95, 0, 1)


@pytest.mark.parametrize("command", [["strip"], ["prune", "--inputs", "x.npz", "--sparsity", "0.5"]],
                         ids=lambda command: command[0])
@pytest.mark.parametrize("given", [True, False])
def test_sparse_tensors_stay_sparse(given, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32))
    proto = model("g (float[2,64] x) => (float[2,96] y) <float[64,96] w, float[96] b>"
                  "{ p = MatMul(x, w) y = Add(p, b) }", w=WEIGHT)
    if given:
        sparsify(proto)
    onnx.save(proto, tmp_path / "m.onnx")
    options = [] if given else ["--sparse-tensors"]
    done = CliRunner().invoke(app, [*command, "m.onnx", "-o", "s.onnx", *options])
    assert done.exit_code == 0, done.output
    stripped = onnx.load(tmp_path / "s.onnx")
    assert len(stripped.graph.sparse_initializer) == 1
    assert (tmp_path / "s.onnx").stat().st_size < 1.2 * (tmp_path / "m.onnx").stat().st_size
    feeds = {"x": np.ones((2, 64), np.float32)}
    assert relative_error(run_onnxruntime(stripped, feeds)[0], run_onnxruntime(proto, feeds)[0]) < 1e-5
