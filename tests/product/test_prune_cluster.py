"""`sparsec prune --on`: what each layer costs is found in parts, and the result is the one of a single machine."""

import json

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sparsec.cli import app
from sparsec.cli.prune_cluster import answered, answers_on
from sparsec.errors import UsageError
from sparsec.oneshot import dense, file
from sparsec.oneshot.goal import Goal
from sparsec.oneshot.reach import to_goal
from sparsec.target import resolve
from tests.support.texts import model

NETWORK = """g (float[N,12] x) => (float[N,6] y) <float[12,24] a, float[24] b, float[24,24] c, float[24,6] d> {
    h = MatMul(x, a) i = Add(h, b) j = Relu(i) k = MatMul(j, c) l = Relu(k) m = MatMul(l, c) y = MatMul(m, d) }"""


def quiet(_what, _share):
    pass


@pytest.fixture
def paths(tmp_path):
    onnx.save(model(NETWORK), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((16, 12)).astype(np.float32))
    return tmp_path / "m.onnx", tmp_path / "x.npz"


def split(paths, names, sparsities, method=("obs", "unstructured", ())):
    """The answers of two parts, as a cluster's machines send them."""
    from sparsec.cli.prune_cluster import _digest

    given = [[str(path), _digest(path)] for path in paths]
    found = [json.loads(json.dumps(answered(given, method, sparsities, names[part::2]))) for part in range(2)]
    assert not any(each["error"] for each in found)
    return {name: dense.Answer(np.array(each["mean"]), tuple(each["errors"]))
            for part in found for name, each in part["answers"].items()}


@pytest.mark.parametrize("goal", [0.8, Goal("bytes", 2500.0)])
def test_parts_prune_as_one_machine_does(paths, goal):
    proto, arrays, method = file.read(paths[0])[0], dict(np.load(paths[1])), file.Method()

    def made(answers):
        if isinstance(goal, Goal):
            return to_goal(proto, arrays, goal, method, resolve("cpu-generic"), 1, quiet, answers)[0]
        return file.to_sparsity(proto, arrays, goal, method, quiet, None, answers)

    here, there = made(None), made(lambda names, sparsities: split(paths, names, sparsities))
    assert here.pruned.model == there.pruned.model
    assert here.pruned.outputs == there.pruned.outputs


def test_another_file_on_a_machine_is_named(paths):
    found = answered([[str(paths[0]), "0" * 64], [str(paths[1]), "0" * 64]], ("obs", "unstructured", ()), [0.5], ["a"])
    assert found == {"error": f"{paths[0]}: not the file that it is where the command was given; copy it there"}


def test_layers_are_asked_for_only_where_they_are_independent(paths):
    proto, arrays = file.read(paths[0])[0], dict(np.load(paths[1]))
    with pytest.raises(UsageError, match="--quota uniform of pattern 'unstructured' asks for none"):
        file.to_sparsity(proto, arrays, 0.5, file.Method("wanda"), quiet, None, lambda _names, _sparsities: {})
    assert answers_on("local", *paths, file.Method(), None, quiet) is None


@pytest.mark.parametrize(("source", "extra", "message"), [
    ("m.onnx", ["--on", "there"], "--on there: give local, or the address of a Ray cluster"),
    ("m.onnx", ["--on", "ray://h:1", "--pattern", "units"], "--on is not for --pattern units"),
    ("lenet300", ["--on", "ray://h:1"], "--on is for ONNX files")])
def test_wrong_uses(paths, source, extra, message):
    given = [str(paths[0]), "--inputs", str(paths[1])] if source == "m.onnx" else [source]
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(app, ["prune", *given, "-o", str(paths[0].parent / "out.onnx"), "--sparsity", "0.5", *extra],
                           catch_exceptions=False)
