"""The command line: what each command prints and writes."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from typer.main import get_command

from sparsec.artifact.file import Artifact
from sparsec.cli import COMMANDS, app, as_typed, takes_dim
from sparsec.compiler.pipeline import PASSES
from sparsec.machine import cpus
from tests.support.cli import sparsec, write_model
from tests.support.texts import model


def test_compile_reports_formats_verification_and_sizes(folder):
    text, figures = (folder / "compile.txt").read_text(), json.loads((folder / "compile.json").read_text())
    assert "weights kept" in text
    assert "outputs match onnxruntime on random inputs: " in text
    assert figures["totals"]["layers"] == 2
    assert figures["file_bytes"] == (folder / "model.sparsec").stat().st_size
    assert max(figures["verification"]["relative_error"].values()) <= 1e-4
    assert [path.suffix for path in (folder / "ir").iterdir()] == [".onnx"] * len(PASSES)


def test_compile_is_deterministic(folder, tmp_path):
    sparsec("compile", folder / "model.onnx", "-o", tmp_path / "again.sparsec", "--tune", "off")
    assert (tmp_path / "again.sparsec").read_bytes() == (folder / "model.sparsec").read_bytes()


def test_run_writes_what_onnxruntime_answers(folder, tmp_path):
    import onnxruntime

    x = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    sparsec("run", folder / "model.sparsec", "--input", tmp_path / "x.npz", "-o", tmp_path / "y.npz")
    expected = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"x": x})[0]
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", ["nothing", "x.npz", "x.npy"])
def test_run_takes_arrays_in_every_form(folder, tmp_path, given):
    x = np.ones((1, 64), np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    np.save(tmp_path / "x.npy", x)
    text = sparsec("run", folder / "model.sparsec", "-o", tmp_path / "y.npz",
                   *(() if given == "nothing" else ("--input", tmp_path / given)))
    assert ("inputs are random" in text) == (given == "nothing")
    assert np.load(tmp_path / "y.npz")["y"].shape == (1, 10)


@pytest.mark.parametrize("arguments", ["model.onnx", "model.sparsec", "model.sparsec --model model.onnx"])
def test_bench_times_every_engine(folder, tmp_path, arguments):
    files = [folder / each if each.startswith("model") else each for each in arguments.split()]
    told = sparsec("bench", *files, "--seconds", "0.05", "--json", tmp_path / "bench.json")
    figures = json.loads((tmp_path / "bench.json").read_text())
    beside = arguments.endswith("onnx")
    assert [e["engine"] for e in figures["engines"]] == ["sparsec", "onnxruntime"][:2 if beside else 1]
    assert ("--model MODEL.onnx" in told) is not beside
    for engine in figures["engines"]:
        assert 0 < engine["p50_us"] <= engine["p90_us"] <= engine["p99_us"]
        assert engine["per_second"] > 0


def test_bench_takes_the_threads_that_an_artifact_was_compiled_for(tmp_path):
    sparsec("compile", write_model(tmp_path / "model.onnx"), "--threads", "2", "--tune", "off", "-o",
            tmp_path / "two.sparsec")
    told = sparsec("bench", tmp_path / "two.sparsec", "--seconds", "0.05", "--json", tmp_path / "bench.json")
    expected = min(2, cpus.available())
    assert json.loads((tmp_path / "bench.json").read_text())["threads"] == expected
    assert f"engine, {expected} thread" in told


def test_bench_measures_the_throughput_of_batches(tmp_path):
    write_model(tmp_path / "rows.onnx", batch='"n"')
    sparsec("bench", tmp_path / "rows.onnx", "--batch", "8", "--streams", "2", "--seconds", "0.05", "--json",
            tmp_path / "bench.json")
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["streams"] == 2
    for engine in figures["engines"]:
        assert engine["open_ms"] > 0
        assert engine["peak_bytes"] > 1e7
    assert figures["ratio"]["onnxruntime"] == pytest.approx(
        figures["engines"][0]["per_second"] / figures["engines"][1]["per_second"])


def test_bench_and_inspect_take_portable_artifacts_with_buckets(tmp_path):
    write_model(tmp_path / "rows.onnx", batch='"n"')
    sparsec("compile", tmp_path / "rows.onnx", "--shape", "x:1/8,64", "--portable", "-o", tmp_path / "p.sparsec")
    sparsec("bench", tmp_path / "p.sparsec", "--shape", "x:8,64", "--seconds", "0.05")
    text = sparsec("inspect", tmp_path / "p.sparsec", "--json", tmp_path / "p.json")
    assert "compiled where it is opened" in text
    assert len(json.loads((tmp_path / "p.json").read_text())["model"]["layers"]) == 2
    assert "it takes 'x' [1, 64] or 'x' [8, 64]" in sparsec("bench", tmp_path / "p.sparsec", "--shape", "x:9,64",
                                                            code=2)


@pytest.mark.parametrize("arguments", ["bench --profile --tune off", "bench --formats dense", "simulate",
                                       "simulate --target scnn"])
def test_sizes_that_nobody_gives_are_chosen_and_told(tmp_path, arguments):
    command, *options = arguments.split()
    text = sparsec(command, write_model(tmp_path / "rows.onnx", batch='"n"'), *options)
    assert "n = 1" in text
    assert "--dim and --shape" in " ".join(text.split())


@pytest.mark.parametrize("threads", [1, 2])
def test_bench_profiles_every_layer(folder, tmp_path, threads):
    text = sparsec("bench", folder / "model.onnx", "--profile", "--threads", threads, "--json", tmp_path / "p.json")
    assert max(map(len, text.splitlines())) <= 80
    layers = json.loads((tmp_path / "p.json").read_text())["layers"]
    assert sum(layer["format"] is not None for layer in layers) == 2
    assert sum(layer["share"] for layer in layers) == pytest.approx(1)
    assert all(0 < layer["roofline"] < 1 for layer in layers if layer["format"])


@pytest.mark.parametrize(("precision", "form"), [("bf16", ["--seconds", "0.05"]), ("bf16", ["--profile"]),
                                                 ("int8", ["--profile"])])
def test_bench_takes_a_precision(folder, tmp_path, precision, form):
    sparsec("bench", folder / "model.onnx", *form, "--precision", precision, "--json", tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text())["precision"] == precision


@pytest.mark.parametrize(("file", "heading"), [("model.onnx", "layer +operator +shape"),
                                               ("model.sparsec", "layer +shape .* predicted")])
def test_inspect_shows_layers_and_signature(folder, tmp_path, file, heading):
    text = sparsec("inspect", folder / file, "--json", tmp_path / "inspect.json")
    figures = json.loads((tmp_path / "inspect.json").read_text())
    assert [i["name"] for i in figures["inputs"]] == ["x"]
    assert [layer["weights"] for layer in figures["layers"]] == [64 * 32, 32 * 10]
    assert re.search(heading, text)


def test_inspect_shows_sparse_initializers(tmp_path):
    model = onnx.load(write_model(tmp_path / "model.onnx"))
    dense = numpy_helper.to_array(model.graph.initializer[0])
    values = numpy_helper.from_array(dense[dense != 0], "w")
    positions = numpy_helper.from_array(np.flatnonzero(dense), "w_positions")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, positions, dense.shape))
    del model.graph.initializer[0]
    onnx.save(model, tmp_path / "sparse.onnx")
    stored = [line.split()[-1] for line in sparsec("inspect", tmp_path / "sparse.onnx").splitlines() if "64x32" in line]
    assert stored == ["sparse"]


def test_symbolic_dimensions_are_sizes_of_a_run_or_bound_by_name(tmp_path):
    write_model(tmp_path / "model.onnx", batch="batch")
    sparsec("compile", tmp_path / "model.onnx", "--tune", "off", "-o", tmp_path / "model.sparsec")
    for rows in (1, 3):
        np.save(tmp_path / "x.npy", np.ones((rows, 64), np.float32))
        sparsec("run", tmp_path / "model.sparsec", "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npz")
        assert np.load(tmp_path / "y.npz")["y"].shape == (rows, 10)
    lines = sparsec("inspect", tmp_path / "model.sparsec").splitlines()
    assert max(map(len, lines)) <= 80
    assert len(re.findall(r"^\S+ +\d+x\d+ ", "\n".join(lines), re.MULTILINE)) == 2  # one line a layer
    assert [line for line in lines if line.startswith("for 1 row: ")]
    sparsec("compile", tmp_path / "model.onnx", "--shape", "x:2,64", "--tune", "off",
            "-o", tmp_path / "model.sparsec")
    assert Artifact.load(tmp_path / "model.sparsec").manifest.inputs[0].shape == (2, 64)


def test_help_groups_the_options_of_what_prune_takes():
    text = sparsec("prune", "--help")
    assert text.index("Options for a reference network:") < text.index("--epochs") < text.index("\nOptions:\n")
    assert text.count("\n") <= 70


@pytest.mark.parametrize(("message", "typed"), [
    ("compile without strict=True", "compile without --strict"),
    ("compile with verify=False to accept that", "compile with --no-verify to accept that"),
    ("optimize='balanced' or optimize='size'", "--optimize balanced or --optimize size"),
    ("max_error 0.1 is out of reach", "--max-error 0.1 is out of reach"),
    ("pass dims={'a b': 1, 'c': 1} or shapes={'x': (1, 3)}", "pass --dim 'a b=1' --dim c=1 or --shape x:1,3"),
    ("give sizes with dims or shapes, dims={broken}", "give sizes with --dim or --shape, dims={broken}")])
def test_options_are_told_as_they_are_typed(message, typed):
    assert as_typed(message) == typed


@pytest.mark.parametrize("command", COMMANDS)
def test_advice_names_only_options_that_the_command_has(monkeypatch, command):
    monkeypatch.setattr("sys.argv", ["sparsec", "--debug", command, "m.onnx"])
    told = as_typed("pass dims={'n': 1} or shapes={'x': (1, 3)}; bind it with dims or shapes", takes_dim())
    assert told.endswith("--shape")
    assert ("--dim" in told) == any("--dim" in each.opts for each in get_command(app).commands[command].params)


def test_help_describes_every_command_in_full():
    out = sparsec("--help")
    assert [line for line in out.splitlines() if line.startswith("  ") and line.endswith("...")] == []


def test_run_shows_the_first_numbers_or_writes_an_array(folder, tmp_path):
    out = sparsec("run", folder / "model.sparsec")
    assert re.search(r"y +float32 +1x10( +-?[0-9.e+-]+){4}$", out, re.MULTILINE)
    sparsec("run", folder / "model.sparsec", "-o", tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").shape == (1, 10)


@pytest.mark.parametrize("arguments", [["targets"], ["--help"], ["inspect", "model.onnx"], ["inspect", "model.sparsec"],
                                       *([name, "--help"] for name in ("compile", "run", "bench", "inspect"))])
def test_output_fits_80_columns(folder, arguments):
    out = sparsec(*(folder / a if a.startswith("model.") else a for a in arguments))
    assert max(map(len, out.splitlines())) <= 80


def test_inspect_lists_the_layers_of_shared_and_recurrent_weights(tmp_path):
    onnx.save(model("g (float[5,1,16] x) => (float[5,1,1,4] y) <float[16,16] w, float[1,16,16] i, float[1,4,4] p, "
                    "float[1,12,4] q, float[1,32] b> { s = Identity(w) a = MatMul(x, w) c = MatMul(a, s) "
                    "r = Concat<axis=1>(p, q) y = LSTM<hidden_size=4>(c, i, r, b) }"), tmp_path / "shared.onnx")
    proto = onnx.load(tmp_path / "shared.onnx")  # a bias of one row, as skl2onnx writes it, is none
    proto.graph.node.insert(3, onnx.helper.make_node("Add", ["c", "row"], ["d"]))
    proto.graph.node[-1].input[0] = "d"
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((1, 16), np.float32), "row"))
    proto.graph.node.append(onnx.helper.make_node("Gather", ["x", "places"], ["g"]))  # nor are numbers of rows
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 3), np.int64), "places"))
    onnx.save(proto, tmp_path / "shared.onnx")
    sparsec("inspect", tmp_path / "shared.onnx", "--json", tmp_path / "i.json")
    figures = json.loads((tmp_path / "i.json").read_text())
    assert [layer["weight"] for layer in figures["layers"]] == ["w", "w", "i", "r"]
    assert figures["totals"] == {"layers": 4, "weights": 576, "nonzeros": 576, "bytes": 4 * 576}


def test_every_command_is_in_the_readme():
    from sparsec.cli import COMMANDS

    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    assert [name for name in COMMANDS if f"sparsec {name}" not in readme] == []


def test_compile_takes_a_precision_and_a_limit_of_its_error(folder, tmp_path):
    sparsec("compile", folder / "model.onnx", "-o", tmp_path / "m.sparsec", "--precision", "bf16", "--max-error", "0.5",
            "--tune", "off", "--json", tmp_path / "m.json")
    figures = json.loads((tmp_path / "m.json").read_text())
    assert (figures["precision"], figures["verification"]["tolerance"]) == ("bf16", 0.5)
