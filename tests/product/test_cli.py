"""The command line: what each command prints, writes and refuses, with its exit code."""

import json
import re
from dataclasses import replace
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
from tests.support.cli import MODEL, sparsec, write_model
from tests.support.programs import signature_artifact
from tests.support.texts import model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with model.onnx, and model.sparsec compiled from it by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    write_model(folder / "model.onnx")
    out = sparsec("compile", folder / "model.onnx", "-o", folder / "model.sparsec", "--json", folder / "compile.json",
                  "--dump-ir", folder / "ir", "--tune", "off")
    (folder / "compile.txt").write_text(out)
    return folder


def test_compile_reports_formats_verification_and_sizes(folder):
    text, figures = (folder / "compile.txt").read_text(), json.loads((folder / "compile.json").read_text())
    assert "weights kept" in text
    assert "outputs match onnxruntime" in text
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


def damaged(folder, tmp_path):
    data = bytearray((folder / "model.sparsec").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.sparsec").write_bytes(data)
    return ["inspect", tmp_path / "damaged.sparsec"]


def another_machine(folder, tmp_path):
    artifact = signature_artifact()
    replace(artifact, manifest=replace(artifact.manifest, features=("avx1024",))).save(tmp_path / "other.sparsec")
    np.savez(tmp_path / "x.npz", x=np.zeros(1))
    return ["run", tmp_path / "other.sparsec", "-i", tmp_path / "x.npz", "-o", tmp_path / "y.npz"]


def wrong_input(array):
    def arguments(folder, tmp_path):
        np.savez(tmp_path / "x.npz", **array)
        return ["run", folder / "model.sparsec", "-i", tmp_path / "x.npz", "-o", tmp_path / "y.npz"]
    return arguments


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


def not_onnx(folder, tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    return ["compile", tmp_path / "text.onnx"]


def truncated(folder, tmp_path):
    (tmp_path / "short.onnx").write_bytes((folder / "model.onnx").read_bytes()[:1000])
    return ["compile", tmp_path / "short.onnx"]


def without_external_data(folder, tmp_path):
    onnx.save(onnx.load(folder / "model.onnx"), tmp_path / "big.onnx", save_as_external_data=True, location="big.data",
              size_threshold=0)
    (tmp_path / "big.data").unlink()
    return ["compile", tmp_path / "big.onnx"]


def unsupported(folder, tmp_path):
    text = MODEL.replace("a = Relu(h)", "a = Foo(h)")
    return ["compile", write_model(tmp_path / "foo.onnx", text=text)]


def archive(path):
    np.savez(path, x=np.zeros(1))
    return path


def objects(path):
    np.savez(path, x=np.array([[1.0], "two"], dtype=object))
    return path


def rows(path, count):
    np.save(path, np.zeros((count, 64), np.float32))
    return path


def other(path):
    onnx.save(model("g (float[1,4] z) => (float[1,4] y) { y = Relu(z) }"), path)
    return path


def otherwise(tmp_path):
    """A model of the same inputs and outputs that computes something else."""
    return write_model(tmp_path / "o.onnx", text=MODEL.replace("Relu", "Abs"))


def misfit(_folder, tmp_path):
    text = MODEL.replace("float[N, 64] x", 'float["n","w","h"] x').replace("h = MatMul(x, w)",
                                                                          "f = Flatten(x) h = MatMul(f, w)")
    return ["compile", write_model(tmp_path / "misfit.onnx", text=text), "--shape", "x:1,63,1"]


def bundled(path):
    path.write_bytes(b"SPARSECB" + bytes(200))
    return path


FAILURES = {
    "not ONNX": (1, not_onnx, "not an ONNX model"),
    "truncated": (1, truncated, "truncated or damaged"),
    "no external data": (1, without_external_data, "big.data"),
    "unsupported operator": (1, unsupported, "Foo"),
    "unknown target": (2, lambda f, _: ["compile", f / "model.onnx", "--target", "abacus"], "the targets are cpu"),
    "a target that is simulated alone": (2, lambda f, _: ["compile", f / "model.onnx", "--target", "spec2"],
                                         "`sparsec simulate MODEL --target spec2`"),
    "GPU without sparse tensor cores": (2, lambda f, _: ["compile", f / "model.onnx", "--target", "cuda-sm75"],
                                        "begin with sm_80"),
    "shape of no form": (2, lambda f, _: ["compile", f / "model.onnx", "--shape", "x=1,64"], "input:1,3,224,224"),
    "options as typed": (2, lambda f, _: ["compile", f / "model.onnx", "--codec", "f16"],
                         "--codec f16 with --optimize latency"),
    "one of an underscore": (1, lambda f, _: ["compile", f / "model.onnx", "--max-error", "0"], "a larger --max-error"),
    "missing file": (2, lambda f, _: ["compile", f / "nothing.onnx"], "does not exist"),
    "unknown flag": (2, lambda f, _: ["compile", f / "model.onnx", "--fast"], "--fast"),
    "no command": (2, lambda *_: ["fly"], "fly"),
    "profile of an artifact": (2, lambda f, _: ["bench", f / "model.sparsec", "--profile"], "ONNX model"),
    "profile in a GPU's precision": (2, lambda f, _: ["bench", f / "model.onnx", "--profile", "--precision", "fp16"],
                                     "choose one of fp32, bf16, int8"),
    "precision of an artifact": (2, lambda f, _: ["bench", f / "model.sparsec", "--precision", "bf16"], "--precision"),
    "precision of formats": (2, lambda f, _: ["bench", f / "model.onnx", "--formats", "all", "--precision", "bf16"],
                             "--precision"),
    "formats on a GPU": (2, lambda f, _: ["bench", f / "model.onnx", "--formats", "all", "--target", "cuda-sm80"],
                         "choose a cpu target"),
    "batch of fixed rows": (2, lambda f, _: ["bench", f / "model.onnx", "--batch", "8"], "symbolic first dimension"),
    "batch of an artifact": (2, lambda f, _: ["bench", f / "model.sparsec", "--batch", "8"], "--dim and --shape say"),
    "streams of a profile": (2, lambda f, _: ["bench", f / "model.onnx", "--profile", "--streams", "2"], "--streams"),
    "sizes that do not fit": (2, misfit, "x:1,63,1 does not fit the network: "),
    "not an .npz": (2, lambda f, t: ["run", f / "model.sparsec", "-i", f / "model.onnx", "-o", t / "y.npz"],
                   "numpy.savez"),
    "more threads than compiled for": (2, lambda f, _: ["bench", f / "model.sparsec", "--threads", "2"],
                                       "--threads 2, but the artifact was compiled for 1 thread"),
    "outputs of no known kind": (2, lambda f, t: ["run", f / "model.sparsec", "-o", t / "y.txt"],
                                 "y.txt: outputs are written as .npz or .npy; name it y.npz"),
    "wrong name": (2, wrong_input({"z": np.zeros((1, 64), np.float32)}), "takes the inputs 'x'"),
    "wrong shape": (2, wrong_input({"x": np.zeros((2, 64), np.float32)}), "(1, 64)"),
    "wrong dtype": (2, wrong_input({"x": np.zeros((1, 64))}), "float32"),
    "flipped byte": (1, damaged, "compile the model again"),
    "another CPU": (1, another_machine, "--target cpu"),
    "no artifact but a zip": (1, lambda _, t: ["inspect", archive(t / "x.npz")],
                              "x.npz holds arrays (x), as --input takes them, and is neither an ONNX model nor a"),
    "arrays of objects": (2, lambda f, t: ["run", f / "model.sparsec", "-i", objects(t / "o.npz")],
                          "o.npz: 'x' holds Python objects; store numbers, such as x.astype(numpy.float32)"),
    "no folder to write to": (2, lambda f, t: ["run", f / "model.sparsec", "-o", t / "no" / "y.npz"],
                              "its folder does not exist"),
    "no folder to strip to": (2, lambda f, t: ["strip", f / "model.onnx", "-o", t / "no" / "m.onnx"],
                              "its folder does not exist"),
    "no folder to quantise to": (2, lambda f, t: ["quantize", f / "model.onnx", "--inputs", archive(t / "x.npz"), "-o",
                                                  t / "no" / "m.onnx"], "its folder does not exist"),
    "the model as its artifact": (2, lambda f, _: ["compile", f / "model.onnx", "-o", f / "model.onnx"],
                                  "the model itself"),
    "a dimension of nothing": (2, lambda f, _: ["compile", f / "model.onnx", "--dim", "n=0"], "nothing to compute"),
    "arrays that do not fit a bench": (2, lambda f, t: ["bench", f / "model.sparsec", "-i", archive(t / "x.npz")],
                                       "of shape (1, 64)"),
    "arrays that do not fit a model": (2, lambda f, t: ["bench", f / "model.onnx", "-i", archive(t / "x.npz")],
                                       "'x' is of type float64, and"),
    "arrays of a size that the model has not": (2, lambda f, t: ["bench", f / "model.onnx", "-i", rows(t / "x.npy", 2)],
                                                "dimension 0 of input 'x' is 1, not 2"),
    "sizes beside arrays": (2, lambda f, t: ["run", f / "model.sparsec", "-i", archive(t / "x.npz"), "--dim", "n=1"],
                            "leave --shape and --dim out"),
    "a dimension that is none": (2, lambda f, _: ["run", f / "model.sparsec", "--dim", "n=1"], "no dimension 'n'"),
    "a model beside a model": (2, lambda f, _: ["bench", f / "model.onnx", "--model", f / "model.onnx"],
                               "beside an artifact"),
    "beside another model": (2, lambda f, t: ["bench", f / "model.sparsec", "--model", other(t / "o.onnx")],
                             "compiled from another model"),
    "beside a model that answers otherwise": (1, lambda f, t: ["bench", f / "model.sparsec", "--model", otherwise(t)],
                                              "was not compiled from"),
    "tuning of an artifact": (2, lambda f, _: ["bench", f / "model.sparsec", "--tune", "off"], "--tune is for an ONNX"),
    "a layer misspelt": (2, lambda f, _: ["explain", f / "model.onnx", "--layer", "MatMul"],
                         "no layer 'MatMul'; nearest are"),
    "a dimension of none simulated": (2, lambda f, _: ["simulate", f / "model.onnx", "--dim", "n=1"],
                                      "no input has a dimension"),
    "samples not given": (2, lambda f, t: ["prune", f / "model.onnx", "-o", t / "m.onnx"], "give --inputs"),
    "an artifact to compile": (1, lambda f, _: ["compile", f / "model.sparsec"], "a compiled artifact, and this takes"),
    "an artifact to quantise": (1, lambda f, t: ["quantize", f / "model.sparsec", "--inputs", archive(t / "x.npz")],
                                "a compiled artifact"),
    "an artifact beside an artifact": (1, lambda f, _: ["bench", f / "model.sparsec", "--model", f / "model.sparsec"],
                                       "a compiled artifact"),
    "an artifact to prune": (1, lambda f, t: ["prune", f / "model.sparsec", "--inputs", archive(t / "x.npz"),
                                              "--sparsity", "0.5", "-o", t / "m.onnx"], "a compiled artifact"),
    "a folder that takes no files": (2, lambda f, _: ["compile", f / "model.onnx", "-o", "/proc/m.sparsec"],
                                     "nothing can be written to /proc"),
    "a bundle where nothing can be": (2, lambda f, _: ["bundle", f / "model.sparsec", "-o", "/proc/bundle"],
                                      "nothing can be written to /proc"),
    "text from no decoder": (2, lambda f, _: ["generate", f / "model.sparsec", "--prompt", "some words"],
                             "the model has no input 'input_ids'"),
    "a bundle's model": (1, lambda _, t: ["run", bundled(t / "model.bundle")], "is the model of a bundle"),
    "nowhere to write": (2, lambda f, t: ["inspect", f / "model.onnx", "--json", t / "no" / "x.json"], "x.json"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_bad_input_is_refused_in_one_line(folder, tmp_path, name):
    code, arguments, message = FAILURES[name]
    error = sparsec(*arguments(folder, tmp_path), code=code)
    assert message in error
    assert error.count("\n") == 1 or error.startswith("Usage:")
    assert not (tmp_path / "y.npz").exists()


def test_every_command_is_in_the_readme():
    from sparsec.cli import COMMANDS

    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    assert [name for name in COMMANDS if f"sparsec {name}" not in readme] == []


def test_compile_takes_a_precision_and_a_limit_of_its_error(folder, tmp_path):
    sparsec("compile", folder / "model.onnx", "-o", tmp_path / "m.sparsec", "--precision", "bf16", "--max-error", "0.5",
            "--tune", "off", "--json", tmp_path / "m.json")
    figures = json.loads((tmp_path / "m.json").read_text())
    assert (figures["precision"], figures["verification"]["tolerance"]) == ("bf16", 0.5)
