"""Every command on every kind of model: its lines fit a terminal of 80 columns, and its JSON is JSON."""

import inspect
import json
import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from sparsec.cli import COMMANDS, app, tables
from tests.support import decoders, texts

CNN = """g (float[{batch},3,8,8] x) => (float[{batch},4] y) <float[8,3,3,3] w, float[4,8] v> {{
  c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, v) }}"""
TRANSFORMER = """g (float[batch,length,16] x) => (float[batch,length,16] y)
  <float[16,16] wq, float[16,16] wk, float[16,16] wv, float[16,16] wo, float[16,32] w1, float[32,16] w2> {
  q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t)
  p = Softmax(s) a = MatMul(p, v) o = MatMul(a, wo) r = Add(x, o) h = MatMul(r, w1) g = Relu(h)
  m = MatMul(g, w2) y = Add(r, m) }"""
GRU = """g (float[length,batch,8] x) => (float[length,1,batch,8] y) <float[1,24,8] w, float[1,24,8] r> {
  y = GRU<hidden_size=8>(x, w, r) }"""
QDQ = """g (float[batch,length,8] x) => (float[batch,length,8] y) <float[8,16] w, float[16,8] v, float s, uint8 z> {
  xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) h = MatMul(xd, w) hq = QuantizeLinear(h, s, z)
  hd = DequantizeLinear(hq, s, z) t = Transpose<perm=[0,2,1]>(hd) tq = QuantizeLinear(t, s, z)
  td = DequantizeLinear(tq, s, z) u = Transpose<perm=[0,2,1]>(td) uq = QuantizeLinear(u, s, z)
  ud = DequantizeLinear(uq, s, z) e = Exp(ud) eq = QuantizeLinear(e, s, z) ed = DequantizeLinear(eq, s, z)
  y = MatMul(ed, v) }"""

MAKERS = {
    "cnn": lambda: texts.model(CNN.format(batch=2)),
    "cnn, any batch": lambda: texts.model(CNN.format(batch="batch")),
    "transformer": lambda: texts.model(TRANSFORMER),
    "gru": lambda: texts.model(GRU),
    "qdq": lambda: texts.model(QDQ, s=np.float32(0.05), z=np.uint8(128)),
    "decoder": lambda: decoders.model_of(decoders.DECODER),
}
SIZES = {"cnn": [], "cnn, any batch": ["batch=2"], "decoder": ["batch=1", "tokens=1", "past=4"]}
"""The symbolic dimensions of a kind, with a size of each."""

CALLS = {
    "accelerators": ["accelerators"],
    "bench": ["bench", "model.sparsec", "--seconds", "0.01"],
    "bench, profile": ["bench", "model.onnx", "--profile", "--tune", "off", "SIZES"],
    "compile": ["compile", "model.onnx", "--tune", "off"],
    "explain": ["explain", "model.onnx", "--layer", "all"],
    "formats": ["formats"],
    "inspect": ["inspect", "model.onnx"],
    "inspect, compiled": ["inspect", "model.sparsec"],
    "run": ["run", "model.sparsec"],
    "simulate": ["simulate", "model.onnx", "--target", "all", "SIZES"],
    "strip": ["strip", "model.onnx", "-o", "small.onnx"],
    "targets": ["targets"],
    "verify": ["verify", "model.sparsec"],
}
WITHOUT_MODEL = ("accelerators", "formats", "targets")
ELSEWHERE = ("bundle", "calibrate", "export", "generate", "prune", "quantize", "serve", "study")
"""Commands that need more than a model."""


def sparse(proto):
    """A model whose weights are pruned and whose nodes have the names that exporters give."""
    rng = np.random.default_rng(0)
    for each in proto.graph.initializer:
        array = numpy_helper.to_array(each)
        if array.ndim > 1 and array.dtype == np.float32:
            each.CopyFrom(numpy_helper.from_array(np.where(rng.random(array.shape) < 0.3, array, 0), each.name))
    for number, node in enumerate(proto.graph.node):
        node.name = f"/network/encoder/layers.{number}/attention/self_attention/projection_{number}/{node.op_type}"
    return proto


@pytest.fixture(scope="module", params=MAKERS)
def kind(request, tmp_path_factory):
    """A kind of model, with a folder that has one and an artifact of it."""
    folder = tmp_path_factory.mktemp("model")
    onnx.save(sparse(MAKERS[request.param]()), folder / "model.onnx")
    with pytest.MonkeyPatch.context() as monkeypatch:
        told = run("compile", request.param, folder, monkeypatch)
    return request.param, folder, told


def run(call, name, folder, monkeypatch):
    """What a call prints on a terminal of 80 columns, and what it writes as JSON."""
    monkeypatch.chdir(folder)
    for attribute, value in {"_force_terminal": True, "_width": 80, "_color_system": None}.items():
        monkeypatch.setattr(tables.console, attribute, value)
    sizes = [part for size in SIZES.get(name, ["batch=1", "length=2"]) for part in ("--dim", size)]
    arguments = [each for part in CALLS[call] for each in (sizes if part == "SIZES" else [part])]
    has_json = "json" in inspect.signature(COMMANDS[CALLS[call][0]]).parameters
    done = CliRunner().invoke(app, [*arguments, *(["--json", "told.json"] if has_json else [])], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    written = (folder / "told.json").read_text() if has_json else "{}"
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", done.stdout), written


def refused(constant):
    raise ValueError(f"{constant} is not JSON")


@pytest.mark.parametrize("call", CALLS)
def test_lines_fit_a_terminal_and_json_is_json(call, kind, monkeypatch):
    name, folder, compiled = kind
    if call in WITHOUT_MODEL and name != "cnn":
        pytest.skip("once is enough: it takes no model")
    told, written = compiled if call == "compile" else run(call, name, folder, monkeypatch)
    assert told
    assert [line for line in told.splitlines() if len(line) > 80] == []
    json.loads(written, parse_constant=refused)


def test_every_command_is_called_here_or_elsewhere():
    assert {call[0] for call in CALLS.values()} | set(ELSEWHERE) == set(COMMANDS)
