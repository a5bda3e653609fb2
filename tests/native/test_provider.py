"""onnxruntime's plugin execution provider: parts of a graph compiled in the process, EPContext nodes, wrong options."""

import ctypes
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

import sparsec
from sparsec.cli import app
from sparsec.errors import UsageError
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.integrations import onnxruntime_provider
from sparsec.native.as_onnx import PROVIDER, as_onnx
from sparsec.native.operator_library import NAME
from tests.native.conftest import DIGITS
from tests.support.bundles import run
from tests.support.texts import model

pytestmark = pytest.mark.skipif(not hasattr(onnxruntime, "register_execution_provider_library"),
                                reason="needs onnxruntime 1.23")
RNG = np.random.default_rng(0)
SPLIT = model("""g (float[2,16] x) => (float[2,8] y) <float[16,32] a, float[32,32] b, float[32,8] c> {
    p = MatMul(x, a) q = Relu(p)
    n = ai.onnx.ml.LabelEncoder<keys_floats = [0.0], values_floats = [0.5], default_float = 0.25>(q)
    r = MatMul(n, b) s = Add(r, q) t = Sigmoid(s) y = MatMul(t, c) }""", **{
        name: np.where(RNG.random(shape) < 0.3, RNG.standard_normal(shape), 0)
        for name, shape in (("a", (16, 32)), ("b", (32, 32)), ("c", (32, 8)))})
CODES = model("""g (float[N,16] x) => (float[N,8] y)
    <int8[16,32] a, int8[32,8] b, float s, uint8 z, int8 o> {
    q = QuantizeLinear(x, s, z) c = DequantizeLinear(q, s, z) d = DequantizeLinear(a, s, o) p = MatMul(c, d)
    n = ai.onnx.ml.LabelEncoder<keys_floats = [0.0], values_floats = [0.5], default_float = 0.25>(p)
    r = QuantizeLinear(n, s, z) f = DequantizeLinear(r, s, z) e = DequantizeLinear(b, s, o) y = MatMul(f, e) }""",
    s=np.float32(0.1), z=np.uint8(7), o=np.int8(0), **{
        name: RNG.integers(-9, 9, shape).astype(np.int8) for name, shape in (("a", (16, 32)), ("b", (32, 8)))})
X = {"x": RNG.standard_normal((2, 16)).astype(np.float32)}


@pytest.fixture(scope="module")
def devices(bundle):
    return sparsec.register_onnxruntime(bundle / "build" / NAME)


def session(devices, source, options=None):
    """A session of sparsec's provider with onnxruntime's own behind it."""
    chosen = onnxruntime.SessionOptions()
    chosen.log_severity_level = 4
    chosen.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    chosen.add_provider_for_devices(devices, options or {})
    return onnxruntime.InferenceSession(source if isinstance(source, bytes) else str(source), chosen)


def assigned(made):
    """The operators of each provider's nodes, part by part."""
    return [(part.ep_name, sorted(node.op_type for node in part.get_nodes()))
            for part in made.get_provider_graph_assignment_info()]


def test_what_sparsec_does_not_know_runs_beside_its_parts(devices, capsys):
    made = session(devices, SPLIT.SerializeToString(), {"tune": "off"})
    assert capsys.readouterr().err.count("session compiles its model here") == 1
    parts = assigned(made)
    assert sorted(len(operators) for name, operators in parts if name == PROVIDER) == [2, 3]
    assert [operators for name, operators in parts if name != PROVIDER] == [["LabelEncoder"]]
    (found,), (expected,) = made.run(None, X), run_onnxruntime(SPLIT, X)
    assert relative_error(found, expected) < 1e-5


def test_layers_in_front_of_outputs_as_large_as_values_say_are_taken(devices):
    found = model("""g (float[2,16] x) => (int64[2,K] y) <float[16,32] a> {
        p = MatMul(x, a) q = Relu(p) y = NonZero(q) }""",
                  a=RNG.standard_normal((16, 32)))
    made = session(devices, found.SerializeToString(), {"tune": "off"})
    assert (PROVIDER, ["MatMul", "Relu"]) in assigned(made)
    np.testing.assert_array_equal(made.run(None, X)[0], run_onnxruntime(found, X)[0])


def test_weights_that_are_stored_as_codes_go_with_their_layers(devices):
    made = session(devices, CODES.SerializeToString(), {"tune": "off"})
    taken = [operators for name, operators in assigned(made) if name == PROVIDER]
    assert taken == [["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"]] * 2
    (found,), (expected,) = made.run(None, X), run_onnxruntime(CODES, X)
    assert relative_error(found, expected) < 1e-5


def test_sizes_that_the_run_tells_stay_so(devices):
    proto = model("g (float[N,16] x) => (float[N,32] y) <float[16,32] a> { p = MatMul(x, a) y = Relu(p) }")
    made = session(devices, proto.SerializeToString(), {"tune": "off"})
    assert assigned(made) == [(PROVIDER, ["MatMul", "Relu"])]
    for rows in (1, 7):
        feeds = {"x": RNG.standard_normal((rows, 16)).astype(np.float32)}
        assert relative_error(made.run(None, feeds)[0], run_onnxruntime(proto, feeds)[0]) < 1e-5


def test_a_stored_model_runs_without_compiling(devices, artifact, monkeypatch, tmp_path):
    monkeypatch.setattr(onnxruntime_provider, "compile_model", None)
    x = RNG.standard_normal((1, 784)).astype(np.float32)
    made = session(devices, as_onnx(artifact, ep_context=True), {"threads": "1"})
    assert assigned(made) == [(PROVIDER, ["EPContext"])]
    (expected,) = sparsec.InferenceSession(artifact).run(None, {"input": x})
    assert made.run(None, {"input": x})[0].tobytes() == expected.tobytes()


