"""Bundles build with a C++17 compiler and run without Python: answers, and errors of the C interface."""

import json
import os
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sparsec
from sparsec.cli import app
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.portable import pack
from sparsec.errors import UsageError
from sparsec.native.bundle import MODEL, SIZES, SOURCES, write_bundle
from sparsec.native.model_file import model_bytes
from tests.native.conftest import DIGITS
from tests.support.bundles import link, run
from tests.support.texts import model

MOST_BYTES = 12 << 20  # of a bundle without its weights
HERE = Path(__file__).parent


def test_the_example_gives_the_sessions_answer_in_an_empty_environment(bundle, artifact, tmp_path):
    x = np.random.default_rng(0).standard_normal((1, 784)).astype(np.float32)
    x.tofile(tmp_path / "x.bin")
    done = run(bundle / "build" / "run", bundle / "digits" / MODEL, "--inputs", tmp_path / "x.bin", "-o",
               tmp_path / "y.bin", environment={})
    assert done.returncode == 0, done.stderr
    assert "input input [1, 784]" in done.stdout
    expected = sparsec.InferenceSession(artifact).run(None, {"input": x})[0]
    assert (tmp_path / "y.bin").read_bytes() == expected.tobytes()


def test_the_example_takes_every_open_size_by_its_name(bundle, tmp_path):
    network = model("g (float[n,m,4] x, float[n,k,4] c) => (float[n,t,3] y) <float[4,3] w> "
                    "{ j = Concat<axis=1>(x, c) y = MatMul(j, w) }")
    artifact = sparsec.compile(network, tune="off", verify=False)
    (tmp_path / "m.bundle").write_bytes(model_bytes(artifact))
    feeds = {"x": np.ones((2, 3, 4), np.float32), "c": np.ones((2, 5, 4), np.float32)}
    for name, array in feeds.items():
        array.tofile(tmp_path / name)
    sizes = ["--size", "n=2", "--size", "m=3"]
    call = ["--inputs", tmp_path / "x", tmp_path / "c", "-o", tmp_path / "y"]
    for last in ("k=5", "c.1=5"):
        done = run(bundle / "build" / "run", *sizes, "--size", last, tmp_path / "m.bundle", *call, environment={})
        assert done.returncode == 0, done.stderr
        expected = sparsec.InferenceSession(artifact).run(None, feeds)[0]
        assert (tmp_path / "y").read_bytes() == expected.tobytes()
    wrong = run(bundle / "build" / "run", *sizes, "--size", "rows=5", tmp_path / "m.bundle", environment={})
    assert (wrong.returncode, wrong.stderr) == (2, "run: --size rows=5: the model has the open sizes k, m, n\n")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_wrapper_takes_any_number_of_inputs_in_a_list(tmp_path, count):
    if not shutil.which("c++"):
        pytest.skip("needs a C++ compiler")
    (tmp_path / "list.cpp").write_text(f"""#include <sparsec.hpp>
        void all(const sparsec::Session &session, float *x) {{
          session.run({{{', '.join(["sparsec::tensor(x, {1, 2})"] * count)}}}); }}""")
    done = run("c++", "-std=c++17", "-fsyntax-only", "-Wall", "-I", SOURCES / "include", tmp_path / "list.cpp")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["often"], ["2", "more"], ["--inputs", "x.bin"],
                                   ["--inputs", "x.bin", "y.bin", "-o"]])
def test_the_example_refuses_words_that_it_does_not_know(bundle, words):
    done = run(bundle / "build" / "run", bundle / "digits" / MODEL, *words, environment={})
    assert (done.returncode, "the bytes of one input" in done.stderr) == (2, True), done.stderr


@pytest.mark.skipif(not os.environ.get("SPARSEC_LONG") or not shutil.which("valgrind"),
                    reason="takes half a minute, and valgrind")
def test_valgrind_sees_no_read_of_what_nobody_has_written(bundle, tmp_path):
    model = sparsec.compile(DIGITS, target="cpu-avx2", tune="off", verify=False)  # valgrind knows no AVX-512
    (tmp_path / "m.bundle").write_bytes(model_bytes(model))
    done = run("valgrind", "--error-exitcode=9", bundle / "build" / "run", tmp_path / "m.bundle")
    assert done.returncode == 0, done.stderr


def test_calls_that_must_fail_say_why(bundle, tmp_path):
    whole = (bundle / "digits" / MODEL).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-100])
    link("cc", HERE / "calls.c", bundle=bundle, output=tmp_path / "calls")
    done = run(tmp_path / "calls", bundle / "digits" / MODEL, tmp_path / "cut", bundle / "owner.pub",
               bundle / "other.pub", environment={})
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_a_bundle_is_small_and_says_how_large(bundle):
    sizes = json.loads((bundle / "digits" / SIZES).read_text())
    files = {str(path.relative_to(bundle / "digits")): path.stat().st_size
             for path in (bundle / "digits").rglob("*") if path.is_file() and path.name != SIZES}
    assert sizes["files"] == files
    assert sum(sizes["bytes"].values()) - sizes["bytes"]["model"] < MOST_BYTES


def test_the_librarys_version_is_the_packages():
    version = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    assert f'"{version}"' in (SOURCES / "src" / "version.hpp").read_text()


def test_a_folder_of_something_else_is_left_alone(artifact, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="not a bundle"):
        write_bundle(artifact, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_what_is_not_for_processors_is_refused(tmp_path):
    network = model("g (float[2,4] x) => (float[2,3] y) <float[4,3] w> { y = MatMul(x, w) }")
    for made, message in ((sparsec.compile(network, target="eie", tune="off", verify=False), "run on processors"),
                          (pack(network, CompileOptions()), "without --portable")):
        with pytest.raises(UsageError, match=message):
            write_bundle(made, tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()


def test_the_command_writes_a_bundle_and_its_sizes(artifact, tmp_path):
    artifact.save(tmp_path / "m.sparsec")
    folder = tmp_path / "b's"
    done = CliRunner().invoke(app, ["bundle", str(tmp_path / "m.sparsec"), "-o", str(folder), "--json",
                                    str(tmp_path / "sizes.json")])
    assert done.exit_code == 0, done.output
    source, build = (shlex.quote(f"{folder}{each}") for each in ("", "/build"))
    assert f"cmake -S {source} -B {build} && cmake --build {build}\n" in done.output
    assert "runtime libraries" in done.output
    told = json.loads((tmp_path / "sizes.json").read_text())
    assert told["bytes"] == json.loads((folder / SIZES).read_text())["bytes"]
