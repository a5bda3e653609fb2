"""Model folders for Triton's Python backend: the configuration, and `model.py` beside the session.

The module `triton_python_backend_utils` exists inside Triton only. The classes below stand in for the part of its
documented interface that `model.py` calls: tensors and responses that hold what they are given.
"""

import importlib.util
import json
import sys
import types
from dataclasses import dataclass, field

import numpy as np
import pytest
from typer.testing import CliRunner

import sparsec
from sparsec.cli import app
from sparsec.errors import UsageError
from sparsec.runtime.signature import TensorInfo
from sparsec.serving.triton import CONFIG, config_of, write_triton
from tests.support.texts import model

RNG = np.random.default_rng(0)


@dataclass
class Tensor:
    name: str
    array: np.ndarray

    def as_numpy(self):
        return self.array


class TritonError(Exception):
    INVALID_ARG = 3

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


@dataclass
class InferenceResponse:
    output_tensors: list
    error: TritonError | None = None


@dataclass
class Request:
    feeds: dict
    wanted: list = field(default_factory=list)

    def requested_output_names(self):
        return self.wanted


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.TritonError, module.InferenceResponse = Tensor, TritonError, InferenceResponse
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request.feeds[name])
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("triton") / "rows.sparsec"
    weight = np.where(RNG.random((16, 8)) < 0.7, 0, RNG.standard_normal((16, 8))).astype(np.float32)
    artifact = sparsec.compile(model("""g (float[b, 16] x) => (float[b, 8] y, float[b, 8] z) <float[16, 8] w> {
        p = MatMul(x, w)
        y = Relu(p)
        z = Neg(y)
    }""", w=weight), tune="off")
    artifact.save(path)
    return path


def opened(folder, rows):
    """What Triton makes of a folder."""
    spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    own = module.TritonPythonModel()
    config = {"max_batch_size": rows, "parameters": {"threads": {"string_value": "1"}}}
    own.initialize({"model_repository": str(folder), "model_version": "1", "model_config": json.dumps(config)})
    return own


def test_the_folder_answers_as_the_session(artifact, tmp_path):
    done = CliRunner().invoke(app, ["bundle", str(artifact), "-o", str(tmp_path / "m"), "--triton", "--threads", "1"])
    assert "up to 32 rows together" in done.output, done.output
    assert (tmp_path / "m" / CONFIG).read_text().splitlines() == [
        'backend: "python"', "max_batch_size: 32", 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 16 ] } ]',
        'output [ { name: "y" data_type: TYPE_FP32 dims: [ 8 ] } ]',
        'output [ { name: "z" data_type: TYPE_FP32 dims: [ 8 ] } ]',
        "instance_group [ { kind: KIND_CPU count: 1 } ]", "dynamic_batching { }",
        'parameters { key: "threads" value: { string_value: "1" } }']
    session, own = sparsec.InferenceSession(artifact), opened(tmp_path / "m", 32)
    feeds = [RNG.standard_normal((rows, 16)).astype(np.float32) for rows in (1, 3, 2)]
    responses = own.execute([Request({"x": x}, ["z"] if len(x) == 3 else []) for x in feeds])
    for x, response in zip(feeds, responses, strict=True):
        expected = dict(zip("yz", session.run(None, {"x": x}), strict=True))
        assert [each.name for each in response.output_tensors] == (["z"] if len(x) == 3 else ["y", "z"])
        for each in response.output_tensors:
            np.testing.assert_allclose(each.array, expected[each.name], rtol=1e-5, atol=1e-6)
    own.finalize()


@pytest.mark.parametrize("rows", [0, 32])
def test_a_request_at_fault_fails_by_itself(artifact, tmp_path, rows):
    write_triton(sparsec.Artifact.load(artifact), tmp_path / "m", 1, max(rows, 1))
    x = RNG.standard_normal((2, 16)).astype(np.float32)
    good, bad, again = opened(tmp_path / "m", rows).execute([Request({"x": each}) for each in (x, x[:, :5], x)])
    assert (bad.error.code, bad.output_tensors) == (TritonError.INVALID_ARG, [])
    assert "axis 1 of input 'x' must be 16, and is 5" in str(bad.error)
    np.testing.assert_allclose(good.output_tensors[0].array, again.output_tensors[0].array, rtol=1e-5)


def test_sizes_and_types_are_tritons():
    text = config_of([TensorInfo("n", [], "tensor(int64)"), TensorInfo('a"b', ["1/8", "?", 3], "tensor(bool)")],
                     [TensorInfo("y", [2], "tensor(float16)")], 0, None)
    assert 'name: "n" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] }' in text
    assert 'name: "a\\"b" data_type: TYPE_BOOL dims: [ -1, -1, 3 ] }' in text
    assert "TYPE_FP16 dims: [ 2 ]" in text
    assert not {"dynamic_batching", "parameters"} & set(text.split())
    with pytest.raises(UsageError, match=r"'y' is a tensor.bfloat16"):
        config_of([], [TensorInfo("y", [2], "tensor(bfloat16)")], 0, None)


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--triton", "--sign", "KEY"], "sparsec compile --sign"), (["--threads", "2"], "are options of --triton")])
def test_options_that_do_not_fit_are_refused(artifact, tmp_path, arguments, reason):
    arguments = [str(artifact) if each == "KEY" else each for each in arguments]
    done = CliRunner().invoke(app, ["bundle", str(artifact), "-o", str(tmp_path / "m"), *arguments])
    assert isinstance(done.exception, UsageError)
    assert reason in str(done.exception)
    (tmp_path / "letter").touch()
    with pytest.raises(UsageError, match="not a model of Triton"):
        write_triton(sparsec.Artifact.load(artifact), tmp_path)
