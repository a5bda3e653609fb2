"""What tells of artifacts for run-time sizes tells of one program: compile, explain, inspect and bench agree."""

import json
import threading
from dataclasses import asdict

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from threadpoolctl import threadpool_info
from typer.testing import CliRunner

import sparsec
from sparsec.bench.feeds import random_inputs, sizes_of
from sparsec.cli import app, tables
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.portable import pack
from sparsec.compiler.samples import PIXELS, TOKENS, open_samples, usual
from sparsec.compiler.sized.recurrent import STEPS
from sparsec.errors import InputError, ShapeError
from sparsec.graph import reader
from sparsec.machine.blas import within
from sparsec.passes.strip import strip
from sparsec.report.describe import describe_artifact, describe_model
from sparsec.report.explain import explain
from tests.support import texts
from tests.support.targets import runnable


def model():
    """Two layers of rows, a product of rows with each other, which numpy computes, and a name that shells split."""
    text = """<ir_version: 10, opset_import: ["" : 20]> mixed (float[batch, length, 16] x) => (float[a, b, 8] y) {
      h = MatMul(x, w) r = Relu(h) t = Transpose<perm=[0, 2, 1]>(r) s = MatMul(t, r) y = MatMul(s, v)
    }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "past length"
    rng = np.random.default_rng(0)
    for name, shape in (("w", (16, 24)), ("v", (24, 8))):
        array = rng.standard_normal(shape, np.float32) * (rng.random(shape) < 0.3)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return proto


@pytest.fixture(scope="module")
def artifact():
    return sparsec.compile(model(), tune="off")


def test_explain_tells_of_the_artifact_that_compile_makes(artifact):
    found = explain(model())
    assert found.sizes == {"batch": 1, "past length": 1}
    own = [(row["layer"], row["rows"], row["format"], row["kernel"]) for row in artifact.report["layers"]]
    assert sorted((row.layer, row.rows, row.format, row.kernel) for row in found.any_size.rows) == sorted(own)
    assert [(each.node, each.text) for each in found.any_size.outside] == [
        (each["layer"], each["reason"]) for each in artifact.report["outside"]] != []
    assert list(found.any_size.call_us.values()) == sorted(found.any_size.call_us.values())
    assert explain(model(), dims={"batch": 1, "past length": 4}).any_size is None


def test_real_inputs_are_divided_by_the_range_of_rows_and_checked_before_anything_is_compiled():
    rows = np.ones((10, 5, 16), np.float32)
    graph = reader.load(model(), symbolic=True)
    assert [len(each["x"]) for each in open_samples(graph, {"x": rows}, {"batch": (1, 4)})] == [4, 4, 2]
    assert [len(each["x"]) for each in open_samples(graph, {"x": rows}, {"batch": (3, 4)})] == [4, 4]
    for dims, given, message in (({"past length": "1..4"}, rows, "'past length' is 5 in input 'x', and is to be 1 to"),
                                 ({"batch": "20..30"}, rows, "'batch' is 10 in input 'x'"),
                                 ({"batch": "1..4"}, rows[..., :8], "input 'x' takes")):
        with pytest.raises(ShapeError, match=message):
            sparsec.compile(model(), dims=dims, inputs={"x": given}, tune="off")


def test_inspect_tells_the_weights_of_a_recurrent_layer_apart():
    proto = texts.model("g (float[5,1,8] x) => (float[5,1,1,8] y) <float[1,24,8] w, float[1,24,8] r> "
                        "{ [gru] y = GRU<hidden_size=8>(x, w, r) }")
    found = reader.load(proto)
    assert [layer["layer"] for layer in describe_model(found)["layers"]] == ["gru.inputs", "gru.steps"]
    assert [layer.name for layer in strip(found).layers] == ["gru.inputs", "gru.steps"]


def test_explain_prices_at_sizes_that_a_table_of_positions_has():
    table = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> f (float[batch, seq, 8] x) => (float[batch, seq, 8] y) '
        "<int64[1] zero = {0}, int64[1] one = {1}> "
        "{ all = Shape(x) end = Gather(all, one) own = Slice(table, zero, end, zero) y = Add(x, own) }")
    table.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((40, 8), np.float32), "table"))
    assert explain(table).sizes == {"batch": 1, "seq": 16}
    with pytest.raises(ShapeError, match=r"sizes .* do not fit the network: at node .* \(Add\)"):
        explain(table, dims={"seq": 41})


def test_explain_prices_at_sizes_that_are_usual():
    names = {"image": ["n", 3, "h", "w"], "ids": ["n", "s"], "past": ["n", 2, "past_length", 8],
             "mask": ["n", "total_length"]}
    inputs = {name: ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
              for name, shape in names.items()}
    assert usual([inputs["image"], inputs["ids"]], {"s": (1, 64)}) == {"n": 1, "h": PIXELS, "w": PIXELS, "s": 64}
    del inputs["image"]
    inputs["ids"].shape = ir.Shape(["n", "sequence"])
    assert usual(inputs.values(), {}) == {"n": 1, "sequence": 1, "past_length": TOKENS, "total_length": TOKENS + 1}


def test_totals_are_those_of_one_number_of_rows(artifact):
    told = describe_artifact(artifact, 0)
    most = told["rows"][-1]
    assert [each["rows"] for each in told["rows"]] == sorted({row["rows"] for row in artifact.report["layers"]})
    assert told["totals"]["layers"] == len({row["layer"] for row in artifact.report["layers"]})
    assert told["totals"]["predicted_us"] == pytest.approx(most["predicted_us"])


def test_inputs_have_the_sizes_that_are_asked_for(artifact):
    feeds = random_inputs(artifact, None, {"batch": 2, "past length": 7})
    assert sizes_of(artifact, feeds) == {"batch": 2, "past length": 7}
    with pytest.raises(ShapeError, match="no input has a dimension 'length'"):
        random_inputs(artifact, None, {"length": 7})
    assert sizes_of(artifact, random_inputs(artifact))["batch"] == 1


def test_random_inputs_are_as_long_as_a_model_takes():
    text = """<ir_version: 8, opset_import: ["": 17]> g (int64[n, length] ids) => (float[n, length, 4] y) {
        shape = Shape<start = 1> (ids) zero = Constant<value_int = 0> () one = Constant<value_int = 1> ()
        length = Squeeze (shape) places = Range (zero, length, one) y0 = Gather (positions, places)
        word = Gather (words, ids) y = Add (word, y0) }"""
    proto = onnx.parser.parse_model(text)
    for name, rows in (("positions", 77), ("words", 9)):
        table = np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(table, name))
    found = sparsec.compile(proto, tune="off")
    assert sizes_of(found, random_inputs(found)) == {"n": 1, "length": TOKENS // 2}


def test_commands_take_sizes_alike(artifact, tmp_path):
    artifact.save(tmp_path / "m.sparsec")
    onnx.save(model(), tmp_path / "m.onnx")

    def told(*arguments):
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    sizes = ["--dim", "batch=2", "--dim", "past length=6"]
    profile = told("bench", tmp_path / "m.sparsec", *sizes, "--profile")
    assert "batch = 2, past length = 6" in profile
    assert "repeats what the first" in profile
    assert "batch = 3, past length = 5" in told("bench", tmp_path / "m.sparsec", "--shape", "x:3,5,16", "--profile")
    assert "for batch = 2, past length = 6" in told("explain", tmp_path / "m.onnx", *sizes)
    assert "no kernel" in told("explain", tmp_path / "m.onnx")
    assert "rows" in told("inspect", tmp_path / "m.sparsec")
    assert "at batch = 2, past length = 6;" in told("run", tmp_path / "m.sparsec", *sizes)


def test_inspect_names_the_sizes_that_the_run_tells_and_their_limits(tmp_path):
    sparsec.compile(model(), tune="off", dims={"batch": "1..4"}).save(tmp_path / "m.sparsec")
    told = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.sparsec"), "--json", str(tmp_path / "m.json")]).output
    assert "batchxpast lengthx16" in told
    assert "sizes that the run tells: batch, 1 to 4; past length, any" in " ".join(told.split())
    figures = json.loads((tmp_path / "m.json").read_text())
    assert figures["inputs"][0]["shape"] == ["batch", "past length", 16]
    assert figures["dims"] == {"batch": [1, 4], "past length": None}


def test_portable_artifacts_are_told_how_to_get_fixed_sizes():
    with pytest.raises(ShapeError, match=r"dims=\{'batch': 1, 'past length': 1\}"):
        pack(model(), CompileOptions())
    packed = pack(model(), CompileOptions(dims={"batch": 1, "past length": 3}))
    assert packed.manifest.inputs[0].shape == (1, 3, 16)


def test_reasons_are_told_once():
    rows = [{"layer": f"l{number}", "reason": "why"} for number in range(8)] + [{"layer": "m", "reason": "else"}]
    assert tables.outside(rows) == ["8 layers run without sparsec's kernels: why: l0, l1, l2, l3, l4, l5 and 2 more",
                                    "m runs without sparsec's kernels: else"]
    many = [{**row, "operator": "MatMul" if row["layer"] == "l0" else "Exp"} for row in rows]
    assert tables.outside(many)[0] == "8 layers run without sparsec's kernels: why: 7 Exp, 1 MatMul"


def blas_threads():
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def test_blas_has_the_threads_of_a_session_and_no_fewer_afterwards():
    before, seen, inside, go = blas_threads(), [], threading.Event(), threading.Event()
    within(1, int)()  # OpenBLAS listens to the first thread alone that gives it a number
    other = threading.Thread(target=within(1, lambda: (inside.set(), go.wait(5))))
    other.start()
    inside.wait(5)
    within(1, lambda: seen.append(blas_threads()))()
    within(64, lambda: seen.append(blas_threads()))()
    go.set()
    other.join()
    assert seen == [[1] * len(before), before]
    assert blas_threads() == before


def explained(tmp_path, attributes):
    """What `explain` finds of a product and an LSTM of any length, and what it prints."""
    proto = texts.model("g (float[time,batch,4] x) => (float[time,1,batch,3] y) <float[1,12,4] w, float[1,12,3] r, "
                        f"float[4,4] v> {{ h = MatMul(x, v) y = LSTM<hidden_size=3{attributes}>(h, w, r) }}")
    onnx.save(proto, tmp_path / "m.onnx")
    found, written = explain(proto), tmp_path / "m.json"
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "m.onnx"), "--json", str(written)])
    assert done.exit_code == 0, done.output
    assert json.loads(written.read_text()).keys() == asdict(found).keys()
    return found.any_size, " ".join(done.output.split())


def test_explain_times_what_the_reference_computes_and_calls_the_rest_so(tmp_path):
    found, told = explained(tmp_path, ', activations=["Softsign", "Tanh", "Tanh"]')
    times, = found.interpreted.values()
    assert times > 3 * max(found.call_us.values())
    assert "the rest" in told
    assert "measured at batch = 1, time = 1" in told or "measured at time = 1, batch = 1" in told


def test_explain_says_for_how_many_steps_recurrent_layers_are_priced(tmp_path):
    found, told = explained(tmp_path, "")
    assert len(found.recurrent) == 1
    assert not found.outside
    assert "the rest" in told
    assert f"priced for {STEPS} steps of so many members of a batch: {min(found.recurrent)};" in told
    done = CliRunner().invoke(app, ["compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.sparsec"), "--tune",
                                    "off"])
    assert (f"priced for {STEPS} steps of so many members of a batch: {min(found.recurrent)} "
            in " ".join(done.output.split()))


@pytest.mark.parametrize("rows", [3, 12])
def test_sizes_that_a_file_has_fixed_are_refused_by_what_cannot_be_computed(rows):
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]> fixed
      (float[batch, length, 8] x) => (float[a, b, c] y) <int64[3] shape = {11, -1, 16}>
      { h = MatMul(x, w) split = Reshape(h, shape) y = Relu(split) }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    session = sparsec.InferenceSession(sparsec.compile(proto, tune="off"))
    x = np.ones((1, 22, 8), np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x.reshape(11, -1, 16))
    with pytest.raises(InputError, match=r"'split' cannot be computed where batch is 1.*exporter has fixed"):
        session.run(None, {"x": np.ones((1, rows, 8), np.float32)})


CONVOLUTIONS = {
    "no rows": ("y = Relu(c)", 64, 1.0), "gated": ("s = Sigmoid(c) y = Mul(c, s)", 64, 1.0),
    "a pixel behind it": ("y = Conv(c, p)", 32, 1.0), "rows behind it": ("y = Conv(c, p)", 32, 0.02)}
"""What follows a convolution that is a kernel of its own: nodes, channels of the result, and the density of `p`."""


@pytest.mark.parametrize(("dims", "largest"), [({}, 64), ({"h": "1..3", "w": "1..4"}, 16)], ids=["open", "few pixels"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("target", runnable("cpu-avx2"))
def test_convolutions_that_are_no_rows_are_priced_for_every_number_of_rows(name, dims, largest, target, tmp_path):
    nodes, channels, density = CONVOLUTIONS[name]
    proto = texts.model(f"g (float[1, 64, h, w] x) => (float[1, {channels}, h, w] y) <float[64, 64, 3, 3] k, "
                        f"float[32, 64, 1, 1] p> {{ c = Conv<pads=[1,1,1,1]>(x, k) {nodes} }}")
    for tensor in (each for each in proto.graph.initializer if each.name == "p"):
        array = onnx.numpy_helper.to_array(tensor)
        kept = np.arange(array.size).reshape(array.shape) < density * array.size
        tensor.CopyFrom(onnx.numpy_helper.from_array(array * kept, "p"))
    found, artifact = explain(proto, target, dims=dims).any_size, sparsec.compile(proto, target, tune="off", dims=dims)
    own = [(row["layer"], row["rows"], row["kernel"], row["predicted_us"]) for row in artifact.report["layers"]]
    assert sorted((row.layer, row.rows, row.kernel, row.predicted_us) for row in found.rows) == sorted(own)
    assert max(found.call_us) == largest
    assert (found.stages, len(found.call_us) == 1) == ((1, False) if name == "rows behind it" else (0, True))
    for count, us in found.call_us.items():
        rows = [row for row in found.rows if row.rows == count]
        assert {row.layer for row in rows} == {row.layer for row in found.rows}
        assert {row.kernel for row in rows} >= {"gemm/winograd"}
        assert us > sum(row.predicted_us for row in rows)
    onnx.save(proto, tmp_path / "m.onnx")
    sizes = [f"--dim={name}={size}" for name, size in dims.items()]
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "m.onnx"), "--target", target, *sizes])
    assert f"{largest} rows" in done.output, done.output
