"""onnxruntime runs artifacts as nodes beside its own, in a process that loads neither sparsec nor TVM's packages."""

import ctypes
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

import sparsec
from sparsec.cli import app
from sparsec.errors import ToolchainError
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.native.as_onnx import DOMAIN, as_onnx
from sparsec.native.operator_library import NAME
from tests.support.bundles import run
from tests.support.decoders import DECODER, decoder_feeds, model_of
from tests.support.small_session import NETWORK, X

LABELS = [f"class {number}" for number in range(5)]
SCRIPT = """
import json, sys
import numpy as np
import onnxruntime
library, model, feeds, answers = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.register_custom_ops_library(library)
try:
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, dict(np.load(feeds)))
    np.savez(answers, *[each.astype(str) if each.dtype == object else each for each in outputs])
    print(json.dumps([[info.shape for info in session.get_inputs()], "sparsec" in sys.modules]))
except Exception as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def network():
    return sparsec.compile(NETWORK, tune="off", verify=False)


def beside_onnxruntime(library, folder, model, feeds):
    """The outputs and shapes of the inputs, or the error, of a model in a process of onnxruntime's alone."""
    (folder / "model.onnx").write_bytes(model)
    np.savez(folder / "feeds.npz", **feeds)
    done = run(sys.executable, "-c", SCRIPT, library, folder / "model.onnx", folder / "feeds.npz",
               folder / "answers.npz", environment={})
    if done.returncode:
        return done.stderr
    shapes, has_sparsec = json.loads(done.stdout.splitlines()[-1])
    assert not has_sparsec
    return list(np.load(folder / "answers.npz").values()), shapes


def test_nodes_that_sparsec_refuses_run_in_the_same_session(bundle, network, tmp_path):
    proto = onnx.ModelProto.FromString(as_onnx(network))
    (output,) = proto.graph.output
    label = helper.make_tensor_value_info("label", onnx.TensorProto.STRING, [1])
    proto.graph.node.extend([
        helper.make_node("ArgMax", [output.name], ["best"], axis=1, keepdims=0),
        helper.make_node("LabelEncoder", ["best"], ["label"], domain="ai.onnx.ml", keys_int64s=list(range(5)),
                         values_strings=LABELS)])
    proto.graph.output.append(label)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    (scores, labels), _ = beside_onnxruntime(bundle / "build" / NAME, tmp_path, proto.SerializeToString(), {"x": X})
    (expected,) = run_onnxruntime(NETWORK, {"x": X})
    assert relative_error(scores, expected) < 1e-4
    assert labels.tolist() == [LABELS[int(expected.argmax())]]


def test_sizes_that_the_run_tells_are_symbols(bundle, tmp_path):
    model = model_of(DECODER)
    artifact, feeds = sparsec.compile(model, tune="off", verify=False), decoder_feeds(2, 3, 4)
    outputs, shapes = beside_onnxruntime(bundle / "build" / NAME, tmp_path, as_onnx(artifact), feeds)
    assert shapes[0] == ["batch", "tokens"]
    for pair in zip(outputs, run_onnxruntime(model, feeds), strict=True):
        assert relative_error(*pair) < 1e-4


def test_what_cannot_run_is_refused_with_the_reason(bundle, network, tmp_path):
    whole = as_onnx(network)
    damaged = bytearray(whole)
    damaged[whole.index(b"SPARSECB") + 1000] ^= 1
    cut = onnx.ModelProto.FromString(whole)
    cut.graph.node[0].attribute[0].s = cut.graph.node[0].attribute[0].s[:50]
    assert cut.graph.node[0].domain == DOMAIN
    for model, message in ((bytes(damaged), "sparsec: the model is damaged"),
                           (cut.SerializeToString(), "not a model that `sparsec bundle` writes, or it is cut off"),
                           (as_onnx(network, threads=9), "threads is 9, and the model was compiled for 1 to 1")):
        assert message in beside_onnxruntime(bundle / "build" / NAME, tmp_path, model, {"x": X})


def test_an_older_onnxruntime_is_named(bundle):
    """A table of functions as onnxruntime's, which offers the first version of its interface only."""
    texts = []
    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(lambda _, text: texts.append(text) or 1)
    table = (ctypes.c_void_p * 8)(ctypes.cast(create, ctypes.c_void_p).value)
    get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(
        lambda version: ctypes.addressof(table) if version == 1 else None)
    named = ctypes.CFUNCTYPE(ctypes.c_char_p)(lambda: b"1.9.0")
    base = (ctypes.c_void_p * 2)(*(ctypes.cast(each, ctypes.c_void_p).value for each in (get, named)))
    assert ctypes.CDLL(str(bundle / "build" / NAME)).RegisterCustomOps(None, base)
    assert texts == [b"sparsec needs onnxruntime 1.17 or newer, and this is 1.9.0"]


@pytest.mark.skipif(not os.environ.get("SPARSEC_LONG"), reason="compiles for half a minute")
def test_the_library_is_compiled_once_and_runs_artifacts(network, tmp_path):
    path = Path(sparsec.onnxruntime_library())
    made = path.stat().st_mtime_ns
    assert sparsec.onnxruntime_library() == str(path)
    assert path.stat().st_mtime_ns == made
    (scores,), _ = beside_onnxruntime(path, tmp_path, as_onnx(network), {"x": X})
    assert relative_error(scores, run_onnxruntime(NETWORK, {"x": X})[0]) < 1e-4


def test_the_command_writes_the_file(tmp_path):
    (tmp_path / "m.onnx").write_bytes(NETWORK.SerializeToString())
    done = CliRunner().invoke(app, ["compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.sparsec"), "--tune",
                                    "off", "--no-verify", "--as-onnx", str(tmp_path / "s.onnx")])
    assert done.exit_code == 0, done.output
    assert "s.onnx: " in (told := " ".join(done.output.split())).partition("the model was")[2]
    assert "register_custom_ops_library(sparsec.onnxruntime_library())" in told
    assert (tmp_path / "s.onnx").read_bytes() == as_onnx(sparsec.Artifact.load(tmp_path / "m.sparsec"))


def test_without_a_compiler_the_library_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"install g\+\+ or clang"):
        sparsec.onnxruntime_library()
