"""A defect falls back, or ends as one error that names node, place and versions, with a model that shows it."""

import warnings

import numpy as np
import onnx
import pytest

import sparsec
from sparsec import cli
from sparsec.backends.cpu import layers, lower
from sparsec.errors import InternalError, UnsupportedOperatorError
from sparsec.graph.compare import random_feeds, run_onnxruntime
from sparsec.graph.reader import load
from sparsec.passes import lift, strip
from tests.support.texts import model

PROTO = model("g (float[2,8] x) => (float[2,4] y) <float[8,4] w> { t = MatMul(x, w) y = Softplus(t) }")


def fails(*_given):
    raise KeyError("a defect")


def fails_in_tvm(*_given):
    raise RuntimeError("Traceback of TVM\nInternalError: Check failed")


@pytest.mark.parametrize("where", ["rule", "kernels", "pass"])
@pytest.mark.parametrize("failure", [fails, fails_in_tvm])
def test_a_model_falls_back_where_a_layer_or_pass_fails(monkeypatch, where, failure):
    if where == "pass":
        monkeypatch.setattr(strip, "strip", failure)
    else:
        table, key = (lift.RULES, "MatMul") if where == "rule" else (layers.LAYERS, "sparsec::MatMul")
        monkeypatch.setitem(table, key, failure)
    artifact = sparsec.compile(PROTO, tune="off")
    (outside,) = artifact.report["outside"]
    assert outside["layer"] == ("pass strip" if where == "pass" else "t")
    assert "sparsec failed on it, in " in outside["reason"]
    feeds = random_feeds(load(PROTO))
    np.testing.assert_allclose(sparsec.InferenceSession(artifact).run(None, feeds)[0],
                               run_onnxruntime(PROTO, feeds)[0], rtol=1e-5)
    with pytest.raises(UnsupportedOperatorError, match="sparsec failed on it"):
        sparsec.compile(PROTO, tune="off", strict=True)


@pytest.fixture(params=[fails, fails_in_tvm])
def defect(monkeypatch, request):
    monkeypatch.setattr(lower, "lower_operator", request.param)


@pytest.mark.usefixtures("defect")
def test_a_defect_names_node_place_and_versions():
    with pytest.raises(InternalError, match=r"at node 'y' \(Softplus\), in .*(KeyError|Check failed)") as caught:
        sparsec.compile(PROTO, tune="off")
    assert "apache-tvm" in str(caught.value)
    shown = onnx.ModelProto.FromString(caught.value.node)
    assert [node.op_type for node in shown.graph.node] == ["Softplus"]


@pytest.mark.usefixtures("defect")
def test_the_command_line_exits_with_3_and_writes_the_node(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(PROTO, tmp_path / "model.onnx")
    monkeypatch.setattr("sys.argv", ["sparsec", "--debug", "compile", "model.onnx", "--tune", "off"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 3
    assert "Traceback" in capsys.readouterr().err
    assert onnx.load(tmp_path / cli.DEFECT).graph.node


def run_command(monkeypatch, tmp_path, *arguments, proto=PROTO):
    """The exit code of a command on the model."""
    monkeypatch.chdir(tmp_path)
    onnx.save(proto, tmp_path / "model.onnx")
    monkeypatch.setattr("sys.argv", ["sparsec", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


@pytest.mark.parametrize("failure", [fails, fails_in_tvm])
def test_a_command_that_compiles_nothing_ends_so_too(tmp_path, monkeypatch, capsys, failure):
    monkeypatch.setattr("sparsec.report.describe.describe_model", failure)
    assert run_command(monkeypatch, tmp_path, "inspect", "model.onnx") == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sparsec: error: a defect of sparsec, in sparsec.cli.inspect._inspect_model")


def test_warnings_and_errors_command_no_terminal(tmp_path, monkeypatch, capsys):
    def fail(*_given, **_more):
        warnings.warn("a\x1b[2J\nb", stacklevel=1)
        raise OSError(2, "no\x1b[2J", "such\nfile")

    monkeypatch.setattr("sparsec.report.describe.describe_model", fail)
    assert run_command(monkeypatch, tmp_path, "inspect", "model.onnx") == 1
    assert capsys.readouterr().err.splitlines() == ["sparsec: warning: a\\x1b[2J\\nb",
                                                    "sparsec: error: such\\nfile: no\\x1b[2J"]


def test_a_model_without_layers_is_not_simulated(tmp_path, monkeypatch, capsys):
    relu = model("g (float[2,8] x) => (float[2,8] y) { y = Relu(x) }")
    assert run_command(monkeypatch, tmp_path, "simulate", "model.onnx", proto=relu) == 1
    assert "has no layer that the accelerator takes" in capsys.readouterr().err