def test_a_program_in_cpp_runs_a_stored_model(bundle, artifact, tmp_path):
    library, *_ = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*")
    whole, x = as_onnx(artifact, ep_context=True), RNG.standard_normal((1, 784)).astype(np.float32)
    damaged = bytearray(whole)
    damaged[whole.index(b"SPARSECB") + 1000] ^= 1
    for name, content in (("m.onnx", whole), ("damaged.onnx", bytes(damaged)), ("x", x.tobytes()), ("short", b"1234")):
        (tmp_path / name).write_bytes(content)
    program = bundle / "build" / "run_onnxruntime"

    def call(model, x="x"):
        return run(program, library, tmp_path / model, "--inputs", tmp_path / x, "-o", tmp_path / "y", environment={})

    done = call("m.onnx")
    assert done.returncode == 0, done.stderr
    (expected,) = sparsec.InferenceSession(artifact).run(None, {"input": x})
    assert (tmp_path / "y").read_bytes() == expected.tobytes()
    assert "us" in run(program, library, tmp_path / "m.onnx", 3, environment={}).stdout
    for done, message in ((call("damaged.onnx"), "the model is damaged"), (call("m.onnx", "short"), "has not the 3136"),
                          (run(program, "none.so", tmp_path / "m.onnx"), "none.so"), (run(program), "usage")):
        assert done.returncode
        assert message in done.stderr


def test_compiled_parts_are_kept_where_the_option_says(devices, monkeypatch, tmp_path, capsys):
    options = {"tune": "off", "cache": str(tmp_path)}
    (first,) = session(devices, SPLIT.SerializeToString(), options).run(None, X)
    assert len(list(tmp_path.glob("*.bundle"))) == 2
    monkeypatch.setattr(onnxruntime_provider, "compile_model", None)
    capsys.readouterr()
    (again,) = session(devices, SPLIT.SerializeToString(), options).run(None, X)
    assert not capsys.readouterr().err
    assert again.tobytes() == first.tobytes()


@pytest.mark.parametrize(("options", "message"), [
    ({"thread": "1"}, "no option 'thread'; its options are threads, precision, tune, cache"),
    ({"threads": "many"}, "threads is 'many'; give a number from 1 on"),
    ({"threads": "0"}, "threads is '0'"), ({"tune": "maybe"}, "tune='maybe'; choose one of"),
    ({"precision": "fp3"}, "precision='fp3'"), ({"cache": "/nowhere/at/all"}, "is no folder; make it first")])
def test_wrong_options_are_named(devices, options, message):
    with pytest.raises(Exception, match=r"sparsec|Sparsec") as raised:  # onnxruntime's classes have no common base
        session(devices, SPLIT.SerializeToString(), options)
    assert message in str(raised.value)


def test_what_cannot_be_compiled_is_left_with_a_warning(devices, monkeypatch):
    def refuse(*_arguments, **_options):
        raise sparsec.SparsecError("no such thing")

    monkeypatch.setattr(onnxruntime_provider, "compile_model", refuse)
    with pytest.warns(UserWarning, match="2 nodes from .* are left to onnxruntime: no such thing"):
        made = session(devices, SPLIT.SerializeToString())
    assert PROVIDER not in {name for name, _ in assigned(made)}


def test_a_damaged_model_is_refused(devices, artifact):
    whole = as_onnx(artifact, ep_context=True)
    damaged = bytearray(whole)
    damaged[whole.index(b"SPARSECB") + 1000] ^= 1
    with pytest.raises(Exception, match="sparsec: the model is damaged"):
        session(devices, bytes(damaged))


def test_an_older_onnxruntime_is_named(bundle):
    """A table of functions as onnxruntime's, which offers the first version of its interface only."""
    texts = []
    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(lambda _, text: texts.append(text))
    table = (ctypes.c_void_p * 8)(ctypes.cast(create, ctypes.c_void_p).value)
    get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(
        lambda version: ctypes.addressof(table) if version == 1 else None)
    named = ctypes.CFUNCTYPE(ctypes.c_char_p)(lambda: b"1.22.0")
    base = (ctypes.c_void_p * 2)(*(ctypes.cast(each, ctypes.c_void_p).value for each in (get, named)))
    library = ctypes.CDLL(str(bundle / "build" / NAME))
    library.CreateEpFactories(b"sparsec", base, None, None, ctypes.c_size_t(4), None)
    assert texts[0].startswith(b"sparsec's execution provider needs onnxruntime 1.23 or newer, and this is 1.22.0; ")


def test_the_command_writes_the_form(artifact, tmp_path):
    with pytest.raises(UsageError, match="threads of an EPContext node"):
        as_onnx(artifact, threads=1, ep_context=True)
    arguments = ["compile", str(DIGITS), "-o", str(tmp_path / "m.sparsec"), "--tune", "off", "--no-verify",
                 "--ep-context"]
    assert "--as-onnx" in str(CliRunner().invoke(app, arguments).exception)
    done = CliRunner().invoke(app, [*arguments, "--as-onnx", str(tmp_path / "s.onnx")])
    assert done.exit_code == 0, done.output
    (node,) = onnx.load(tmp_path / "s.onnx").graph.node
    assert (node.op_type, node.domain) == ("EPContext", "com.microsoft")
