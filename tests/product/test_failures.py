"""A defect ends as one error that names the node, the place and the versions, with a model that shows it."""

import numpy as np
import onnx
import pytest

import sparsec
from sparsec import cli
from sparsec.errors import InternalError
from sparsec.passes import lift
from tests.support.texts import model

PROTO = model("g (float[2,8] x) => (float[2,4] y) <float[8,4] w> { y = MatMul(x, w) }")


@pytest.fixture
def defect(monkeypatch):
    def fails(node):
        raise KeyError(node.op_type)

    monkeypatch.setitem(lift.RULES, "MatMul", fails)


@pytest.mark.usefixtures("defect")
def test_a_defect_names_node_place_and_versions():
    with pytest.raises(InternalError, match=r"at node 'y' \(MatMul\), in .*fails|at node .*KeyError") as caught:
        sparsec.compile(PROTO, tune="off")
    assert "apache-tvm" in str(caught.value)
    shown = onnx.ModelProto.FromString(caught.value.node)
    assert [node.op_type for node in shown.graph.node] == ["MatMul"]
    (weight,) = shown.graph.initializer
    assert weight.dims == [8, 4]
    assert not np.allclose(onnx.numpy_helper.to_array(weight), onnx.numpy_helper.to_array(PROTO.graph.initializer[0]))


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
