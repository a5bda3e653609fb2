"""Wrong uses of the command line: each ends with its exit code and one line that says what is wrong."""

from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.support.cli import MODEL, sparsec, write_model
from tests.support.programs import signature_artifact
from tests.support.texts import model


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


def wrong_input(array):
    def arguments(folder, tmp_path):
        np.savez(tmp_path / "x.npz", **array)
        return ["run", folder / "model.sparsec", "-i", tmp_path / "x.npz", "-o", tmp_path / "y.npz"]
    return arguments


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
